# SPDX-License-Identifier: Apache-2.0
"""The parts of a unit, built from its configuration: one function a part, shared by every command."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

import agent
from agent.audit.chain import Fact, Kind
from agent.config.door import OsdpOutput
from agent.config.schema import Config
from agent.disk.files import read_bounded, read_brought
from agent.door.acts import Request
from agent.door.verification import Answer, Verification
from agent.errors import KeyStoreError, PolicyError
from agent.keys import PublicKey, UnitKey
from agent.match.policy import Policy, verify_policy
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.parse.strict_json import loads
from agent.protocol.names import parse_time
from agent.protocol.subject import SubjectId
from agent.protocol.token import cbor
from agent.protocol.topics import Topics
from agent.unit.at_the_door import make_spot_act, reads_tokens, takes_requests
from agent.unit.capturing import Embeds
from agent.unit.cards import card_numbers
from agent.unit.command_log import CommandLog
from agent.unit.configuring import Configuring
from agent.unit.confirm import Confirming
from agent.unit.console_open import console_handlers
from agent.unit.endings import Endings
from agent.unit.enrolment import LiveEnrolment, Registrar
from agent.unit.facts import public_facts
from agent.unit.forget import Forgetting
from agent.unit.from_site import site_settings
from agent.unit.key_files import UnitFiles
from agent.unit.mandate import take_mandate
from agent.unit.pause import Pause
from agent.unit.seal_key import settle
from agent.unit.site_key import complete
from agent.unit.stores import Stores, terms_of
from agent.unit.tokens import TokenCheck, load_token_list, shortcomings
from agent.unit.verbs import Parts, make_handlers
from agent.unit.world import board
from agent.uplink.answers import Answers
from agent.uplink.commands import MAX_SKEW_S, Commands, Handler
from agent.uplink.discovery import Discovery, make_discovery
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import UplinkSettings

if TYPE_CHECKING:
    from agent.camera.base import Frame
    from agent.clock import Clock
    from agent.detect.face import Face
    from agent.detect.gate import Gate
    from agent.embed.records import Crop
    from agent.outbox.epoch_keys import EpochKeys
    from agent.unit.key_rotation import KeyRotation
    from agent.unit.models import Models

log = logging.getLogger("postern")

MAX_POLICY_FILE_BYTES = 64 * 1024  # as ``policy.MAX_POLICY_BYTES``, in base64url
MAX_JWK_BYTES = 4096


class EnrolsBy(Protocol):
    """The part of the models by which people are enrolled; rigs that show no frame bring their own."""

    @property
    def embedder(self) -> Embeds: ...

    def align(self, frame: Frame, face: Face) -> Crop: ...


class CommandSide(msgspec.Struct, frozen=True):
    """What answers signed commands, and the verbs that it offers."""

    commands: Commands
    handlers: Mapping[str, Handler]


def load_key(config: Config) -> UnitKey:
    """The unit's signing key; KeyStoreError says how to get one."""
    return UnitKey.load(config.keys.folder / "unit.key")


def credentials_of(config: Config) -> Credentials:
    """The TLS files of this unit: as configured, else those of the key folder."""
    tls, files = config.broker.tls, UnitFiles(config.keys.folder)
    ca, certificate, key = tls.ca or files.ca_crt, tls.certificate or files.tls_crt, tls.key or files.tls_key
    return Credentials(ca, certificate, key, revoked=files.revoked_brokers)


def uplink_settings(config: Config, credentials: Credentials) -> UplinkSettings:
    """How this unit speaks to its broker."""
    broker = config.broker
    return UplinkSettings(
        broker=BrokerSettings(host=broker.host, port=broker.port, protocol=broker.protocol, credentials=credentials),
        site=config.unit.site,
        unit=config.unit.id,
        live_window_s=config.outbox.live_window_s,
        health_interval_s=broker.health_interval_s,
    )


def load_site_key(config: Config) -> PublicKey:
    """The site's key, which signs policies and commands; a change of it that a power cut interrupted is completed."""
    complete(config.keys.folder, config.match.policy)
    path = config.keys.folder / "site.jwk"
    content = read_bounded(path, MAX_JWK_BYTES)
    try:
        return PublicKey.from_jwk(loads(content, limit=MAX_JWK_BYTES))
    except (KeyStoreError, ValueError) as error:
        raise KeyStoreError(
            f"{path} is no public key: install the site's answer again (postern unit install)"
        ) from error


def load_policy(config: Config, models: Models) -> Policy:
    """The signed policy for these models; raises PolicyError."""
    path, site_key = config.match.policy, load_site_key(config)
    if not path.exists():
        raise PolicyError(f"{path} does not exist: install the policy that the site signed (postern site policy)")
    token = read_brought(path, MAX_POLICY_FILE_BYTES).decode("ascii", errors="replace")
    return verify_policy(token, site_key, model=models.embedder.model, detector=models.detector.model)


def make_registrar(
    config: Config,
    models: EnrolsBy,
    policy: Policy,
    stores: Stores,
    *,
    clock: Clock,
    random: Callable[[int], bytes],
) -> Registrar:
    """Who opens enrolments at this unit and keeps their references."""
    return Registrar(
        align=models.align,
        gallery=stores.gallery,
        audit=stores.audit,
        embedder=models.embedder,
        model=policy.model,
        policy=policy,
        terms=terms_of(config),
        notice_version=config.notice.version,
        clock=clock,
        random=random,
        doubt=lambda: stores.generation.doubt,
    )


def make_answers(config: Config, key: UnitKey) -> Answers:
    """Who signs what the unit says to commands."""
    return Answers(config.unit.site, config.unit.id, key)


def make_enrolment(
    config: Config,
    registrar: Registrar,
    gate: Gate,
    mailbox: Mailbox,
    answers: Answers,
    *,
    clock: Clock,
    random: Callable[[int], bytes],
) -> LiveEnrolment:
    """Enrolments by command at the running unit; what they report goes out by ``mailbox``, signed."""

    def tell(name: str, data: dict[str, Any] | None, end: tuple[str, str] | None) -> None:
        if (report := answers.report(name, data, end)) is not None:
            mailbox.report(*report)

    act = partial(make_spot_act, config, random)
    return LiveEnrolment(registrar, clock=clock, tell=tell, gate=gate, act=act)


def make_verification(mailbox: Mailbox, clock: Clock, answers: Answers) -> Verification:
    """Questions by command whether somebody is who they should be; the answer goes out by ``mailbox``, signed."""

    def tell(name: str, answer: Answer) -> None:
        if (report := answers.report(name, {"state": "answered", "answer": answer}, None)) is not None:
            mailbox.report(*report)

    return Verification(clock, tell)


def command_side(
    config: Config,
    stores: Stores,
    forgetting: Forgetting,
    *,
    policy: Policy,
    detector: str,
    configuring: Configuring,
    epoch_keys: EpochKeys,
    enrolment: LiveEnrolment,
    verification: Verification,
    request: Request,
    paused: Pause,
    health: Callable[[], bytes],
    log: Callable[[Kind, Mapping[str, Fact]], object],
    answers: Answers,
    clock: Clock,
    random: Callable[[int], bytes],
) -> CommandSide:
    """All that a signed command can reach, as the running unit has it. Raises KeyStoreError and StorageError."""
    commands = Commands(
        site=config.unit.site,
        unit=config.unit.id,
        key=load_site_key(config),
        counter=stores.counter,
        answers=answers,
        clock=clock,
        random=random,
        on_outcome=CommandLog(log, clock=clock, taken=stores.generation.advance),
        on_mandate=partial(take_mandate, UnitFiles(config.keys.folder).mandate),
        doubted=lambda: stores.generation.doubted() or stores.ageing.lead() < timedelta(seconds=-MAX_SKEW_S),
    )
    settle(UnitFiles(config.keys.folder))  # a seal key that has served is gone from the first start on

    @cache
    def rotation() -> KeyRotation:
        from agent.unit.key_rotation import KeyRotation  # noqa: PLC0415 - few starts renew a key

        return KeyRotation(
            keys=config.keys.folder,
            policy=config.match.policy,
            site=config.unit.site,
            unit=config.unit.id,
            audience=config.events.audience,
            epoch_keys=epoch_keys,
            gallery=stores.gallery,
            audit=stores.audit,
            clock=clock,
            on_site_key=commands.obey,
        )

    handlers = console_handlers(config, clock) | make_handlers(
        Parts(
            gallery=stores.gallery,
            outbox=stores.outbox,
            measured_to=policy.measured_references,
            health=health,
            facts=public_facts(config),
            self_test=partial(self_test, config),
            erase=forgetting.erase,
            paused=paused,
            enrolment=enrolment,
            verification=verification,
            request=request if takes_requests(config) else None,
            doubt=lambda: stores.generation.doubt,
            rotate=lambda args: rotation().rotate(args),
            renew=lambda args: rotation().renew(args),
            configure=site_settings(config, configuring, policy, detector, clock),
            confirm=Confirming(stores.ageing, stores.generation, stores.audit, clock).command,
        )
    )
    commands.bind(handlers)
    return CommandSide(commands, handlers)


def make_token_check(config: Config, model: str, stores: Stores, clock: Clock) -> TokenCheck | None:
    """What takes the tokens that people hold up; None where they may not.

    Raises RefusedError where their library is missing: now, and not when somebody holds one up.
    """
    if not reads_tokens(config):
        return None
    cbor()
    for sentence in shortcomings(config, clock):
        log.warning("%s", sentence)
    return TokenCheck(
        config=config,
        model=model,
        clock=clock,
        latest=stores.ageing.latest,
        tombstones=stores.gallery.tombstones,
    )


def make_cards(config: Config, random: Callable[[int], bytes]) -> Callable[[SubjectId], bytes] | None:
    """Who gives people their numbers at a controller; None where there is none. Raises KeyStoreError, StorageError."""
    if not any(isinstance(one, OsdpOutput) for one in config.outputs):
        return None
    return card_numbers(UnitFiles(config.keys.folder), random)


def make_endings(config: Config, clock: Clock, *, weeks: Callable[[], int]) -> Endings:
    """What tells in good time that something runs out."""
    tokens = partial(_token_list_end, config)
    return Endings(credentials_of(config), clock, unit=config.unit.id, weeks=weeks, tokens=tokens)


def _token_list_end(config: Config) -> datetime | None:
    """Until when the site's list of tokens counts here; None where none are taken. Raises as ``load_token_list``."""
    if not reads_tokens(config):
        return None
    return parse_time(load_token_list(UnitFiles(config.keys.folder), site=config.unit.site).expires_at)


def make_unit_discovery(config: Config, topics: Topics) -> Discovery | None:
    """What Home Assistant is told of this unit, where it is wanted."""
    if not config.broker.home_assistant:
        return None
    return make_discovery(
        topics,
        name=config.unit.name,
        model=board(),
        version=agent.__version__,
        presence=config.events.presence,
        health_interval_s=config.broker.health_interval_s,
    )


def make_seal(config: Config) -> Callable[[str, str], str] | None:
    """How subjects are sealed to the consumer, or None when events carry pseudonyms; raises KeyStoreError."""
    path = config.events.consumer_key
    if path is None:
        return None
    from agent.protocol.sealed import read_consumer_jwk, seal  # noqa: PLC0415 - an optional extra

    content = read_brought(path, MAX_JWK_BYTES)
    try:
        consumer = read_consumer_jwk(loads(content, limit=MAX_JWK_BYTES))
    except (KeyStoreError, ValueError) as error:
        raise KeyStoreError(f"{path} is no public key: export it again at the consumer") from error
    site, audience = config.unit.site, config.events.audience
    return lambda name, epoch: seal(name, consumer, site=site, audience=audience, epoch=epoch)


def self_test(config: Config) -> Mapping[str, Any]:
    """Load and test the models afresh; on the caller's own interpreters."""
    from agent.unit.models import load_models  # noqa: PLC0415 - the runtime is needed by few commands

    load_models(config)
    return {"models": "ok"}
