# SPDX-License-Identifier: Apache-2.0
"""What is done at the unit itself while its service is stopped: enrol, erase, tell what is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime

from agent.audit.ageing import Ageing
from agent.camera.open import open_camera
from agent.clock import Clock
from agent.config.schema import Config
from agent.door.acts import Request
from agent.door.feedback import TEXTS, write_text
from agent.door.gpio import GpiodLines
from agent.door.lines import Lines
from agent.errors import RefusedError, StorageError
from agent.gallery.consent import ConsentRecord
from agent.gallery.records import Held
from agent.keys import UnitKey
from agent.protocol.receipt import ErasureReceipt
from agent.protocol.subject import SubjectId
from agent.unit.assemble import load_key, load_policy, make_cards, make_registrar
from agent.unit.at_the_door import Presses, make_gate, make_spot_act, switch_off
from agent.unit.confirm import Confirming
from agent.unit.forget import Forgetting
from agent.unit.key_files import KeptFiles
from agent.unit.models import load_models
from agent.unit.spot_session import SpotSession, capture
from agent.unit.stores import Stores, open_gallery, open_stores
from agent.unit.tokens import Issued, TokenCheck, make_issued


def enrol(
    config: Config,
    clock: Clock,
    random: Callable[[int], bytes],
    consent: ConsentRecord,
    subject: SubjectId | None,
    *,
    replace: SubjectId | None = None,
    tell: Callable[[str], None],
    lines: Lines | None = None,
) -> SubjectId:
    """Enrol the person before the camera; ``tell`` gets advice for them. Raises what ``Registrar`` raises.

    ``replace`` names the ``subject`` once more where its reference is of another model; ``lines`` are the board's, of a
    rig another's.
    """
    models = load_models(config)
    policy = load_policy(config, models)
    with _settled(config, load_key(config), clock, random) as stores:
        registrar = make_registrar(config, models, policy, stores, clock=clock, random=random)
        registrar.check_word(consent, subject, replace)
        act = make_spot_act(config, random)
        session = SpotSession(registrar.open(consent, subject), act, make_gate(config))
        presses = Presses(
            config, lines or GpiodLines(), clock=clock, request=Request(), on_problem=lambda error: tell(str(error))
        )
        with (
            closing(presses),
            open_camera(config.camera, lores_size=models.detector.input_size, clock=clock) as camera,
        ):
            vectors = capture(camera, models.detector, session, pressed=lambda: presses.look()[1], tell=tell)
        return registrar.keep(vectors, consent, subject, replace=replace)


def issue_token(
    config: Config,
    clock: Clock,
    random: Callable[[int], bytes],
    subject: SubjectId,
    *,
    units: Sequence[str] | None,
    until: datetime | None,
) -> Issued:
    """Make the token of somebody who enrolled here, to be handed to them; it is logged. Raises as ``make_issued``."""
    key, models = load_key(config), load_models(config)
    policy = load_policy(config, models)
    with _settled(config, key, clock, random) as stores:
        if stores.generation.doubt is not None:
            raise RefusedError(stores.generation.doubt)
        found = stores.gallery.references(models.embedder.model, policy.formerly).only(subject)
        told = stores.gallery.held(subject)
        if told is None or not found.subjects:
            raise RefusedError("nobody is enrolled here under this subject: check the id, or enrol the person first")
        issued = make_issued(
            config,
            told,
            found.matrix[0],
            model=models.embedder.model,
            key=key,
            clock=clock,
            units=units,
            until=until,
            random=random,
        )
        stores.audit.append("token_issued", {}, personal={"token": issued.token_id}, subject=subject)
        return issued


def check_token(config: Config, clock: Clock, data: bytes) -> datetime:
    """Whether this unit would take a token, and until when; VerificationError says why not. The service may run."""
    models = load_models(config)
    ageing = Ageing(clock, KeptFiles(config.outbox.path).time, look_only=True)
    check = TokenCheck(config=config, model=models.embedder.model, clock=clock, latest=ageing.latest, tombstones=tuple)
    carried = check(data)
    carried.wipe()
    return carried.expires_at


def outputs_off(config: Config) -> list[str]:
    """Switch every output line off; what could not be done, a sentence each.

    Where nobody holds a line the display shows what it shows at the start: a unit that was killed says no more that
    somebody may come in.
    """
    problems, text = switch_off(config, GpiodLines()), config.feedback.text
    if not problems and text is not None:
        try:
            write_text(text, TEXTS["ready"])
        except StorageError as error:
            problems.append(f"feedback.text: {error}")
    return problems


def erase(
    config: Config, clock: Clock, random: Callable[[int], bytes], subjects: Iterable[SubjectId] | None
) -> list[ErasureReceipt]:
    """Destroy the references of ``subjects`` (None: of all), their unsent events and what the audit log says of them.

    The receipts are signed; the log keeps that something was erased, not who.
    """
    with _settled(config, load_key(config), clock, random) as stores:
        forgetting = Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights)
        return list(forgetting.erase_all()) if subjects is None else [forgetting.erase(one) for one in subjects]


def card_number(config: Config, random: Callable[[int], bytes], subject: SubjectId) -> bytes:
    """By which an access controller knows a subject; RefusedError where this unit is a reader at none."""
    card_of = make_cards(config, random)
    if card_of is None:
        raise RefusedError("this unit reports to no controller: add an output of kind osdp first")
    return card_of(subject)


def listing(config: Config, clock: Clock) -> tuple[tuple[Held, ...], int]:
    """What is held about everybody, and how many references are damaged and cannot be told; changes nothing."""
    with open_gallery(config, load_key(config), clock, look_only=True) as gallery:
        everything = gallery.list()
        return everything, len(gallery) - len(everything)


def held(config: Config, clock: Clock, subject: SubjectId) -> Held:
    """What is held about one person; changes nothing. RefusedError when nothing is."""
    with open_gallery(config, load_key(config), clock, look_only=True) as gallery:
        found = gallery.held(subject)
    if found is None:
        raise RefusedError("nothing is held about this subject at this unit: check the id")
    return found


def confirm(config: Config, clock: Clock, random: Callable[[int], bytes], what: str, reason: str | None) -> None:
    """Say what the site says by ``unit/confirm``. Raises RefusedError, StorageError and KeyStoreError."""
    with _settled(config, load_key(config), clock, random) as stores:
        confirming = Confirming(stores.ageing, stores.generation, stores.audit, clock)
        if what == "time":
            confirming.time(clock.now())
        else:
            confirming.files(reason or "")


@contextmanager
def _settled(config: Config, key: UnitKey, clock: Clock, random: Callable[[int], bytes]) -> Iterator[Stores]:
    """The unit's stores, once everybody who was erased is forgotten in all of them."""
    with open_stores(config, key, clock, random=random) as stores:
        Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights).settle(
            doubted=stores.generation.doubted()
        )
        yield stores
