# SPDX-License-Identifier: Apache-2.0
"""``postern run`` as a process with a real Mosquitto, on the machine's own time.

One site and one unit serve all scenarios of a run: the chain of events goes on from one to the next, as in service.
Between the unit and the broker stands ``FaultyProxy``. Scenarios that set the clock, unplug the camera or start the
unit again in the middle of a scene run it by ``tools.lib.rig.unit``, all others by ``program`` itself.
"""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import rfc8785
import yaml

from agent.camera.scene.script import SceneScript
from agent.config.load import load_config
from agent.gallery.template import Vector
from agent.keys import SigningKey, UnitKey
from agent.notices.notice import notice_id
from agent.outbox.epoch_keys import save
from agent.outbox.numbers import Head
from agent.protocol.event import MatchData, PresenceData
from agent.protocol.pseudonym import Resolver, epochs_from
from agent.protocol.subject import SUBJECT_BYTES
from agent.protocol.token import ID_BYTES, TOKEN_KEY_BYTES
from agent.site import units
from agent.site.programs import issue_client
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import VerifiedEvent
from agent.unit.assemble import load_key
from agent.unit.key_files import UnitFiles
from agent.unit.models import load_models
from agent.unit.stores import open_gallery
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import PROGRAM, ROOT, SITE, UNIT, DemoSite, postern
from tools.lib.rig import faults
from tools.lib.rig.asking import OPERATOR, Asking
from tools.lib.rig.board import Board, Pulse, line_of, serve
from tools.lib.rig.clock import OffsetClock, say_offset
from tools.lib.rig.disk import SlowDisk
from tools.lib.rig.enrolment import captures, consent
from tools.lib.rig.inprocess import flip_a_bit
from tools.lib.rig.installation import AUDIENCE, apply, disk_bytes, stores
from tools.lib.rig.listener import Listener
from tools.lib.rig.outcome import Arrival, Measured, Run
from tools.lib.rig.process import POSTERN, TORN_BYTES, UnitProcess, Usage, head_of
from tools.lib.rig.proxy import FaultyProxy
from tools.lib.rig.scenario import DEFAULT_START, Scenario
from tools.lib.rig.tokens import Desk, in_view
from tools.lib.rig.unit import BEGAN, BOARD, CLOCK, CONTROL, UNPLUGGED

CONTROLLED = (sys.executable, "-m", "tools.lib.rig.unit")
SLACK_S = 2.0  # of a machine that does something else as well: what is later than that, the unit is late with
START_TIMEOUT_S = 120.0
OWN_END_S = 15.0  # for a service whose scene is over to stop by itself
LAST_EVENTS_S = 40.0
LOOK_S = 0.2  # how finely the rig looks at the time and at the unit
EMBEDDED = re.compile(r"stage embed: (\d+) times")
STARTS_AGAIN = (faults.Kill, faults.PowerCut, faults.Restart)


class Premises:
    """Site, broker, link, unit and listener; made once, used for every scenario."""

    def __init__(
        self, folder: Path, *, program: tuple[str, ...] = POSTERN, typed: Callable[..., str] = postern
    ) -> None:
        """``typed`` runs the commands by which the site is made (``DemoSite``)."""
        self.site = DemoSite(folder / "site", typed=typed)
        self.control = folder / "control"
        self.clock_file = folder / "listener.json"  # the subscriber lives at the time at which the scenario starts
        self._program = program
        self._stack = ExitStack()
        self._taken: dict[str, list[Vector]] = {}

    def __enter__(self) -> Self:
        site, stack = self.site, self._stack
        self.control.mkdir(parents=True)
        say_offset(self.clock_file, 0.0, "synced")
        site.folder.mkdir()
        site.create()
        issue_client(site.site.folder, OPERATOR, "operator")
        self.broker = stack.enter_context(DemoBroker(site.site, site.folder / "broker"))
        self.link = stack.enter_context(FaultyProxy(self.broker.port))
        self.scene = site.folder / "scene.yaml"
        self.scene.write_text("duration: 1\n")
        site.add_unit(port=self.link.port, protocol=self.broker.protocol, scene=self.scene)
        self.broker.reload(site.site)
        self.board = Board(time.monotonic)
        stack.enter_context(serve(self.board, self.control / BOARD))
        clock = OffsetClock(self.clock_file)
        listener = Listener.of_program(site.site, PROGRAM, name=SITE, port=self.broker.port, clock=clock)
        self.listener = stack.enter_context(listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def play(self, scenario: Scenario) -> Run | str:
        """Play it in real time; a sentence when this target cannot."""
        again = any(isinstance(one, STARTS_AGAIN) for one in scenario.faults)
        controlled = scenario.needs_clock or scenario.needs_camera or scenario.needs_board or scenario.needs_obedience
        controlled = controlled or again
        if controlled and (self._program != POSTERN or scenario.video is not None):
            return "needs a clock, a camera, wires or a start in the middle that this unit does not let a rig control"
        if scenario.needs_process and not SlowDisk.available():
            return "needs a C compiler (cc) for the slow disk"
        return _Play(self, scenario, CONTROLLED if controlled else self._program).run()

    def captures_of(self, who: str) -> list[Vector]:
        """What an enrolment session takes of a demo person; once a run."""
        if who not in self._taken:
            self._taken[who] = captures(who, load_models(load_config(self.site.config)))
        return [vector.copy() for vector in self._taken[who]]


class _Play:
    """One scenario."""

    def __init__(self, premises: Premises, scenario: Scenario, program: tuple[str, ...]) -> None:
        self._premises, self._scenario = premises, scenario
        self._site, self._link, self._broker = premises.site, premises.link, premises.broker
        self._outbox = self._site.unit / "outbox.db"
        self._stores: list[Path] = []
        self._disk_before = 0
        self._unit = UnitProcess(self._site.config, outbox=self._outbox, program=program)
        self._controlled = program == CONTROLLED
        self._slow = SlowDisk(premises.control)
        self._heads: list[Head] = []
        self._people: dict[bytes, str] = {}
        self._weeks = self._shift()
        self._usage: list[Usage] = []  # of the unit, as often as the rig looks
        slack_s = SLACK_S if scenario.slack_s is None else scenario.slack_s
        clock = OffsetClock(premises.control / CLOCK)
        self._asking = Asking(self._site, self._broker.port, clock)
        self._premises.board.pulses.clear()
        self._answers: list[str] = []
        self._run = Run("service", slack_s=slack_s, heads=self._heads, answers=self._answers)

    def run(self) -> Run:
        began = time.monotonic()
        self._prepare()
        before, mark = head_of(self._outbox), len(self._premises.listener.received())
        self._run.after = before.seq
        ready = self._start()
        try:
            self._follow(ready)
            status = self._unit.wait(0 if self._controlled else OWN_END_S)  # a scene that ends, ends the service
            status = self._unit.stop() if status is None else status
        finally:
            self._heal()
            self._unit.kill()
        if status != 0:
            self._run.ended = " ".join(line for line in self._unit.log if line.startswith("postern: ")) or None
        self._run.status = status
        self._heads.append(self._unit.head())
        self._run.log = list(self._unit.log)
        if self._controlled:
            self._run.pulses = [
                Pulse(one.line, one.on_s - ready, None if one.off_s is None else one.off_s - ready)
                for one in self._premises.board.pulses
            ]
        self._collect(ready, mark)
        self._run.measured = self._measured()
        self._run.seconds = time.monotonic() - began
        return self._run

    # -- before --------------------------------------------------------------------------------------

    def _shift(self) -> timedelta:
        """Whole weeks from the scenario's start to its next occurrence: certificates are of today."""
        ahead = datetime.now(UTC) - self._scenario.start
        return timedelta(weeks=ahead // timedelta(weeks=1) + 1 if self._scenario.start != DEFAULT_START else 0)

    def _prepare(self) -> None:
        scenario, site = self._scenario, self._site
        shutil.rmtree(site.unit / "models", ignore_errors=True)
        shutil.copytree(ROOT / "models", site.unit / "models")
        view = scenario.view()
        if view is not None:
            view = self._issue_tokens(view)
            self._premises.scene.write_text(yaml.safe_dump(msgspec.to_builtins(view)))
        site.write_config(site.config, port=self._link.port, protocol=self._broker.protocol, scene=self._premises.scene)
        changes: dict[str, Any] = {"models.manifest": "models/manifest.yaml", "broker.home_assistant": False}
        if scenario.video is not None:  # and no button of a scene
            changes |= {"camera": {"source": "file", "path": str(scenario.video), "realtime": True}, "enrolment": {}}
        self._change({**changes, **scenario.changes()})
        for name in (BEGAN, UNPLUGGED):
            (self._premises.control / name).unlink(missing_ok=True)
        self._set_clocks()
        self._enrol()

    def _issue_tokens(self, view: SceneScript) -> SceneScript:
        """What people hold up who are not enrolled here, and what the unit needs to read it."""
        if not self._scenario.tokens:
            return view
        start, site_key = datetime.now(UTC), SigningKey.load(self._site.site.site_key)
        desk = Desk(UnitKey.generate(), site_key, start=start, seed_key=secrets.token_bytes(TOKEN_KEY_BYTES))
        model = load_models(load_config(self._site.config)).embedder.model
        for token in self._scenario.tokens:
            captures, chance = self._premises.captures_of(token.who), secrets.token_bytes(SUBJECT_BYTES + ID_BYTES)
            subject, made = desk.issue(token, captures, model=model, chance=chance)
            view, self._people[subject] = in_view(view, token, made), token.who
        desk.hand_over(UnitFiles(self._site.unit / "keys"))
        return view

    def _set_clocks(self) -> None:
        """Unit and subscriber to the scenario's start, and the epoch keys to that time."""
        start, offset_s = datetime.now(UTC), 0.0
        if self._weeks:
            start = self._scenario.start + self._weeks
            offset_s = (start - datetime.now(UTC)).total_seconds()
        say_offset(self._premises.control / CLOCK, offset_s, self._scenario.clock)
        say_offset(self._premises.clock_file, offset_s, "synced")
        self._offset_s = offset_s
        keys = [units.epoch_key(self._site.site.folder, AUDIENCE, epoch) for epoch in epochs_from(start)]
        save(self._site.unit / "keys" / "epoch-keys.json", keys)

    def _enrol(self) -> None:
        config, clock = load_config(self._site.config), OffsetClock(self._premises.control / CLOCK)
        self._stores = stores(config)
        self._disk_before = disk_bytes(self._stores)
        model = load_models(config).embedder.model
        with open_gallery(config, load_key(config), clock) as gallery:
            gallery.erase_all()
            for one in self._scenario.enrolled:
                ends = None if one.expires_at is None else one.expires_at + self._weeks
                paper = secrets.token_hex()  # whoever was erased signs anew
                record = consent(clock.now(), ends, signed=paper, notice=notice_id(config))
                subject = gallery.enrol(self._premises.captures_of(one.who), consent=record, model=model)
                self._people[bytes(subject)] = one.who

    def _start(self) -> float:
        """Start the unit; when it had processed its first frame, or gave up."""
        with tempfile.TemporaryDirectory(prefix="postern-notify-") as folder:
            address = str(Path(folder) / "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(address)
                manager.settimeout(LOOK_S)
                self._unit.start(NOTIFY_SOCKET=address, **self._environment())
                end = time.monotonic() + START_TIMEOUT_S
                while time.monotonic() < end and self._unit.running:
                    with suppress(TimeoutError):
                        if b"READY=1" in manager.recv(4096):
                            break
                return time.monotonic()

    def _environment(self) -> dict[str, str]:
        slow = self._slow.environment() if self._scenario.needs_process else {}
        return {CONTROL: str(self._premises.control), **slow}

    # -- meanwhile -----------------------------------------------------------------------------------

    def _follow(self, began: float) -> None:
        """Do what the scenario says at its times, to its end."""
        acts, ends = self._acts(), self._ends()
        todo = [(one.at, acts[type(one)], one) for one in self._scenario.faults]
        todo += [
            (one.until, ends.get(type(one), self._mend), one) for one in self._scenario.faults if hasattr(one, "until")
        ]
        for at, act, fault in sorted(todo, key=lambda entry: entry[0]):
            self._wait(began + at)
            act(fault)
        self._wait(began + self._scenario.seconds)
        self._asking.join()

    def _wait(self, until: float) -> None:
        """As long as the unit runs; it may have come to its end by itself."""
        while (left := until - time.monotonic()) > 0 and self._unit.running:
            self._usage += [usage] if (usage := self._unit.usage()) is not None else []
            time.sleep(min(left, LOOK_S))

    def _acts(self) -> dict[type[faults.Fault], Callable[[Any], object]]:
        """What begins with each kind of fault."""
        link, unit = self._link, self._unit
        return {
            faults.BrokerDown: lambda _: self._broker.stop(),
            faults.LinkRefused: lambda _: self._refuse(),
            faults.LinkSilent: lambda _: setattr(link, "silent", True),
            faults.AnswersLost: lambda _: setattr(link, "deaf", True),
            faults.LinkSlow: lambda fault: setattr(link, "delay_s", fault.delay_ms / 1000),
            faults.LinkCut: lambda _: link.cut(),
            faults.CameraUnplugged: lambda _: (self._premises.control / UNPLUGGED).touch(),
            faults.DiskFull: lambda _: unit.fill_disk(full=True),
            faults.DiskSlow: lambda fault: self._slow.delay(fault.delay_ms),
            faults.ClockStep: self._step,
            faults.Withdraw: lambda fault: self._asking.ask("subject/revoke", {"subject": self._subject(fault.who)}),
            faults.Press: lambda fault: self._premises.board.press(fault.line),
            faults.PressKey: lambda fault: self._premises.board.press(line_of(fault.device, fault.key)),
            faults.Request: lambda _: self._asking.ask("recognition/request", {}),
            faults.Verify: lambda fault: self._asking.verify(self._subject(fault.who), fault.window_s, self._answers),
            faults.ModelAltered: lambda _: flip_a_bit(self._site.unit / "models" / "embedder.tflite"),
            faults.Restart: lambda _: self._again(unit.stop),
            faults.Reload: lambda fault: self._reload(fault.set),
            faults.Kill: lambda _: self._again(unit.kill),
            faults.PowerCut: lambda _: self._again(unit.kill, torn=True),
        }

    def _ends(self) -> dict[type[faults.Fault], Callable[[Any], None]]:
        return {
            faults.BrokerDown: lambda _: self._broker.start(),
            faults.CameraUnplugged: lambda _: (self._premises.control / UNPLUGGED).unlink(missing_ok=True),
            faults.DiskFull: lambda _: self._unit.fill_disk(full=False),
            faults.DiskSlow: lambda _: self._slow.delay(0),
        }

    def _mend(self, _: object) -> None:
        self._link.heal()

    def _heal(self) -> None:
        """End what the scenario left broken."""
        self._link.heal()
        self._unit.fill_disk(full=False)
        if not self._broker.running:
            self._broker.start()

    def _refuse(self) -> None:
        self._link.refuse = True
        self._link.cut()

    def _step(self, fault: faults.ClockStep) -> None:
        self._offset_s += fault.seconds
        say_offset(self._premises.control / CLOCK, self._offset_s, fault.clock)

    def _again(self, end: Callable[[], int], *, torn: bool = False) -> None:
        end()
        self._heads.append(self._unit.head())
        if torn:
            self._unit.tear(secrets.token_bytes(TORN_BYTES))
        self._unit.start(**self._environment())

    def _change(self, changes: Mapping[str, Any]) -> None:
        content: dict[str, Any] = yaml.safe_load(self._site.config.read_text())
        apply(content, changes)
        self._site.config.write_text(yaml.safe_dump(content, sort_keys=False))

    def _reload(self, changes: Mapping[str, Any]) -> None:
        self._change(changes)
        self._unit.reload()

    def _subject(self, who: str) -> str:
        return next(subject for subject, person in self._people.items() if person == who).hex()

    # -- afterwards ----------------------------------------------------------------------------------

    def _collect(self, began: float, mark: int) -> None:
        """Take what arrived; what the unit had no time to send, its next start sends."""
        head = self._heads[-1]
        listener = self._premises.listener
        if head.seq > self._run.after and not listener.wait_for(UNIT, head.seq, LAST_EVENTS_S):
            self._premises.scene.write_text("duration: 3\n")
            self._set_clocks()
            flush = UnitProcess(self._site.config, outbox=self._outbox, program=POSTERN)
            flush.start()
            listener.wait_for(UNIT, head.seq, LAST_EVENTS_S)
            flush.stop()
        for one in listener.received()[mark:]:
            if isinstance(one.outcome, Refusal):
                self._run.refused[one.outcome.reason] += 1
            elif self._run.after < one.outcome.event.data.seq <= head.seq:
                size = len(rfc8785.dumps(msgspec.to_builtins(one.outcome.event)))
                at_s = max(one.at_s - began, 0.0)
                self._run.arrivals.append(Arrival(one.outcome, at_s, self._who(one.outcome), size))

    def _who(self, event: VerifiedEvent) -> str:
        data = event.event.data
        if not isinstance(data, MatchData | PresenceData):
            return ""
        key = units.epoch_key(self._site.site.folder, data.audience, data.epoch)
        subject = Resolver(key, self._people).resolve(data.subject, audience=data.audience, epoch=data.epoch)
        return self._people.get(subject or b"", "somebody unknown")

    def _measured(self) -> Measured:
        """The most that the unit held at once, what the disk holds more, and the embeddings that it counted."""
        measured = Measured(disk_bytes=disk_bytes(self._stores) - self._disk_before)
        if not any(isinstance(one, faults.Kill | faults.PowerCut) for one in self._scenario.faults):
            measured.embeddings = sum(int(found[1]) for line in self._unit.log if (found := EMBEDDED.search(line)))
        if self._usage:
            measured.memory_mib = -(-max(one.resident_kib for one in self._usage) // 1024)
            measured.together_mib = -(-max(one.together_kib for one in self._usage) // 1024)
            measured.threads = max(one.threads for one in self._usage)
            measured.open_files = max(one.files for one in self._usage)
        return measured
