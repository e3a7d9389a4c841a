# SPDX-License-Identifier: Apache-2.0
"""One run of a unit: assemble the parts, start the threads, drive the pipeline, stop clean.

Threads: this one runs the pipeline; the uplink, housekeeping and, for live cameras, the capture hand-off
have their own. At the end, after the frame in hand, the event ``stopping`` is queued, the uplink flushes, and
everything is closed within two seconds. What was not delivered stays in the outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

import agent
from agent import pipeline
from agent.audit.chain import Fact, Kind
from agent.camera.base import Frame
from agent.camera.supervise import CameraNotice
from agent.config.schema import Config
from agent.detect.second_try import SecondTry
from agent.detect.track import MAX_MISSED_NS, Tracker
from agent.door.challenge import Prompt
from agent.embed.records import EMBEDDING_DIM
from agent.errors import PosternError, RetryError
from agent.gallery.records import Erased
from agent.gallery.references import References
from agent.keys import UnitKey
from agent.match.decide import Decider
from agent.match.measured_range import MeasuredRange
from agent.match.presence import Presence, PresenceChange
from agent.match.records import Match
from agent.mqtt.credentials import load_identity
from agent.protocol.event import Condition
from agent.protocol.subject import SubjectId
from agent.protocol.topics import Topics
from agent.timing import StageTimes
from agent.unit import assemble, facts
from agent.unit.at_the_door import Door, make_gate
from agent.unit.configuring import Configuring
from agent.unit.confirm import Confirming
from agent.unit.console import ConsoleDone, ConsoleSide
from agent.unit.epochs import load_epoch_keys
from agent.unit.forget import Forgetting
from agent.unit.housekeeping import Duties, Housekeeping
from agent.unit.key_files import KeptFiles
from agent.unit.liveness import make_liveness
from agent.unit.loading import begin_models
from agent.unit.log import Problems, tell_times, tell_uplink
from agent.unit.looking import make_cadence, make_change_test
from agent.unit.pause import Pause
from agent.unit.recorder import Identity, Recorder
from agent.unit.start_log import digest_of, log_start, tell_asked
from agent.unit.stores import open_stores, source_of
from agent.unit.world import World
from agent.uplink.health import HealthReporter
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import Uplink

if TYPE_CHECKING:
    from agent.unit.models import Models

log = logging.getLogger("postern")

AUDITED: Mapping[Condition, Kind] = {"clock_step": "clock_step", "storage_low": "storage_error", "tamper": "tamper"}


class Service:
    """The assembled unit."""

    def __init__(self, config: Config, world: World, stack: ExitStack, configuring: Configuring | None = None) -> None:
        """Open and check all; ``stack`` closes it, ``configuring`` has what the site set. Raises PosternError."""
        self._config, self._world, self._problem = config, world, Problems(world.clock)
        self._configuring = configuring or Configuring(config, world.clock)
        self._clock = clock = world.clock
        self._erased, self._withheld = SimpleQueue[SubjectId](), SimpleQueue[SubjectId]()
        self._paused = Pause(KeptFiles(config.outbox.path).pause)
        self._frames = 0
        key, loaded = assemble.load_key(config), begin_models(config)
        self._stores = stores = stack.enter_context(open_stores(config, key, clock, random=world.random))
        models = loaded()
        policy = assemble.load_policy(config, models)
        self._policy, self._model, self._range = policy, models.embedder.model, MeasuredRange(policy)
        self._facts = {"version": agent.__version__, "config": digest_of(config), "policy": policy.digest}
        self._facts |= {"model": self._model, "kid": key.kid}
        self._confirming = Confirming(stores.ageing, stores.generation, stores.audit, clock)
        self._forgetting = Forgetting(
            stores.gallery,
            stores.outbox,
            stores.audit,
            stores.rights,
            on_withheld=self._withheld.put,
            on_erased=self._on_erased,
            on_done=stores.generation.advance,
            on_problem=self._problem,
        )
        self._epoch_keys, self._mailbox = load_epoch_keys(config), Mailbox()
        self._decider, self._presence = Decider(policy), Presence(hold_ns=config.events.presence_hold_s * 1_000_000_000)
        self.times = StageTimes(pipeline.STAGES)
        registrar = assemble.make_registrar(config, models, policy, stores, clock=clock, random=world.random)
        answers, gate = assemble.make_answers(config, key), make_gate(config)
        self._enrolment = assemble.make_enrolment(
            config, registrar, gate, self._mailbox, answers, clock=clock, random=world.random
        )
        self._forgetting.settle(doubted=stores.generation.doubted())
        self._verification = assemble.make_verification(self._mailbox, clock, answers)
        self._door = Door(
            config,
            gate,
            stores.rights,
            world.lines,
            clock=clock,
            verification=self._verification,
            to_panels=world.panels,
            card_of=assemble.make_cards(config, world.random),
            check_token=assemble.make_token_check(config, self._model, stores, clock),
            on_problem=self._problem,
        )
        stack.callback(self._door.close)
        done = ConsoleDone(stores.generation.advance, self._log, self._problem)
        self._console = ConsoleSide(config, models.detector, self._enrolment, self._door, world, done)
        self._liveness = make_liveness(config, models.detector, models.pad, random=world.random, prompt=self._prompt)
        self._endings = assemble.make_endings(config, clock, weeks=self._weeks)
        self._recorder = self._make_recorder(self._facts["policy"])
        self._camera = world.open_source(
            config.camera, lores_size=models.detector.input_size, clock=clock, on_notice=self._on_camera
        )
        self._stages = pipeline.Stages(
            camera=self._camera,
            change=make_change_test(config),
            cadence=make_cadence(config),
            detector=models.detector,
            second_try=SecondTry(),
            tracker=Tracker(),
            gate=gate,
            embedder=models.embedder,
            references=self._references,
            decider=self._decider,
            liveness=self._liveness,
            presence=self._presence,
            record=self._record,
            enrol=self._console.offer,
            enrolling=lambda: self._console.busy,
            read=self._read,
            acting=self._door.see,
            times=self.times,
        )
        health = self._make_health(key)
        side = assemble.command_side(
            config,
            stores,
            self._forgetting,
            policy=policy,
            detector=models.detector.model,
            configuring=self._configuring,
            epoch_keys=self._epoch_keys,
            enrolment=self._enrolment,
            verification=self._verification,
            request=self._door.request,
            paused=self._paused,
            health=health.build,
            log=self._log,
            answers=answers,
            clock=clock,
            random=world.random,
        )
        self._uplink = self._make_uplink(side, health, info=partial(self._info, key, models, tuple(side.handlers)))
        changed = partial(self._log, "config_changed")
        self._configuring.attach(lambda: self._frames, lambda: self._uplink.connected, changed)
        self._housekeeping = Housekeeping(
            Duties(
                retry=self._recorder.retry,
                remind=self._endings.look,
                configure=self._configuring.look,
                sweep=self._forgetting.sweep,
                expire=lambda: stores.outbox.expire(stores.ageing.known()),
                disk_free=partial(world.disk_free, config.outbox.path.parent),
                unit_event=self._on_condition,
                on_problem=self._problem,
            ),
            clock=clock,
        )

    def run(self, keep_going: Callable[[], bool]) -> None:
        """Start everything, drive the pipeline while ``keep_going`` says so, stop everything."""

        def idle() -> bool:
            self._take_erasures()
            self._enrolment.expire()
            self._look_at_the_door()
            return keep_going()

        began_ns = framed_ns = self._clock.monotonic_ns()

        def waiting() -> bool:
            if self._clock.monotonic_ns() - framed_ns > MAX_MISSED_NS:  # no track lives on, and none is told to die
                self._forget_faces()
            return idle()

        def after_frame() -> bool:
            nonlocal framed_ns
            self._frames, framed_ns = self._frames + 1, self._clock.monotonic_ns()
            self._uplink.proceed()
            return idle()

        log_start(self._stores.audit, self._facts)
        self._recorder.unit("started")
        tell_asked(self._stores, self._policy, self._clock, self._on_condition)
        with self._world.background(self._uplink, self._housekeeping, self._door.outputs):
            try:
                with self._camera:
                    self._mailbox.info_changed()  # now it can say which camera
                    self._camera.while_waiting = waiting
                    self._console.start()
                    pipeline.run(self._stages, keep_going=after_frame)
            finally:
                self._forget_faces()
                self._stages.change.forget()
                self._console.stop()
                self._door.close()
                self._housekeeping.stop()
                self._enrolment.interrupt("stopping", "the unit stops; nothing was stored")
                self._recorder.unit("stopping")
                self._log("stopped")
        if self._config.profile == "demo":
            tell_times(self._frames, (self._clock.monotonic_ns() - began_ns) / 1e9, self._stages)

    def check_ended(self) -> None:
        """Raise RetryError while a thread of this run is left: beside it no other may begin, only a new process."""
        own = (self._uplink.thread, self._housekeeping.thread, *self._console.threads)
        left = [one.name for one in own if one.is_alive()]
        if left:
            raise RetryError(f"{' and '.join(left)} did not end in time: the unit ends, and has to be started anew")

    def _forget_faces(self) -> None:
        self._decider.forget_all()
        self._liveness.forget_all()

    def _make_recorder(self, policy: str) -> Recorder:
        config = self._config
        return Recorder(
            Identity(
                audience=config.events.audience,
                policy=policy,
                model=self._model,
                time_step_s=config.events.time_resolution_s,
                seal=assemble.make_seal(config),
            ),
            outbox=self._stores.outbox,
            epoch_keys=self._epoch_keys,
            clock=self._clock,
            settled=self._stores.ageing.settled,
            presence=config.events.presence,
            matched=self._stores.gallery.matched,
            appended=self._mailbox.wake,
            on_problem=self._problem,
        )

    def _make_health(self, key: UnitKey) -> HealthReporter:
        return HealthReporter(
            source=source_of(self._config),
            boot=self._stores.outbox.boot,
            signer=key,
            clock=self._clock,
            outbox=self._stores.outbox,
            frames=lambda: self._frames,
            recognition=lambda: "paused" if self._recognises_nobody() else "running",
            temperature=self._world.temperature,
            disk_free=partial(self._world.disk_free, self._config.outbox.path.parent),
            audit_head=lambda: str(self._stores.audit.head()),
            asks=self._confirming.asks,
            epochs=self._weeks,
            certificate_days=self._endings.days_left,
            configuration=self._configuring.state,
        )

    def _weeks(self) -> int:
        return self._epoch_keys.left(self._config.events.audience, self._clock.now())

    def _make_uplink(self, side: assemble.CommandSide, health: HealthReporter, info: Callable[[], bytes]) -> Uplink:
        config = self._config
        credentials = assemble.credentials_of(config)
        load_identity(credentials, self._clock, common_name=config.unit.id)  # a human must hear of it now, not later
        topics = Topics(config.unit.site, config.unit.id)
        discovery = assemble.make_unit_discovery(config, topics)
        return Uplink(
            assemble.uplink_settings(config, credentials),
            outbox=self._stores.outbox,
            mailbox=self._mailbox,
            clock=self._clock,
            random=self._world.random,
            info=info,
            on_request=side.commands.handle,
            on_notice=tell_uplink,
            health=health.build,
            discovery=discovery,
            unwanted=() if discovery is not None else (topics.discovery,),
            connect=self._world.connect,
        )

    def _info(self, key: UnitKey, models: Models, verbs: tuple[str, ...]) -> bytes:
        return facts.make_info(
            self._config,
            key,
            models,
            self._policy,
            camera=self._camera.known(),
            enrolled=len(self._stores.gallery),
            verbs=verbs,
            update=self._world.went_back(),
        )

    def _look_at_the_door(self) -> None:
        """Between frames: was a button pressed, did a question end, what is there to show."""
        if self._door.between_frames(enrolling=self._enrolment.capturing, press=self._enrolment.press):
            self._begin_act()
        self._door.show(self._enrolment.asked)

    def _begin_act(self) -> None:
        self._decider.begin_act()
        self._liveness.forget_all()  # each act has a challenge of its own

    def _read(self, frame: Frame) -> None:
        """Look for a token that somebody holds up, while somebody could be recognised."""
        if not self._recognises_nobody() and self._door.read(frame.main):
            self._begin_act()

    def _prompt(self, prompt: Prompt | None) -> None:
        """What somebody is to do whose liveness is checked; the door shows it."""
        self._door.prompt(prompt)
        self._world.prompt(prompt)

    def _record(self, outcome: Match | PresenceChange) -> None:
        """What was decided, to whom it concerns; a face whose liveness was checked and failed is nobody's match."""
        if isinstance(outcome, PresenceChange):
            self._recorder.outcome(outcome)
        elif outcome.liveness != "failed":
            self._recorder.outcome(outcome, self._door.matched(outcome))

    def _references(self) -> References:
        """The gallery of this moment; nobody's while recognition is paused, so that nobody is embedded."""
        if self._recognises_nobody():
            self._door.drop_token()
            return References((), np.zeros((0, EMBEDDING_DIM), np.float32), self._model)
        if (carried := self._door.carried) is not None:
            return carried
        references = self._stores.gallery.references(self._model, self._policy.formerly)
        if (asked := self._verification.subject) is not None:  # one person alone is compared with
            return references.only(asked)
        self._range.look(len(references.subjects))
        return references

    def _recognises_nobody(self) -> bool:
        return self._paused.is_set() or self._enrolment.capturing or self._stores.generation.doubted()

    def _take_erasures(self) -> None:
        """Make the pipeline forget who was erased or whose time is over; runs on its thread, between frames."""
        while not self._withheld.empty():
            subject = self._withheld.get_nowait()
            self._decider.forget_subject(subject)
            self._presence.forget_subject(subject)
        while not self._erased.empty():
            subject = self._erased.get_nowait()
            self._door.drop_token()
            self._decider.forget_subject(subject)
            self._liveness.forget_subject(subject)
            self._presence.forget_subject(subject)
            self._recorder.forget(subject)
            try:  # once more: a match that was being decided meanwhile may have been queued
                self._forgetting.once_more(subject)
            except PosternError as error:
                self._problem(error)

    def _on_erased(self, erased: Erased) -> None:
        self._erased.put(erased.subject)
        self._enrolment.forget_subject(erased.subject)
        log.info("a reference was erased (%s)", erased.receipt.reason)

    def _on_condition(self, condition: Condition) -> None:
        if condition in AUDITED:
            self._log(AUDITED[condition], {"condition": condition})
        self._recorder.unit(condition)

    def _log(self, kind: Kind, facts: Mapping[str, Fact] | None = None) -> None:
        try:
            self._stores.audit.append(kind, facts)
        except PosternError as error:
            self._problem(error)

    def _on_camera(self, notice: CameraNotice) -> None:
        log.warning("%s: %s", notice.kind, notice.reason)
        self._recorder.unit(notice.kind)
        if notice.kind == "camera_lost":
            self._enrolment.interrupt("camera_lost", "the camera was lost: begin again once it is back")
        self._mailbox.info_changed()
