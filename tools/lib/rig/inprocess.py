# SPDX-License-Identifier: Apache-2.0
"""A whole unit in this process, on a simulated clock: the same scenario gives the same events, byte for byte.

Everything is the product's own: pipeline, gallery, outbox, uplink, commands, housekeeping, reload. The rig gives it its
world: the clock, the camera's view, chance from a seed, a simulated broker. What the unit does on threads is done when
it is due on the clock.
"""

from __future__ import annotations

import logging
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.camera.source import open_source
from agent.door import outputs as outputs_module
from agent.door.outputs import Outputs
from agent.errors import PosternError, VerificationError
from agent.mqtt.records import Incoming
from agent.outbox.numbers import Head
from agent.parse.strict_json import decode
from agent.protocol.command import Command
from agent.protocol.event import MatchData, PresenceData
from agent.protocol.pseudonym import Resolver
from agent.protocol.response import RESPONSE_TYPE, SignedResponse
from agent.protocol.topics import Topics
from agent.site.operator import VALIDITY_S, sign_command
from agent.subscribe.verify import VerifiedEvent, Verifier
from agent.unit.configuring import Configuring
from agent.unit.housekeeping import TICK_S, Housekeeping
from agent.unit.reload import Reload
from agent.unit.service import Service
from agent.unit.world import World, shown_nowhere
from agent.uplink.health import read_disk_free
from agent.uplink.session import Uplink
from tools.lib.demo.site import SITE, UNIT
from tools.lib.rig import faults
from tools.lib.rig.board import Board, BoardLines, line_of
from tools.lib.rig.camera import SceneView, source_of
from tools.lib.rig.clock import AgendaClock
from tools.lib.rig.installation import Installation, disk_bytes
from tools.lib.rig.link import Published, SimulatedBroker
from tools.lib.rig.outcome import Arrival, Measured, Run
from tools.lib.rig.process import TORN_BYTES, head_of, tear
from tools.lib.rig.scenario import Scenario

TURN_S = 0.02  # of the uplink: finer than any latency that a scenario asks for
MAX_FLUSH_S = 120.0  # of simulated time: the longest wait between two attempts to connect has half of it
RESTART_S = 2.0  # from the end of a unit to its next start


class Died(BaseException):
    """The unit was killed: nothing in it may catch this."""


class InProcess:
    """One scenario, once."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        self._clock = AgendaClock(scenario.start, scenario.clock)
        script = scenario.scene or folder / "view.yaml"
        if scenario.script is not None:  # the buttons of a scene are read from its file
            folder.mkdir(parents=True, exist_ok=True)
            script.write_text(yaml.safe_dump(msgspec.to_builtins(scenario.script)))
        self._unit = Installation(
            folder / "unit", seed=scenario.seed, start=scenario.start, changes=self._changes(), scene=script
        )
        self._lives = 1
        self._broker = SimulatedBroker(self._clock, self._on_message)
        self._verifier = Verifier(self._unit.trusted())
        self._people: dict[bytes, str] = {}
        self._bearers: dict[bytes, str] = {}
        self._heads: list[Head] = []  # what the unit had signed at each of its deaths and at its end
        self._log: list[str] = []
        self._board = Board(lambda: self._clock.monotonic_ns() / 1e9)
        self._run = Run("in-process", heads=self._heads, log=self._log, pulses=self._board.pulses, answers=[])
        self._embeddings = 0
        self._plugged, self._disk_full, self._dead, self._again = True, False, False, False
        self._was_down = False  # the broker, when the unit died
        self._flushing_to: int | None = None  # the last event of the scenario, while another start delivers it
        self._service: Service | None = None
        self._commands = 0
        view = scenario.view()
        if view is not None:
            view, self._bearers = self._unit.issue_tokens(scenario.tokens, view)
        self._view = None if view is None else SceneView(view, self._clock, plugged=lambda: self._plugged)

    def run(self) -> Run:
        """Play it to its end; raises PosternError only for what the scenario itself gets wrong."""
        began = time.monotonic()
        # What is wrong with it from the start is the scenario's mistake, and no refusal to go on.
        self._reload = Reload(Configuring(self._unit.config(), self._clock), self._unit.config, self._clock)
        for one in self._scenario.enrolled:
            subject = self._unit.enrol(one.who, clock=self._clock, expires_at=one.expires_at)
            self._people[bytes.fromhex(subject)] = one.who
        self._people |= self._bearers
        acts = self._acts()
        for fault in self._scenario.faults:
            self._clock.after(fault.at, partial(acts[type(fault)], fault))
            if isinstance(fault, faults.Lasting):
                self._clock.after(fault.until, partial(self._end, fault))
        with _logged(self._log):
            try:
                while self._live():
                    self._clock.sleep(RESTART_S)
            except PosternError as error:
                self._run.ended = str(error)
            finally:
                self._fill_disk(full=False)
        files = self._unit.stores()
        self._heads.append(head_of(files[0]))
        if self._run.ended is None:
            self._flush(self._heads[-1].seq)
        self._run.measured = Measured(embeddings=self._embeddings, disk_bytes=disk_bytes(files))
        self._run.seconds = time.monotonic() - began
        return self._run

    # -- one life ------------------------------------------------------------------------------------

    def _live(self) -> bool:
        """From start to stop or death; whether there is another life."""
        self._again = False
        try:
            with ExitStack() as stack:
                self._service = Service(self._unit.config(), self._world(), stack)
                self._service.run(self._keep_going)
        except Died:
            self._dead, self._broker.down = False, self._was_down
            self._again = True
        finally:
            if self._service is not None:
                embed = self._service.times.summaries().get("embed")  # missing when none was made
                self._embeddings += embed.count if embed is not None else 0
                self._service = None
        return self._reload.take() is not None or self._again

    def _flush(self, last: int) -> None:
        """What a clean stop had no time to send the next start sends; what that says of itself is another matter."""
        if not self._has_come(last):
            self._flushing_to = last
            with _logged([]):
                self._live()
            self._run.arrivals = [one for one in self._run.arrivals if one.event.event.data.seq <= last]

    def _has_come(self, seq: int) -> bool:
        return any(one.event.event.data.seq >= seq for one in self._run.arrivals)

    def _world(self) -> World:
        return World(
            clock=self._clock,
            random=self._unit.random,
            open_source=open_source
            if self._view is None
            else source_of(self._view, threaded=False, random=self._unit.random),
            connect=self._broker.connect,
            background=self._on_the_clock,
            disk_free=lambda folder: 0 if self._disk_full else read_disk_free(folder),
            temperature=lambda: None,
            lines=BoardLines(self._board),
            prompt=shown_nowhere if self._view is None else self._view.obedient.prompt,
        )

    @contextmanager
    def _on_the_clock(self, uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
        """What ``World.background`` does with threads: here when it is due."""
        entries = [self._clock.every(TURN_S, uplink.turn), self._clock.every(TICK_S, housekeeping.tick)]
        entries.append(self._clock.every(outputs_module.TICK_S, outputs.tick))
        try:
            yield
        finally:
            for entry in entries:
                entry.cancelled = True
            self._broker.patient = True
            uplink.stop()
            self._broker.patient = False

    def _keep_going(self) -> bool:
        seconds = self._clock.monotonic_ns() / 1e9
        over = seconds >= self._scenario.seconds
        if self._flushing_to is not None:
            over = self._has_come(self._flushing_to) or seconds >= self._scenario.seconds + MAX_FLUSH_S
        return not over and not self._again and not self._reload.is_due()

    # -- what goes wrong -----------------------------------------------------------------------------

    def _acts(self) -> dict[type[faults.Fault], Callable[[Any], None]]:
        """What begins with each kind of fault."""
        broker = self._broker
        return {
            faults.BrokerDown: lambda _: setattr(broker, "down", True),
            faults.LinkRefused: lambda _: setattr(broker, "down", True),
            faults.LinkSilent: lambda _: setattr(broker, "silent", True),
            faults.AnswersLost: lambda _: setattr(broker, "deaf", True),
            faults.LinkSlow: lambda fault: setattr(broker, "delay_s", fault.delay_ms / 1000),
            faults.LinkCut: lambda _: broker.cut(),
            faults.CameraUnplugged: lambda _: setattr(self, "_plugged", False),
            faults.DiskFull: lambda _: self._fill_disk(full=True),
            faults.ClockStep: lambda fault: self._clock.step_wall(fault.seconds, fault.clock),
            faults.Withdraw: lambda fault: self._command("subject/revoke", {"subject": self._subject(fault.who)}),
            faults.Press: lambda fault: self._board.press(fault.line),
            faults.PressKey: lambda fault: self._board.press(line_of(fault.device, fault.key)),
            faults.Request: lambda _: self._command("recognition/request", {}),
            faults.Verify: lambda fault: self._command(
                "verify", {"subject": self._subject(fault.who), "window_s": fault.window_s}
            ),
            faults.ModelAltered: lambda _: flip_a_bit(self._unit.folder / "models" / "embedder.tflite"),
            faults.Restart: lambda _: setattr(self, "_again", True),
            faults.Reload: lambda fault: self._change(fault.set),
            faults.Kill: lambda _: self._die(torn=False),
            faults.PowerCut: lambda _: self._die(torn=True),
        }

    def _end(self, fault: faults.Fault) -> None:
        if isinstance(fault, faults.CameraUnplugged):
            self._plugged = True
        elif isinstance(fault, faults.DiskFull):
            self._fill_disk(full=False)
        else:
            self._broker.heal()

    def _die(self, *, torn: bool) -> None:
        """Go on with what the disk holds now; what the old process still does on its way out reaches nobody."""
        if self._service is None:
            return  # it is down at this moment anyway
        self._lives += 1
        self._unit.copy_to(self._unit.folder.with_name(f"unit-{self._lives}"))
        outbox, *_ = self._unit.stores()
        self._heads.append(head_of(outbox))
        if torn:
            tear(outbox, self._unit.random(TORN_BYTES))
        self._dead, self._was_down, self._broker.down = True, self._broker.down, True
        raise Died

    def _change(self, values: Mapping[str, object]) -> None:
        self._unit.change(values)
        self._reload.asked.set()

    def _fill_disk(self, *, full: bool) -> None:
        self._disk_full = full
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else hard, hard))

    def _subject(self, who: str) -> str:
        return next(subject for subject, person in self._people.items() if person == who).hex()

    def _command(self, verb: str, args: dict[str, Any]) -> None:
        self._commands += 1
        issued = int(self._clock.now().timestamp())
        command = Command(
            site=SITE,
            unit=UNIT,
            verb=verb,
            cmd_seq=self._commands,
            issued_at=issued,
            expires_at=issued + VALIDITY_S,
            transaction=f"rig-{self._commands}",
            args=args,
        )
        topic = f"{Topics(SITE, UNIT).base}/request/{command.verb}"
        token = sign_command(self._unit.site_key, command)
        self._broker.commands.append(Incoming(topic, token, retained=False))

    # -- what arrives --------------------------------------------------------------------------------

    def _on_message(self, message: Published) -> None:
        if not self._dead and message.topic.split("/")[3:] == ["response", "verify"]:
            self._hear(message.payload)
        if self._dead or not {"event", "backlog"} & set(message.topic.split("/")[3:4]):
            return
        self._run.messages.append((message.topic, message.payload))
        try:
            event = self._verifier.check(message.topic, message.payload, self._clock.now())
        except VerificationError as error:
            self._run.refused[error.reason] += 1
            return
        at_s = self._clock.monotonic_ns() / 1e9
        self._run.arrivals.append(Arrival(event, at_s, self._who(event), len(message.payload)))

    def _hear(self, payload: bytes) -> None:
        """Keep the word with which a question was answered."""
        content = self._unit.unit_key.public.verify(payload.decode(), typ=RESPONSE_TYPE)
        data = decode(content, SignedResponse, len(content)).data or {}
        if data.get("state") == "answered" and self._run.answers is not None:
            self._run.answers.append(str(data["answer"]))

    def _who(self, event: VerifiedEvent) -> str:
        data = event.event.data
        if not isinstance(data, MatchData | PresenceData):
            return ""
        resolver = Resolver(self._unit.epoch_key(data.epoch), self._people)
        subject = resolver.resolve(data.subject, audience=data.audience, epoch=data.epoch)
        return self._people.get(subject or b"", "somebody unknown")

    def _changes(self) -> dict[str, object]:
        if self._scenario.video is None:
            return self._scenario.changes()
        camera = {"source": "file", "path": str(self._scenario.video), "realtime": True}
        return {"camera": camera, **self._scenario.changes()}


def play_here(scenario: Scenario, folder: Path) -> Run | str:
    """Play it in ``folder``; a sentence when that needs a process of its own."""
    if scenario.needs_process:
        return "needs a process of its own: a slow disk is loaded into it (--target service)"
    return InProcess(scenario, folder).run()


def flip_a_bit(file: Path) -> None:
    """What a worn card or a careless hand does to a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    fresh = shutil.copy(file, file.with_suffix(".new"))
    Path(fresh).write_bytes(content)
    Path(fresh).replace(file)


@contextmanager
def _logged(lines: list[str]) -> Iterator[None]:
    """What the unit logs, as lines."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("postern"), Keep()
    level, spreads = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = spreads
