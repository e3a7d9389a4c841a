# SPDX-License-Identifier: Apache-2.0
"""What the running unit does for its web console.

How it is opened from afar or by a person at the unit is ``console_open``'s; here are the first start, once, where the
configuration names a code, and the unit's button, for aiming alone: whoever can press that could otherwise enrol
themselves. Without the section ``console`` there is none of this.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.audit.chain import Fact, Kind
from agent.camera.base import Frame
from agent.config.drawn import draw
from agent.config.schema import Config
from agent.console.opening import Opening, digest_of_code, make_code
from agent.detect.track import Track
from agent.disk.files import write_atomic
from agent.door.acts import Inputs, Request
from agent.errors import PosternError, RefusedError
from agent.gallery.consent import MAX_CONSENT_DAYS, AgeClass, ConsentRecord
from agent.notices.notice import make_notice
from agent.parse.strict_json import convert
from agent.protocol.names import Digest
from agent.unit.at_the_door import Door, make_input
from agent.unit.consenting import DEFAULT_DAYS, make_record
from agent.unit.console_open import open_console
from agent.unit.desk import Act, Desk, corners_in, reread
from agent.unit.enrolment import LiveEnrolment
from agent.unit.key_files import KeptFiles
from agent.unit.world import World

if TYPE_CHECKING:
    from agent.detect.detector import Detector
    from agent.unit.watching import Watching

log = logging.getLogger("postern")

FRAME_S: Final = 2.0  # to wait for a frame: longer than any camera that works takes between two


class _Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the console knows of a consent: digests of what was signed, made in the browser."""

    evidence: Digest
    age_class: AgeClass = "of_age"
    guardian: Digest | None = None
    days: int = DEFAULT_DAYS


class ConsoleDone(msgspec.Struct, frozen=True):
    """What becomes of what was done: a new number for the unit's files, an entry of the audit log, a problem's line."""

    advance: Callable[[], None]
    log: Callable[[Kind, Mapping[str, Fact]], object]
    on_problem: Callable[[PosternError], None]


class ConsoleSide:
    """See the module; ``offer`` belongs to the pipeline's thread, everything else to the desk's."""

    def __init__(
        self,
        config: Config,
        detector: Detector,
        enrolment: LiveEnrolment,
        door: Door,
        world: World,
        done: ConsoleDone,
    ) -> None:
        """Raise DeviceLostError when the button cannot be used."""
        self._config, self._enrolment, self._door = config, enrolment, door
        self._clock, self._random = world.clock, world.random
        self._advance, self._log, self._on_problem = done.advance, done.log, done.on_problem
        self._begun = 0
        self._consent: ConsentRecord | None = None
        self._receipt: Mapping[str, Any] | None = None  # of who enrolled last, in this opening
        self._watching: Watching | None = None
        self._desk: Desk | None = None
        if (console := config.console) is None:
            return
        from agent.unit.watching import Watching  # noqa: PLC0415 - few units have a console

        clock = self._clock
        self._watching = Watching(config, detector, clock)
        wanted = () if console.button is None else (console.button,)
        makers = [partial(make_input, config, one, world.lines, clock, Request()) for one in wanted]
        self._desk = Desk(
            console,
            self._acts(self._watching),
            clock,
            noticed=self._notice,
            button=Inputs(makers, clock=clock, on_problem=self._on_problem),
            pressed=self._press,
            on_problem=self._on_problem,
        )

    @property
    def busy(self) -> bool:
        """Whether an enrolment takes captures or somebody looks at the picture, so that every frame is looked at."""
        return self._enrolment.capturing or (self._watching is not None and self._watching.watched)

    def offer(self, frame: Frame, tracks: Sequence[Track]) -> bool:
        """Show the console this frame, if somebody looks, then the enrolment; whether that took it."""
        if self._watching is not None:
            self._watching.offer(frame, tracks, capturing=self._enrolment.capturing)
        return self._enrolment.offer(frame, tracks)

    def start(self) -> None:
        """Open the console where this is the unit's first start and the configuration says so; answer from now on."""
        console = self._config.console
        if self._desk is None or console is None:
            return
        mark = KeptFiles(self._config.outbox.path).console_opened
        if console.first_boot_code is not None and not mark.exists():
            try:
                write_atomic(mark, b"the console was opened at the first start\n")
                open_console(self._config, self._clock, code=console.first_boot_code, scope="install", by="first_boot")
            except PosternError as error:
                self._on_problem(error)
        self._desk.start()

    def stop(self) -> None:
        if self._desk is not None and self._watching is not None:
            self._watching.close()
            self._desk.stop()

    @property
    def threads(self) -> tuple[threading.Thread, ...]:
        """What has to end before another run begins."""
        return () if self._desk is None else (self._desk.thread,)

    def _acts(self, watching: Watching) -> dict[str, Act]:
        return {
            "look": partial(self._look, watching),
            "notice": self._read_notice,
            "zone": self._draw,
            "enrol/begin": self._begin,
            "enrol/commit": self._commit,
            "enrol/abort": self._abort,
            "pulse": self._pulse,
        }

    def _notice(self, opening: Opening | None) -> None:
        self._receipt = None
        if opening is None:
            log.info("the console is closed")
            self._log("console", {"what": "closed"})
        else:
            log.warning(
                "the console is open for %d s, %s, by %s", opening.seconds_left(self._clock), opening.scope, opening.by
            )
            self._log("console", {"what": "opened", "by": opening.by, "scope": opening.scope})
        if opening is None or opening.by != "button":
            self._door.announce(None)

    def _press(self) -> None:
        code = make_code(self._random)
        try:
            told = open_console(self._config, self._clock, code=digest_of_code(code), scope="aim", by="button")
        except PosternError as error:
            self._on_problem(error)
        else:
            self._door.announce(f"{told['address']} code {code}")

    def _look(self, watching: Watching, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing(arguments)
        seen = watching.take(FRAME_S) or {"waiting": "no picture comes from the camera: see the checks"}
        return {**seen, "enrolment": self._progress(), "outputs": sorted(self._door.outputs.names)}

    def _progress(self) -> Mapping[str, Any] | None:
        if (last := self._enrolment.last(self._name)) is None:
            return None
        data, end = last
        return data if end is None else {"state": "ended", "advice": end[1]}

    def _read_notice(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing(arguments)
        return {"text": make_notice(self._config), "days": DEFAULT_DAYS, "most_days": MAX_CONSENT_DAYS}

    def _draw(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        draw(self._config, tuple(corners_in(arguments)))
        self._log("console", {"what": "zone"})
        return reread()

    @property
    def _name(self) -> str:
        return f"console-{self._begun}"

    def _begin(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            asked = convert(arguments, _Begin)
        except msgspec.ValidationError:
            raise RefusedError("choose the file that was signed, and how old the person says they are") from None
        consent = make_record(
            self._config,
            self._clock,
            evidence=asked.evidence,
            guardian=asked.guardian,
            days=asked.days,
            age_class=asked.age_class,
        )
        name = f"console-{self._begun + 1}"
        begun = self._enrolment.begin(name, consent)
        self._begun, self._consent, self._receipt = self._begun + 1, consent, None
        return begun

    def _commit(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The receipt; the same once more, because the answer to the first question may have come too late."""
        _nothing(arguments)
        if self._receipt is not None:
            return self._receipt
        done, consent = self._enrolment.commit(self._name), self._consent
        self._advance()
        unit = self._config.unit
        receipt = {**done, "site": unit.site, "unit": unit.id, "purpose": self._config.purpose}
        if consent is not None:
            receipt |= {
                "notice_version": consent.notice_version,
                "evidence": consent.evidence_digest,
                "given_at": _day(consent, timedelta()),
                "expires_at": _day(consent, consent.expires_at - consent.given_at),
            }
        self._receipt = receipt
        return receipt

    def _abort(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing(arguments)
        return self._enrolment.abort(self._name)

    def _pulse(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        match arguments:
            case {"output": str(name), **rest} if not rest and name in self._door.outputs.names:
                self._log("console", {"what": "pulse", "output": name})
                if not self._door.outputs.pulse(name):
                    raise RefusedError(f"{name} could not be switched: look at the wiring, and at the unit's log")
                return {"output": name, "state": "on"}
        raise RefusedError("this unit has no such output")


def _nothing(arguments: Mapping[str, Any]) -> None:
    if arguments:
        raise RefusedError("this takes no arguments")


def _day(consent: ConsentRecord, after: timedelta) -> str:
    return (consent.given_at + after).date().isoformat()
