# SPDX-License-Identifier: Apache-2.0
"""Settings that the site sends a running unit: tried, then kept, or taken back by the unit itself.

What comes is verified and compared with the unit's own file before anything is written. Then one file says what is on
trial and what comes back if it does not do; so a kill or a power cut at any point leaves the unit with the settings of
before, or with the new ones on trial. A trial begins with a reload, as SIGHUP does, and ends well once the unit has
seen pictures and the broker for ``STEADY_S`` in a row. Otherwise it ends after ``TRIAL_S``, at a start that fails, or
after ``STARTS`` starts that ended before; then the former settings come back, and health says why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from agent.audit.chain import Fact
from agent.clock import Clock
from agent.config.schema import Config
from agent.config.site_settings import Settings, digest_of_settings
from agent.config.told import Chosen, Told, check_chosen, read_told, whose, with_chosen, write_told
from agent.errors import ConfigError, RefusedError, StorageError, VerificationError, printable
from agent.keys import load_public_key
from agent.parse.strict_json import convert
from agent.protocol.configuration import Configuration, read_configuration
from agent.protocol.health import ConfigurationState
from agent.unit.key_files import UnitFiles
from agent.unit.mandate import take_mandate

log = logging.getLogger("postern")

TRIAL_S: Final = 300  # a camera that has to be found and a broker that is restarted have come back by then
STEADY_S: Final = 20  # of pictures and a session in a row: longer than a camera that stalls takes to be called lost
PICTURE_S: Final = 5  # between two pictures at most: a slow camera and a busy processor take more than a second
STARTS: Final = 3  # that a trial may have, its first included
MAX_WHY: Final = 400  # characters
_BECOMES: Final = {"trying": "is on trial", "applied": "is kept", "refused": "is refused"}  # of rollbacks more is said

Log = Callable[[Mapping[str, Fact]], None]


class Configuring:
    """What the site set at one unit, over all its runs; ``local`` is what the unit's own file says.

    ``asked`` is set to have the configuration read again. ``take`` runs on the uplink's thread, ``look`` on
    housekeeping's, the rest on the pipeline's.
    """

    def __init__(self, local: Config, clock: Clock) -> None:
        self.local = local
        self.asked = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._told = read_told(local)
        self._running: Chosen | None = None
        self._unsaid: list[Mapping[str, Fact]] = []  # between two runs no audit log is open
        self._log: Log = self._unsaid.append
        self._pictures: Callable[[], int] = lambda: 0
        self._connected: Callable[[], bool] = lambda: False
        self._began_ns = clock.monotonic_ns()
        self._well_ns: int | None = None
        self._seen = 0
        self._pictured_ns: int | None = None

    def begin(self) -> Config:
        """What the next run works on. Where settings are on trial this is one of their starts."""
        with self._lock:
            told = self._told
            if told is not None and told.starts is not None:
                if told.starts == 0:
                    self._log = self._unsaid.append
                    self._roll_back(f"the unit ended {STARTS} times before it was well")
                else:
                    try:
                        self._keep(msgspec.structs.replace(told, starts=told.starts - 1))
                    except StorageError as error:  # a start that cannot be counted is none to try anything at
                        self._log = self._unsaid.append
                        self._roll_back(str(error))
            self._began_ns, self._well_ns = self._clock.monotonic_ns(), None
            self._seen, self._pictured_ns = 0, None
            self._running = self._force()
            return with_chosen(self.local, self._running)

    def following(self, local: Config) -> Config:
        """What a run with another file would work on."""
        with self._lock:
            return with_chosen(local, self._force())

    def attach(self, pictures: Callable[[], int], connected: Callable[[], bool], log: Log) -> None:
        """Tell how the run that begins does: how many pictures it has seen, and whether it has a session."""
        self._pictures, self._connected, self._log = pictures, connected, log
        for facts in self._unsaid:
            log(facts)
        self._unsaid.clear()

    def failed(self, why: str, *, state: Literal["refused", "rolled_back"]) -> bool:
        """Whether settings on trial were taken back because of ``why``, so that it is worth beginning again."""
        with self._lock:
            if self._told is None or self._told.starts is None:
                return False
            begun = self._has_begun()
            if state == "rolled_back":  # by a run that is over
                self._log = self._unsaid.append
            self._roll_back(why, state)
            if begun and state == "refused":  # by what runs; who rolls back at a start begins again by itself
                self.asked.set()
            return True

    def waits(self) -> bool:
        """Whether settings that came are to be tried, and no run has begun with them."""
        with self._lock:
            return self._told is not None and self._told.starts is not None and not self._has_begun()

    def look(self) -> None:
        """Once a second: whether a trial has ended, well or not. Raises StorageError."""
        with self._lock:
            told = self._told
            if told is None or told.starts is None or not self._has_begun():  # how the run before does says nothing
                return
            now_ns = self._clock.monotonic_ns()
            if (seen := self._pictures()) != self._seen:
                self._seen, self._pictured_ns = seen, now_ns
            lacks = self._lacks(told, now_ns)
            if lacks is None:
                self._well_ns = now_ns if self._well_ns is None else self._well_ns
                if now_ns - self._well_ns >= STEADY_S * 1_000_000_000:
                    self._keep(msgspec.structs.replace(told, state="applied", before=None, starts=None))
                    self._say("applied")
                return
            self._well_ns = None
            if now_ns - self._began_ns < TRIAL_S * 1_000_000_000:
                return
            self._roll_back(f"{lacks} {TRIAL_S} seconds after the change")
        self.asked.set()

    def state(self) -> ConfigurationState | None:
        """For health: how the last settings fared."""
        with self._lock:
            told = self._told
            if told is None:
                return None
            state, why = told.state, told.why
            if state == "applied" and told.force is not None:
                try:
                    check_chosen(self.local, told.force)
                except ConfigError as error:  # the unit's own file was changed since
                    state, why = "refused", _short(str(error))
            return ConfigurationState(told.serial, told.digest, state, why)

    def take(self, token: str) -> Mapping[str, Any]:
        """Try what the site sent. Raises RefusedError with the line that the unit does not take, and StorageError."""
        files, unit, mandates = UnitFiles(self.local.keys.folder), self.local.unit, [0]
        read = read_configuration(
            token.strip(),
            load_public_key(files.site_jwk),
            site=unit.site,
            unit=unit.id,
            now=self._clock.now() if self._clock.state() == "synced" else None,
            on_mandate=mandates.append,
        )
        chosen = _chosen(read)
        with self._lock:
            told, mandate = self._told, mandates[-1]
            if told is not None:
                _check_serial(told, chosen, mandate)
                if told.starts is not None:
                    raise RefusedError(
                        f"configuration {told.serial} is on trial here, for {TRIAL_S} seconds at most: send this then",
                        reason="busy",
                    )
            if mandate:
                take_mandate(files.mandate, mandate)
            fresh = Told(
                v=1,
                serial=chosen.serial,
                digest=chosen.digest,
                mandate=mandate,
                state="trying",
                force=chosen,
                before=None if told is None else told.force,
                starts=STARTS,
                of=whose(self.local),
                pictures=self._pictures() > 0,
            )
            try:
                check_chosen(self.local, chosen)
            except ConfigError as error:
                former = {"force": fresh.before, "before": None, "starts": None}
                self._keep(msgspec.structs.replace(fresh, state="refused", why=_short(str(error)), **former))
                self._say("refused")
                raise RefusedError(str(error), reason="bad_configuration") from None
            if fresh.before is not None and fresh.before.digest == chosen.digest:
                self._keep(msgspec.structs.replace(fresh, state="applied", before=None, starts=None))
                return {"configuration": "applied", "serial": chosen.serial}
            self._keep(fresh)
            self._say("trying")
        self.asked.set()
        return {"configuration": "trying", "serial": chosen.serial, "seconds": TRIAL_S}

    def _force(self) -> Chosen | None:
        return None if self._told is None else self._told.force

    def _has_begun(self) -> bool:
        return self._running is not None and self._running == self._force()

    def _lacks(self, told: Told, now_ns: int) -> str | None:
        """What keeps the unit from being well; None when nothing does."""
        if not self._connected():
            return "there was no session with the broker"
        recent = self._pictured_ns is not None and now_ns - self._pictured_ns <= PICTURE_S * 1_000_000_000
        if told.pictures and not recent:
            return "there was no picture of the camera"
        return None

    def _roll_back(self, why: str, state: Literal["refused", "rolled_back"] = "rolled_back") -> None:
        """Have the former settings back, in memory also where the disk does not take it."""
        if self._told is None:
            return
        told = msgspec.structs.replace(
            self._told, state=state, why=_short(why), force=self._told.before, before=None, starts=None
        )
        log.warning("the settings that the site sent (serial %d) were taken back: %s", told.serial, told.why)
        try:
            self._keep(told)
        except StorageError as error:
            self._told = told
            log.warning("this is not on the disk yet: %s", error)
        self._say(state)

    def _keep(self, told: Told) -> None:
        write_told(self.local, told)
        self._told = told

    def _say(self, state: str) -> None:
        if (told := self._told) is None:
            return
        self._log({"what": "site", "serial": told.serial, "state": state})
        if (becomes := _BECOMES.get(state)) is not None:
            log.info("configuration %d of the site %s%s", told.serial, becomes, f": {told.why}" if told.why else "")


def _chosen(read: Configuration) -> Chosen:
    """Settings as this release knows them. VerificationError ``malformed`` for others."""
    try:
        settings = convert(read.settings, Settings)
        return convert(
            {
                "serial": read.serial,
                "digest": digest_of_settings(settings),
                "settings": msgspec.to_builtins(settings),
                "file": printable(read.file),
                "lines": read.lines,
            },
            Chosen,
        )
    except msgspec.ValidationError:
        raise VerificationError(
            "malformed", "the configuration says what this release cannot be told: upgrade the unit, then send it again"
        ) from None


def _check_serial(told: Told, chosen: Chosen, mandate: int) -> None:
    """Refuse what is older than the newest that came; a newer mandate ends what a stolen one numbered."""
    newer = chosen.serial > told.serial or (chosen.serial == told.serial and chosen.digest == told.digest)
    if not newer and not mandate > told.mandate > 0:
        raise VerificationError(
            "replayed", f"this unit knows configuration {told.serial}, which is newer: send the newest"
        )


def _short(why: str) -> str:
    return printable(why.replace("\n", "; "), MAX_WHY - 1)
