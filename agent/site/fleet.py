# SPDX-License-Identifier: Apache-2.0
"""Every unit of a site: what is known of it, and what a person has to do about it, if anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from agent.clock import Clock
from agent.errors import PosternError
from agent.keys import PublicKey, load_public_key
from agent.mqtt.credentials import read_ends
from agent.protocol.grant import read_grant
from agent.protocol.names import parse_time
from agent.protocol.pseudonym import EPOCHS_AHEAD
from agent.protocol.record import load
from agent.site.authority import read_certificate, validity
from agent.site.delegation import service_credentials
from agent.site.folder import SYSTEM_CLOCK, check_site
from agent.site.joining import OUTDATED, USED, is_contested, refused_since
from agent.site.mandated import may_configure, read_mandate
from agent.site.newer import put_back
from agent.site.policies import SignedPolicy, newest_policy
from agent.site.programs import may_renew
from agent.site.records import SiteFiles, SiteRecord, TokenFile, UnitRecord
from agent.site.seen import UnitSeen, load_seen

State = Literal["online", "offline", "silent", "waiting", "invited", "revoked", "unheard"]
SILENT: Final = timedelta(minutes=10)  # without health, which comes each minute
LONG_QUEUE: Final = 100  # events that wait though the unit is there
SOON_DAYS: Final = 60  # before the service's own papers or the broker's certificate end
LAST_YEAR: Final = timedelta(days=365)  # of the site's authority: everybody has to move to another site by then
STARTING_S: Final = 60  # of a run, in which a camera is still being opened; the next health is due by then
MAX_WEEKS: Final = 520  # of keys that a unit may say to hold; a site issues three
REFUSED: Final = timedelta(days=7)  # for so long a card that was refused stands in the list: as an invitation does
CERTIFICATE_DAYS: Final = 30  # left of a unit's: the service has been trying for three months by then


class UnitState(msgspec.Struct, frozen=True):
    """One line of the list."""

    unit: str
    state: State
    seen: UnitSeen
    advice: tuple[str, ...]
    key_days: int | None = None  # until the last of its epoch keys ends; None where it did not say how many it has
    certificate_days: int | None = None  # until it ends, below 0 since it did; None where it did not say

    def known(self) -> dict[str, str]:
        """What it said of itself, in the order in which it is shown; empty where nothing was heard."""
        seen = self.seen
        if seen.at is None:
            return {}
        return {
            "release": seen.release or "?",
            "seen": seen.at,
            "queue": _number(seen.queue),
            "clock": seen.clock or "?",
            "keys": f"{_number(self.key_days)} days",
            "certificate": f"{_number(self.certificate_days)} days",
            "camera": "starting" if self.state == "online" and _is_starting(seen) else seen.camera or "?",
            "policy": _short(seen.policy),
            "models": " ".join(f"{task} {_short(digest)}" for task, digest in sorted(seen.models.items())) or "?",
            "settings": self._configuration(),
        }

    def summary(self) -> str:
        """What is known, in words."""
        if self.seen.at is None:
            return "nothing was heard of it yet" if self.state == "unheard" else ""
        return ", ".join(f"{name} {said}" for name, said in self.known().items())

    def _configuration(self) -> str:
        told = self.seen.configuration
        if told is None:
            return "its own file's"
        state = told.state.replace("_", " ")
        return f"configuration {told.serial} {state} ({_short(told.digest)})"

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for programs."""
        seen = self.seen
        return {
            "unit": self.unit,
            "state": self.state,
            "release": seen.release,
            "last_seen": seen.at,
            "queue": seen.queue,
            "clock": seen.clock,
            "recognition": seen.recognition,
            "weeks_of_epoch_keys": seen.epochs,
            "epoch_key_days": self.key_days,
            "certificate_days": self.certificate_days,
            "camera": seen.camera,
            "policy": seen.policy,
            "models": seen.models,
            "update": seen.update,
            "configuration": None if seen.configuration is None else msgspec.to_builtins(seen.configuration),
            "advice": list(self.advice),
        }


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _short(digest: str | None) -> str:
    """The beginning of a digest, which tells two apart; the whole stands in ``facts``."""
    return "?" if digest is None else digest.removeprefix("sha256:")[:12]


def list_units(folder: Path, *, clock: Clock = SYSTEM_CLOCK) -> tuple[UnitState, ...]:
    """All units in order of their names, and who waits to become one. Needs no private key. Raises KeyStoreError."""
    files, now = check_site(folder), clock.now()
    policy = newest_policy(files)
    found = {record.unit: _of(files, record, policy, now) for record in files.all_units()}
    for token in load(files.tokens, TokenFile, secret=True).tokens:
        unit = token.unit
        known = found.get(unit)
        serves = known is not None and known.state != "revoked"  # then its own state stays in sight
        if not token.invited or token.used is not None or (serves and not token.replace):
            continue
        ended = parse_time(token.expires_at) <= now
        waits = (files.joining / f"{unit}.jws").exists() and not ended
        if ended and serves:
            continue
        advice = f"postern site accept {unit}" if waits else f"put the invitation on its card by {token.expires_at}"
        if waits and is_contested(files, unit):
            advice = f"two asked with its invitation, and one may not be yours: postern site invite {unit}"
        if ended:
            advice = f"the invitation has expired: postern site invite {unit}"
        if known is None or not serves:
            known = UnitState(unit, "invited", UnitSeen(version=1, unit=unit), ())
        state = "waiting" if waits else known.state
        found[unit] = msgspec.structs.replace(known, state=state, advice=(advice, *known.advice))
    for unit, known in found.items():
        refused = tuple(_about_refused(files, known, now - REFUSED))
        found[unit] = msgspec.structs.replace(known, advice=(*refused, *known.advice))
    return tuple(found[name] for name in sorted(found))


def _about_refused(files: SiteFiles, known: UnitState, begin: datetime) -> Iterator[str]:
    """Cards that were refused under the name of a unit: which of two is the right one, a person knows."""
    unit = known.unit
    if known.state == "revoked":
        return
    if refused_since(files, unit, USED, begin):
        yield (
            "another card asked with the invitation by which it joined, and was refused: where the one that joined is"
            f" not yours, postern site revoke {unit}"
        )
    if refused_since(files, unit, OUTDATED, begin):
        yield "a card with an earlier invitation asked, and was refused: put the newest one on it, if it is yours"


def service_advice(folder: Path, *, clock: Clock = SYSTEM_CLOCK) -> tuple[str, ...]:
    """What is to be done about the site's service itself. Needs no private key."""
    files, now = check_site(folder), clock.now()
    return (*_about_broker(files, now), *_about_service(files, now))


def _about_broker(files: SiteFiles, now: datetime) -> Iterator[str]:
    """What the root alone can renew, and what of this machine's clock is surely wrong."""
    begins, ends = validity(read_certificate(files.ca_crt))
    if now < begins:
        yield (
            f"this machine's clock says {now:%Y-%m-%d}, before this site was made ({begins:%Y-%m-%d}): set it, what is"
            " signed meanwhile counts for nobody"
        )
    if ends - now < LAST_YEAR:
        yield f"the site's authority {_ends(ends, now)}, and every certificate with it: move to a new site by then"
    broker = files.known_broker
    counting = [parse_time(one.expires_at) for one in broker.certificates if not one.revoked_at] if broker else []
    if broker and counting and max(counting) - now < timedelta(days=SOON_DAYS):
        yield (
            f"the broker's certificate {_ends(max(counting), now)}, and nobody connects after that: postern site broker"
            f" {' '.join(broker.hosts) or 'HOST'}, carry site/broker there, restart it"
        )


def _ends(moment: datetime, now: datetime, verb: str = "ends") -> str:
    return f"{verb if moment > now else 'ended'} on {moment:%Y-%m-%d}"


def _about_service(files: SiteFiles, now: datetime) -> Iterator[str]:
    if (why := put_back(files, load_public_key(files.site_jwk))) is not None:
        yield why
        return
    if not files.delegated:
        yield "the site has no service yet, so units are renewed by hand: postern site delegate"
        return
    site = load(files.record, SiteRecord).site
    try:
        token = read_mandate(files)
        grant, _ = read_grant(token, load_public_key(files.site_jwk), site=site)
        mandate = datetime.fromtimestamp(grant.expires_at, now.tzinfo)
        ends = min(mandate, read_ends(service_credentials(files))[0])
    except PosternError as error:
        yield f"{error}: postern site delegate"
        return
    if ends - now < timedelta(days=SOON_DAYS):
        moment = _ends(ends, now, "end")
        yield f"the service's papers {moment}, and nobody is renewed or let in after that: postern site delegate"
    elif not may_configure(files, site):
        yield "the service's mandate is of a release before, and sets no unit: postern site delegate"
    for client in files.all_clients():
        if may_renew(client) and client.tls_key is None:
            yield f"program {client.name} is not renewed by itself until it is made anew: postern site add-program"


def _of(files: SiteFiles, record: UnitRecord, policy: SignedPolicy | None, now: datetime) -> UnitState:
    seen = load_seen(files.seen, record.unit)
    if record.revoked:
        return UnitState(record.unit, "revoked", seen, ())
    if seen.mark is not None and seen.mark.kid != PublicKey.from_jwk(record.keys[-1].jwk).kid:
        seen = UnitSeen(version=1, unit=record.unit)  # it joined anew: what was heard is of the keys before
    state: State = "unheard"
    if seen.at is not None:
        state = "silent" if now - parse_time(seen.at) > SILENT else "online"
    if seen.online is False:
        state = "offline"
    days = _certificate_days(seen, now)
    advice = tuple(_advice(record.unit, state, seen, policy, days))
    return UnitState(record.unit, state, seen, advice, _key_days(seen, now), days)


def _certificate_days(seen: UnitSeen, now: datetime) -> int | None:
    if seen.at is None or seen.certificate_days is None:
        return None
    return seen.certificate_days - max((now - parse_time(seen.at)).days, 0)


def _is_starting(seen: UnitSeen) -> bool:
    """Whether it has no camera yet because its run has just begun."""
    return seen.camera == "none" and seen.mark is not None and seen.mark.uptime_s < STARTING_S


def _key_days(seen: UnitSeen, now: datetime) -> int | None:
    """Whole days until the last week (ISO 8601) ends that the unit had a key for when it was heard."""
    if seen.at is None or seen.epochs is None:
        return None
    heard = parse_time(seen.at)
    week = heard.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=heard.weekday())
    return max((week + timedelta(weeks=min(seen.epochs, MAX_WEEKS)) - now).days, 0)


_BY_STATE: dict[State, str] = {
    "offline": "it left the broker: look at its power and network, then at its journal",
    "silent": "nothing was heard of it for ten minutes: is the site's service running, and the unit?",
    "unheard": "it has not been heard since it was let in; if it stays so for some minutes, look at its journal"
    " (journalctl -u postern)",
}


def _advice(
    unit: str, state: State, seen: UnitSeen, policy: SignedPolicy | None, certificate_days: int | None
) -> Iterator[str]:
    if state in _BY_STATE:
        yield _BY_STATE[state]
    if seen.at is None:
        return
    yield from _about_papers(unit, seen, certificate_days)
    yield from _about_work(unit, seen)
    if seen.camera == "none" and not (state == "online" and _is_starting(seen)):
        yield "its camera is lost: look at cable and network, then run postern doctor there"
    if seen.queue is not None and seen.queue >= LONG_QUEUE and state == "online":
        yield f"{seen.queue} events wait though it is connected: look at the broker's rules for it"
    yield from _about_settings(seen, policy)
    told = seen.configuration
    if seen.told is not None and (told is None or told.why is None or told.why not in seen.told):  # else it was said
        yield f"what it was sent last was not taken ({seen.told})"


def _about_papers(unit: str, seen: UnitSeen, certificate_days: int | None) -> Iterator[str]:
    if seen.renews is False:
        yield "its release takes no renewals by itself: upgrade it, or renew it by hand"
    if seen.epochs == 0:
        yield "it has no epoch key, so nobody is announced: look at what it was told last"
    elif seen.epochs is not None and seen.epochs < EPOCHS_AHEAD:
        yield f"it has epoch keys for {seen.epochs} week only: the service tries again when it hears of it"
    if certificate_days is not None and certificate_days < 0:
        yield (
            f"its certificate has ended, so no broker lets it in: postern site renew-unit {unit} -o answer.jws, and at"
            " the unit postern unit install answer.jws"
        )
    elif certificate_days is not None and certificate_days < CERTIFICATE_DAYS:
        yield f"its certificate ends in {certificate_days} days: postern site renew-unit {unit}, if it stays so"


def _about_work(unit: str, seen: UnitSeen) -> Iterator[str]:
    if seen.update is not None:
        yield f"its upgrade was taken back ({seen.update}): look at its journal before the next release"
    if seen.clock == "unsynced":
        yield "it does not know the time: let it reach a time server"
    if seen.recognition == "paused":
        yield f"it recognises nobody: postern ask {unit} recognition/resume, if nobody wants that"
    for what in seen.asks:
        yield f"it asks about its {what}: postern ask {unit} unit/confirm what={what}"


def _about_settings(seen: UnitSeen, policy: SignedPolicy | None) -> Iterator[str]:
    if policy is not None and seen.policy not in (None, policy.digest):
        if policy.issue is None:
            yield "it matches by another policy than the site's, which has no number yet: postern site policy FILE"
        elif seen.configures:
            yield "it matches by another policy than the site's: the service sends that when it hears of the unit"
        else:
            yield "it matches by another policy than the site's: install policy.jws there, or upgrade the unit"
    told = seen.configuration
    if told is None or told.why is None:
        return
    if told.state == "rolled_back":
        yield f"it took configuration {told.serial} back ({told.why}): mend that, then postern site config apply FILE"
    else:
        yield f"configuration {told.serial} does not fit it ({told.why}): mend it, then postern site config apply FILE"
