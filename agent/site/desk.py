# SPDX-License-Identifier: Apache-2.0
"""What the site's service does with each message: pure of any connection, so that years pass in a test's minute.

A unit says once a minute how long its keys last. Whatever falls due is then made (``agent.site.units``) and sent to it
as one command at a time, which the unit answers under its signature. Nothing is remembered that a restart would miss:
what was lost on the way is seen in the next health message, and sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.audit.ageing import Ageing
from agent.clock import Clock
from agent.disk.files import read_bounded
from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError, printable
from agent.keys import PublicKey, load_public_key
from agent.protocol.command import CONFIGURE, RENEW, SIGNATURE_TYPE, Command
from agent.protocol.health import read_health, verify_health
from agent.protocol.list_parts import MAX_PARTS, in_parts
from agent.protocol.names import JOINING_ROOT, JOINING_SUFFIX, TOPIC_ROOT, check_name, round_down
from agent.protocol.pseudonym import EPOCHS_AHEAD, epoch_of
from agent.protocol.record import load, save
from agent.protocol.response import Asked, Response, command_digest, read_response
from agent.protocol.topics import list_part_topic, list_topic
from agent.protocol.trust import TrustedUnits
from agent.site import configuration, units
from agent.site.fleet import service_advice
from agent.site.folder import changing
from agent.site.handing import DAY_S, Handing, Letter
from agent.site.joining import ask_to_join
from agent.site.mandated import destroy_past, load_mandate, may_configure
from agent.site.newer import Retained, put_back
from agent.site.operator import MAX_SENT, VALIDITY_S, next_command, number_after
from agent.site.policies import newest_policy
from agent.site.quota import JOINING, UNIT, Quota
from agent.site.records import SiteFiles, SiteRecord, UnitRecord
from agent.site.renewal import has_to_last, is_old
from agent.site.seen import UnitSeen, is_replayed, load_seen, mark_of, with_availability, with_health, with_info

RETRY_S: Final = 900  # between two attempts at the same thing of one unit
ANSWER_S: Final = 30  # after so long without an answer the next thing may be sent
KEEP_S: Final = 60  # between two writes of what was seen of one unit, where nothing else changed
PUT_BACK: Final = "; where this folder was put back from a backup: postern site recover"
SAY_AGAIN_S: Final = 300  # what is retained: a broker may retain nothing, or at another of its nodes alone
VERBS: Final = (RENEW, CONFIGURE)  # by which the service brings what falls due


class _Flight(msgspec.Struct, frozen=True):
    """A command that waits for its answer."""

    what: str
    command: Command
    asked: Asked
    sent_ns: int
    sent: int  # how often, with another number or nonce each time


class _Need(NamedTuple):
    """Something that falls due for a unit, by which verb it is brought, and how its arguments are made.

    ``number`` is that of what the site changes now and then: a newer one is tried at once.
    """

    what: str
    make: Callable[[], dict[str, str]]
    verb: str = RENEW
    number: int = 0


class Desk:
    """The service's mind. ``tell`` is handed sentences for the journal."""

    def __init__(
        self, folder: Path, *, clock: Clock, random: Callable[[int], bytes], tell: Callable[[str], None]
    ) -> None:
        self._folder, self._files = folder, SiteFiles(folder)
        self._clock, self._random, self._tell = clock, random, tell
        self.site = load(self._files.record, SiteRecord).site
        self.retained = Retained(self._files, self.site)
        self._ageing = Ageing(clock, self._files.service_time)
        self._seen: dict[str, UnitSeen] = {}
        self._written_ns: dict[str, int] = {}
        self._flights: dict[str, _Flight] = {}
        self._tried: dict[tuple[str, str], tuple[int, int]] = {}  # number, and when
        self._replayed: set[str] = set()  # units of whom old health comes
        self._numbers: dict[str, int] = {}  # of the last command to each unit
        self._daily_ns: int | None = None
        self._advised_ns: int | None = None
        self._trusted: tuple[tuple[int, int], TrustedUnits] | None = None
        self._shown: tuple[int, int] | None = None  # of the list that ``board`` gave
        self._shown_ns = 0
        self._handing = Handing(folder, site=self.site, clock=clock)
        self._quota = Quota(clock, tell)

    def filters(self) -> tuple[str, ...]:
        """What the service listens to."""
        base = f"{TOPIC_ROOT}/{self.site}/+"
        answers = (f"response/{verb}" for verb in VERBS)
        heard = (f"{base}/{leaf}" for leaf in ("availability", "info", "health", *answers))
        by_level = self._files.broker_kind == "rabbitmq"  # for which the dot in the name is the end of a level
        joining = f"{JOINING_ROOT}/{self.site}/{'+/join' if by_level else '+'}/request"
        return (*heard, joining)

    def take(self, topic: str, payload: bytes) -> list[Letter]:
        """Take one message; what to send because of it. What is wrong with it is told, and raised by nobody."""
        try:
            return list(self._take(topic, payload))
        except PosternError as error:
            self._tell(f"{printable(topic)}: {error}")
            return []

    def board(self) -> list[Letter]:
        """What programs are to know, where it changed or was said a while ago.

        That is the list of units, as signed, and what programs are handed. Nothing by a folder that was put back from
        a backup: RefusedError says so.
        """
        self.retained.look()
        if (why := put_back(self._files, load_public_key(self._files.site_jwk))) is not None:
            raise RefusedError(why, reason="put_back")
        letters = self._listed()
        return [*letters, *self._handing.letters(again=bool(letters))]

    def _listed(self) -> list[Letter]:
        self._list()
        stamp = None if self._trusted is None else self._trusted[0]
        if stamp is None or (stamp == self._shown and self._since_s(self._shown_ns) < SAY_AGAIN_S):
            return []
        anew, self._shown, self._shown_ns = stamp != self._shown, stamp, self._clock.monotonic_ns()
        whole, token = list_topic(self.site), self._files.trust.read_bytes()
        if not (parts := in_parts(token)):
            return [Letter(whole, token)]
        # What is retained of a list before it goes: its last parts, or the whole of a shorter one.
        unused = [list_part_topic(self.site, part) for part in range(len(parts) + 1, MAX_PARTS + 1)]
        cleared = [Letter(topic, b"") for topic in (whole, *unused)] if anew else []
        said = [Letter(list_part_topic(self.site, number), part) for number, part in enumerate(parts, start=1)]
        return [*cleared, *said]

    def show_again(self) -> None:
        """Have ``board`` give everything once more, for another session."""
        self._shown = None

    def daily(self) -> None:
        """Hand programs what falls due; once a day destroy the epoch keys of past weeks. Raises PosternError.

        Once a day, too, the journal is told what a person has to do about the service and the broker.

        Past by the settled time (``agent.audit.ageing``): a clock that is ahead would destroy what is still needed.
        """
        self._ageing.look()
        now_ns = self._clock.monotonic_ns()
        self._handing.look()
        if self._advised_ns is None or now_ns - self._advised_ns >= DAY_S * 1_000_000_000:
            self._advised_ns = now_ns
            for advice in service_advice(self._folder, clock=self._clock):
                self._tell(advice)
        if self._daily_ns is not None and now_ns < self._daily_ns:
            return
        if (settled := self._ageing.settled()) is None:
            return
        self._daily_ns = now_ns + DAY_S * 1_000_000_000
        with changing(self._folder, clock=self._clock, needs_root=False) as site:
            if gone := destroy_past(site.files, epoch_of(settled)):
                site.log("past_epoch_keys_destroyed", count=gone)

    def _take(self, topic: str, payload: bytes) -> Iterator[Letter]:
        if topic.startswith(self.retained.filters[0]):
            self.retained.take(topic, payload)
            return
        root, _, rest = topic.partition("/")
        site, _, rest = rest.partition("/")
        name, _, leaf = rest.partition("/")
        if site != self.site:
            return
        asks = name.split(".")[0]
        if root == JOINING_ROOT and rest.replace("/", ".") == f"{asks}{JOINING_SUFFIX}.request":
            if not self._quota.admits(f"{asks}{JOINING_SUFFIX}", JOINING):
                return
            reply = ask_to_join(self._folder, asks, payload, clock=self._clock, tell=self._tell)
            yield Letter(topic.removesuffix("request") + "answer", reply, VALIDITY_S)
            return
        if root != TOPIC_ROOT or not self._quota.admits(name, UNIT) or (record := self._record(name)) is None:
            return
        if leaf == "health":
            yield from self._heard(record, payload)
        elif leaf in (f"response/{verb}" for verb in VERBS):
            yield from self._answered(record, payload)
        elif leaf in ("info", "availability"):
            before = self._of(name)
            known = with_info(before, payload) if leaf == "info" else with_availability(before, payload)
            self._keep(known, now=known != before)

    def _record(self, name: str) -> UnitRecord | None:
        """The unit that a topic names, where it is one in service."""
        path = self._files.unit(check_name("unit", name))
        record = load(path, UnitRecord) if path.exists() else None
        return None if record is None or record.revoked else record

    def _heard(self, record: UnitRecord, payload: bytes) -> Iterator[Letter]:
        """Believe a health document that the unit signed and that is its newest, and send what falls due."""
        read_health(payload)
        key = PublicKey.from_jwk(record.keys[-1].jwk)
        health = verify_health(payload, key, source=f"/{TOPIC_ROOT}/{self.site}/{record.unit}")
        before, mark = self._of(record.unit), mark_of(health, key.kid)
        knows = self._clock.state() == "synced" == health.clock
        if is_replayed(mark, before.mark, self._clock.now() if knows else None):
            self._pass_over(record.unit, again=mark == before.mark)
            return
        self._replayed.discard(record.unit)
        seen = with_health(before, health, round_down(self._clock.now(), 1), mark)
        told = seen.configuration
        if told is not None and told != before.configuration and told.state == "rolled_back":
            self._tell(f"{record.unit}: it took configuration {told.serial} back: {told.why}")
        changed = msgspec.structs.replace(seen, at=before.at, queue=before.queue, mark=before.mark) != before
        self._keep(seen, now=changed)
        flight = self._flights.get(record.unit)
        if flight is not None and self._since_s(flight.sent_ns) < ANSWER_S:
            return
        if flight is not None:
            del self._flights[record.unit]
            self._note(record.unit, f"{flight.what}: no answer")
        if seen.renews is not False and (due := self._due(record, seen)) is not None:
            self._tried[record.unit, due.what] = due.number, self._clock.monotonic_ns()
            yield self._send(record.unit, due)

    def _pass_over(self, unit: str, *, again: bool) -> None:
        """Do nothing for a health document that came before; an older one is told of until a newer one comes."""
        if not again and unit not in self._replayed:
            self._replayed.add(unit)
            self._tell(
                f"{unit}: its health is older than what was heard of it before, so nothing is done for it: somebody"
                " repeats it, or files of the unit were put back and it does not know the time"
            )

    def _due(self, record: UnitRecord, seen: UnitSeen) -> _Need | None:
        """The first thing that falls due for a unit and was not tried a moment ago."""
        for need in (*self._needs(record, seen), *self._changes(record, seen)):
            number, tried_ns = self._tried.get((record.unit, need.what), (-1, 0))
            if number != need.number or self._since_s(tried_ns) >= RETRY_S:
                return need
        return None

    def _needs(self, record: UnitRecord, seen: UnitSeen) -> Iterator[_Need]:
        unit = record.unit
        generation = load(self._files.record, SiteRecord).generation
        if seen.epochs is not None and (seen.epochs <= EPOCHS_AHEAD or record.generation < generation):
            if seen.told is not None and "not_for_us" in seen.told:
                yield _Need("seal_key", lambda: {"seal_key": "show"})
            yield _Need(
                "epoch_keys",
                lambda: {"epoch_keys": units.issue_epoch_keys(self._folder, unit, clock=self._clock).decode()},
            )
        if seen.certificate_days is not None:
            newest, now = record.certificates[-1], self._clock.now()
            least = has_to_last(newest, self._files, now)
            if is_old(newest, seen.certificate_days, least=least, now=now):
                certify = partial(units.certify_unit, self._folder, unit, below=least, clock=self._clock)
                yield _Need("certificate", lambda: {"certificate": certify()})
        listed = self._files.brokers_crl
        if listed.exists() and seen.brokers_crl != _digest(read_bounded(listed)):
            yield _Need("revoked_brokers", lambda: {"revoked_brokers": read_bounded(listed).decode()})

    def _changes(self, record: UnitRecord, seen: UnitSeen) -> Iterator[_Need]:
        """Settings and policy that the unit should have and does not; what it refused once is not sent again."""
        if not seen.configures or not may_configure(self._files, self.site):
            return
        if (serial := configuration.due(self._files, record.unit, seen.configuration)) is not None:
            signed = partial(configuration.sign_for, self._folder, record.unit, clock=self._clock)
            yield _Need("configuration", lambda: {"configuration": signed()}, CONFIGURE, serial)
        policy = newest_policy(self._files)
        # Also where it has that one, by joining or by hand: a unit that knows no number would take an older one.
        lacks = policy is not None and (seen.policy != policy.digest or seen.policies < policy.serial)
        if policy is not None and policy.issue is not None and seen.policy is not None and lacks:
            sent = {"policy": policy.token, "issue": policy.issue}
            yield _Need("policy", lambda: sent, CONFIGURE, policy.serial)

    def _send(self, unit: str, need: _Need) -> Letter:
        now = self._clock.now().timestamp()
        command = Command(
            site=self.site,
            unit=unit,
            verb=need.verb,
            cmd_seq=number_after(self._numbers.get(unit, 0), int(now * 1000)),
            issued_at=int(now),
            expires_at=int(now) + VALIDITY_S,
            transaction=self._random(8).hex(),
            args=dict(need.make()),
        )
        return self._post(need.what, command)

    def _post(self, what: str, command: Command, sent: int = 1) -> Letter:
        signer = load_mandate(self._files, load_public_key(self._files.site_jwk), self.site, self._clock.now())
        payload = signer.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE).encode()
        asked = Asked(self.site, command.unit, command.verb, command.transaction, command_digest(payload))
        self._flights[command.unit] = _Flight(what, command, asked, self._clock.monotonic_ns(), sent)
        self._numbers[command.unit] = command.cmd_seq
        return Letter(f"{TOPIC_ROOT}/{self.site}/{command.unit}/request/{command.verb}", payload, VALIDITY_S)

    def _answered(self, record: UnitRecord, payload: bytes) -> Iterator[Letter]:
        flight = self._flights.get(record.unit)
        if flight is None:
            return
        try:
            answer = read_response(payload, flight.asked, self._list())
        except VerificationError as error:
            if error.reason in ("another", "replayed"):  # to another program's command
                return
            raise
        del self._flights[record.unit]
        if flight.sent < MAX_SENT and (again := next_command(flight.command, answer)) is not None:
            yield self._post(flight.what, again, flight.sent + 1)
        else:
            yield from self._done(record, flight, answer)

    def _done(self, record: UnitRecord, flight: _Flight, answer: Response) -> Iterator[Letter]:
        unit, what = record.unit, flight.what
        if answer.status != "ok":
            advice = PUT_BACK if answer.error == "superseded" else ""
            self._note(unit, f"{what}: {printable(answer.error or '')}: {printable(answer.message or '')}{advice}")
            return
        stated = (answer.data or {}).get("seal_key")
        if isinstance(stated, str):
            units.take_seal_key(self._folder, stated, clock=self._clock)
        if what == "revoked_brokers":
            sent = str(flight.command.args["revoked_brokers"]).encode()
            self._keep(msgspec.structs.replace(self._of(unit), brokers_crl=_digest(sent)), now=True)
        if what == "policy":
            self._keep(msgspec.structs.replace(self._of(unit), policies=self._tried[unit, what][0]), now=True)
        self._note(unit, None)
        if what == "seal_key":  # what it was asked for
            self._tried.pop((unit, "epoch_keys"), None)
            for need in self._needs(record, self._of(unit)):
                if need.what == "epoch_keys":
                    yield self._send(unit, need)

    def _note(self, unit: str, told: str | None) -> None:
        seen = self._of(unit)
        if seen.told != told:
            self._keep(msgspec.structs.replace(seen, told=told), now=True)
            if told is not None:
                self._tell(f"{unit}: {told}")

    def _of(self, unit: str) -> UnitSeen:
        if unit not in self._seen:
            self._seen[unit] = load_seen(self._files.seen, unit)
        return self._seen[unit]

    def _keep(self, seen: UnitSeen, *, now: bool) -> None:
        """Remember, and write where something changed or a minute is over: a card is not worn out by labels."""
        self._seen[seen.unit] = seen
        written_ns = self._written_ns.get(seen.unit)
        if now or written_ns is None or self._since_s(written_ns) >= KEEP_S:
            self._written_ns[seen.unit] = self._clock.monotonic_ns()
            save(self._files.seen / f"{seen.unit}.json", seen)

    def _list(self) -> TrustedUnits:
        """The site's list, read again where it was written since; KeyStoreError when it is not there."""
        try:
            status = self._files.trust.stat()
        except OSError as error:
            raise KeyStoreError(
                f"{self._files.trust} cannot be read ({error.strerror}): write it anew with 'postern site trust'"
            ) from error
        stamp = status.st_mtime_ns, status.st_ino
        if self._trusted is None or self._trusted[0] != stamp:
            listed = TrustedUnits.from_signed(self._files.trust.read_bytes(), load_public_key(self._files.site_jwk))
            self._trusted = stamp, listed
        return self._trusted[1]

    def _since_s(self, then_ns: int) -> float:
        return (self._clock.monotonic_ns() - then_ns) / 1e9


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
