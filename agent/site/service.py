# SPDX-License-Identifier: Apache-2.0
"""The site's service at the broker: hands each message to the desk, and sends what the desk gives back.

It may be killed at any moment and started again: the desk keeps nothing that the next health message does not tell.
While it is away units go on; they hold epoch keys for two more weeks, and certificates for months.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from agent.clock import Bounds, Clock, full_jitter
from agent.errors import BrokerError, PosternError, in_one_sentence
from agent.mqtt.connection import Connection
from agent.mqtt.lasting import Lasting
from agent.mqtt.records import BrokerSettings, Incoming
from agent.mqtt.refusals import ConnectionLostError
from agent.site.desk import Desk
from agent.site.handing import Letter
from agent.site.page import RELOAD_S
from agent.site.records import SERVICE

LISTEN_S: Final = 3.0  # for what the broker retains of the list, before another is put in its place
POLL_S: Final = 1.0  # also how long a stop may take
RECONNECT_S: Final = Bounds(0.5, 2.0, 60.0)
STABLE_S: Final = 90.0  # longer than any of these: whoever shares the certificate would have come back by then
CONNECTED: Final = "the site's service is connected to the broker"
MOVED: Final = "the site's broker is {}:{} now: the service goes on there"


class _Place(NamedTuple):
    """Where the broker is, and what is listened to at one of its kind."""

    settings: BrokerSettings
    filters: tuple[str, ...]


class SiteService:
    """One run of the service; ``tell`` is handed sentences for the journal."""

    def __init__(
        self,
        desk: Desk,
        at: BrokerSettings,
        reach: Callable[[], BrokerSettings],
        *,
        clock: Clock,
        random: Callable[[int], bytes],
        tell: Callable[[str], None],
        renew: Callable[[], None],
        show: Callable[[], None] | None = None,
        connect: Callable[..., Connection] = Connection,
    ) -> None:
        """``renew`` makes the service's own certificate anew where it has to be; ``show`` writes the page of units.

        The broker is ``at`` a place, and ``reach`` says where it is whenever asked: a move is followed.
        """
        self._reach, self._connect, self._place = reach, connect, _Place(at, desk.filters())
        self._desk, self._clock, self._random = desk, clock, random
        self._tell, self._renew, self._show = tell, renew, show
        self._shown_ns: int | None = None
        self._told: str | None = None
        self._lasting = Lasting(clock, STABLE_S)

    def run(self, keep_going: Callable[[], bool]) -> None:
        """Serve until told otherwise; what is in the way is told once, and tried again."""
        while keep_going():
            try:
                self._look_after_itself()
                self._session(keep_going)
            except BrokerError as error:
                self._tell_once(self._lasting.ended(error))
                self._lasting.failures += 1
                self._pause(full_jitter(self._lasting.failures, RECONNECT_S, self._random), keep_going)

    def _session(self, keep_going: Callable[[], bool]) -> None:
        settings, filters = place = self._place
        connection = self._connect(settings, client_id=SERVICE, clock=self._clock, session_expiry_s=0)
        connection.open()
        try:
            connection.subscribe(*filters, retained=True)
            self._lasting.began()
            if not self._lasting.is_suspicious:
                self._tell_once(CONNECTED)
            self._listen(connection)
            self._desk.show_again()
            began_ns = self._clock.monotonic_ns()
            while keep_going():
                if self._lasting.look():
                    self._tell_once(CONNECTED)
                self._look_after_itself()
                if self._place != place:
                    self._tell_once(MOVED.format(self._place.settings.host, self._place.settings.port))
                    return
                if self._desk.retained.heard or self._clock.monotonic_ns() - began_ns >= LISTEN_S * 1e9:
                    self._post(connection, self._shown())
                polled = connection.poll(POLL_S)
                for message in polled.messages:
                    self._serve(connection, message)
        finally:
            connection.close()

    def _listen(self, connection: Connection) -> None:
        """Hear what is retained of the list; a broker whose rules are of the release before may refuse that."""
        try:
            connection.subscribe(*self._desk.retained.filters, retained=True)
        except ConnectionLostError:
            raise
        except BrokerError:
            self._tell(
                "the broker does not let the site's service hear the list of units, by which a folder that was put back"
                " from a backup is noticed: carry the site's newest acl to it, reload it"
            )

    def _serve(self, connection: Connection, message: Incoming) -> None:
        try:
            letters = self._desk.take(message.topic, message.payload)
        except Exception as error:  # noqa: BLE001  # one message must not end the service of all other units
            self._tell(in_one_sentence(error)[0])
            return
        self._post(connection, letters)

    def _shown(self) -> list[Letter]:
        try:
            return self._desk.board()
        except PosternError as error:
            self._tell_once(str(error))
            return []

    def _post(self, connection: Connection, letters: list[Letter]) -> None:
        for letter in letters:
            if connection.fits(letter.topic, letter.payload):
                retain = letter.expiry_s is None
                connection.publish(letter.topic, letter.payload, expiry_s=letter.expiry_s, retain=retain)
            else:
                self._tell(f"{letter.topic}: the broker takes no message so large: carry it there by hand")

    def _look_after_itself(self) -> None:
        try:
            self._place = _Place(self._reach(), self._desk.filters())
            self._desk.daily()
            self._renew()
            now_ns = self._clock.monotonic_ns()
            if self._show is not None and (
                self._shown_ns is None or now_ns - self._shown_ns >= RELOAD_S * 1_000_000_000
            ):
                self._shown_ns = now_ns
                self._show()
        except PosternError as error:
            self._tell_once(str(error))

    def _pause(self, seconds: float, keep_going: Callable[[], bool]) -> None:
        end_ns = self._clock.monotonic_ns() + round(seconds * 1e9)
        while keep_going() and (left_ns := end_ns - self._clock.monotonic_ns()) > 0:
            self._clock.sleep(min(left_ns / 1e9, POLL_S))

    def _tell_once(self, sentence: str) -> None:
        if sentence != self._told:
            self._told = sentence
            self._tell(sentence)
