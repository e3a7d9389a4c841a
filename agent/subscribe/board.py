# SPDX-License-Identifier: Apache-2.0
"""What the site says to a program by way of the broker: the list of units, the program's next certificate, its keys.

None of it is an event, and whoever repeats or forges it changes nothing: each is believed by its signature, and never
an older one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from agent.clock import Clock
from agent.errors import PosternError, VerificationError
from agent.mqtt.credentials import Credentials, load_identity, offer_certificate, read_ends
from agent.mqtt.records import Incoming
from agent.protocol.grant import check_number
from agent.protocol.list_parts import Gathering
from agent.protocol.topics import certificate_topic, list_part_topic, list_topic, resolving_topic
from agent.protocol.trust import TrustedUnits
from agent.protocol.trust_file import SeenList
from agent.subscribe.files import TrustFile

TRUST_CHECK_S = 5  # how late a new list of units may be noticed
NOTICE: Final = timedelta(days=30)  # before a certificate or the list ends, as a unit tells of its own
AUTHORITY_NOTICE: Final = timedelta(days=180)  # a new site means that everybody joins anew
REPEAT_NS: Final = 24 * 3600 * 1_000_000_000  # each is told once a day


class Board:
    """See the module. One thread; ``on_notice`` hears sentences for a person, ``tell_once`` those that may repeat."""

    def __init__(
        self,
        *,
        site: str,
        trust: TrustFile,
        credentials: Credentials,
        clock: Clock,
        on_notice: Callable[[str], None],
        tell_once: Callable[[str], None],
        on_keys: Callable[[bytes], None] | None,
    ) -> None:
        """Read the certificate and the list; KeyStoreError or VerificationError says what is wrong.

        ``on_keys`` takes sealed epoch keys (``agent.protocol.resolving_keys``), where the program may resolve; it
        raises PosternError for what it does not take. ``name`` is the program's, as its certificate has it;
        ``trusted`` the list that was read.
        """
        self._trust, self._credentials, self._clock = trust, credentials, clock
        self._on_notice, self._tell_once = on_notice, tell_once
        self.trusted = trust.load(site=site)
        if self.trusted.expired_at(clock.now()):
            raise VerificationError("expired", "the site's list of units has ended: fetch the new one")
        self.name = load_identity(credentials, clock).common_name
        self._list, self._certificate = list_topic(site), certificate_topic(site, self.name)
        self._keys, self._on_keys = resolving_topic(site, self.name), on_keys
        self._parts = Gathering()
        self._ends = self.trusted.expires
        self._checked_ns = self._warned_ns = clock.monotonic_ns()
        # What of it is retained at the broker, and what nobody here does without it.
        self.topics = {
            self._list: "hears of a newer list of units",
            list_part_topic(site): "hears of a newer list of many units",
            self._certificate: "gets a certificate before this one ends",
        }
        if on_keys is not None:
            self.topics[self._keys] = "gets the keys of the coming weeks"

    @property
    def newest(self) -> SeenList | None:
        """The list of units that was read last, as it is remembered."""
        return self._trust.newest

    def compare(self, known: SeenList | None) -> None:
        """Refuse a list that is older than ``known``, though it and what lies beside it were put back together.

        Raises VerificationError, as ``TrustFile.load`` does.
        """
        if known is None or known.site != self.trusted.site:
            return
        check_number(self.trusted.mandate, known.mandate)
        if not known.is_before(self.trusted):
            raise VerificationError(
                "replayed", "the site's list of units is older than the one that this memory knows: fetch it again"
            )

    def hear(self, message: Incoming) -> bool:
        """Take a message that is the site's; False where it is none."""
        if message.topic.startswith(self._list):
            self._take_list(message)
        elif message.topic == self._certificate:
            self._take_certificate(message.payload)
        elif message.topic == self._keys:
            self._take_keys(message.payload)
        else:
            return False
        return True

    def newer(self) -> TrustedUnits | None:
        """The list of units, where another one lies there since; looked for every few seconds."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._checked_ns < TRUST_CHECK_S * 1_000_000_000:
            return None
        self._checked_ns = now_ns
        self._warn_of_ends()
        newer = self._trust.load_if_changed()
        if newer is not None and newer.expired_at(self._clock.now()):
            self._on_notice("the list of units that was laid down has ended already: the one in use stays")
            return None
        if newer is not None:
            self._on_notice(f"the site's list of units was read again (serial {newer.serial})")
            self._ends = newer.expires
        elif self._trust.refusal is not None:
            self._on_notice(f"the list of units that lies there now is not taken: {self._trust.refusal}")
            self._trust.refusal = None
        return newer

    def warn(self) -> None:
        """Tell what a person should know of the list that was read at the start."""
        if self.trusted.expires is None:
            self._on_notice("the site's list of units never ends: have the site write a new one with this release")
        if self._trust.forgetful is not None:
            self._on_notice(f"an older list of units would be taken after a restart: {self._trust.forgetful}")
        self._warn_of_ends()

    def _warn_of_ends(self) -> None:
        """Tell in good time what ends, once a day: without it nothing is received any more, and nobody runs a check."""
        now_ns, now = self._clock.monotonic_ns(), self._clock.now()
        if now_ns < self._warned_ns:
            return
        self._warned_ns = now_ns + REPEAT_NS
        try:
            certificate, authority = read_ends(self._credentials)
        except PosternError as error:
            self._on_notice(str(error))
            return
        if authority - now < AUTHORITY_NOTICE:
            self._on_notice(f"the site's authority ends on {authority:%Y-%m-%d}: make a new site before")
        if certificate - now < NOTICE:
            told = f"this program's certificate ends on {certificate:%Y-%m-%d}"
            self._on_notice(f"{told}: have a new one made (postern site add-program {self.name}), and bring it here")
        if self._ends is not None and self._ends - now < NOTICE:
            told = f"the site's list of units ends on {self._ends:%Y-%m-%d}"
            self._on_notice(f"{told}: have the site write a new one, and bring it here")

    def _take_list(self, message: Incoming) -> None:
        """Take the site's newest list of units, so that nobody has to carry it; what is none changes nothing."""
        try:
            token = self._parts.hear(message.payload, whole=message.topic == self._list)
            if token and self._trust.offer(token):
                self._checked_ns -= TRUST_CHECK_S * 1_000_000_000  # it counts from the next batch on
        except (PosternError, ValueError) as error:
            self._tell_once(f"the list of units at the broker is not taken: {error}")

    def _take_certificate(self, payload: bytes) -> None:
        """Take the certificate that follows this program's own, from the next connection on."""
        try:
            if offer_certificate(self._credentials, payload, self._clock):
                self._on_notice("the site renewed this program's certificate")
        except PosternError as error:
            self._tell_once(f"the certificate at the broker is not taken: {error}")

    def _take_keys(self, payload: bytes) -> None:
        """Hand the epoch keys on."""
        try:
            if payload and self._on_keys is not None:
                self._on_keys(payload)
        except PosternError as error:
            self._tell_once(f"the epoch keys at the broker are not taken: {error}")
