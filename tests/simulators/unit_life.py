# SPDX-License-Identifier: Apache-2.0
"""A unit's files with people in them: gallery, events that wait, and audit log, as its own commands write them.

As a program, ``python -m tests.simulators.unit_life CONFIG SEED`` enrols some people and erases one of them with the
command line's own function, and marks what it was promised.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from agent.audit.log import AuditLog
from agent.cli.subjects import erase
from agent.clock import Clock, SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.gallery.consent import ConsentRecord
from agent.gallery.store import GalleryStore
from agent.keys import UnitKey
from agent.notices.notice import notice_id
from agent.outbox.queue import Outbox
from agent.subject import SubjectId
from agent.unit.assemble import load_key, open_gallery, open_outbox
from agent.unit.forget import owner_of
from tests.simulators.gallery_life import MODEL, captures, consent
from tests.simulators.power import mark
from tests.simulators.signing_unit import match_draft

EXAMPLE = Path(__file__).parents[2] / "deploy/config.example.yaml"


@dataclass(frozen=True)
class Stores:
    """What a unit keeps."""

    gallery: GalleryStore
    outbox: Outbox
    audit: AuditLog


def write_unit(config: Path, folder: Path) -> Config:
    """Configure a unit whose files all lie in ``folder``, and give it a key."""
    folder.mkdir(parents=True, exist_ok=True)
    data = yaml.safe_load(EXAMPLE.read_text())
    for section, name in (("gallery", "gallery.db"), ("outbox", "outbox.db"), ("audit", "audit.log")):
        data[section]["path"] = str(folder / name)
    data["keys"]["folder"] = str(folder)
    config.write_text(yaml.safe_dump(data))
    UnitKey.generate().save(folder / "unit.key")
    return load_config(config)


def agreed(config: Config, clock: Clock) -> ConsentRecord:
    """A consent that this unit accepts."""
    version, digest = notice_id(config)
    names = {"site": config.unit.site, "units": (config.unit.id,), "purpose": config.purpose}
    return consent(clock.now(), notice_version=version, notice_digest=digest, **names)


@contextmanager
def opened(config: Config, clock: Clock) -> Iterator[Stores]:
    """The unit's stores, opened as the service and the command line do."""
    key = load_key(config)
    with ExitStack() as stack:
        audit = stack.enter_context(closing(AuditLog(config.audit.path, clock=clock, random=secrets.token_bytes)))
        gallery = stack.enter_context(open_gallery(config, key, clock))
        yield Stores(gallery, stack.enter_context(open_outbox(config, key, clock)), audit)


def enrol(stores: Stores, config: Config, clock: Clock, rng: np.random.Generator) -> SubjectId:
    """One more person, with an event about them that waits."""
    record = agreed(config, clock)
    subject = stores.gallery.enrol(captures(rng), consent=record, model=MODEL)
    stores.audit.append("consent_given", subject=subject, personal={"evidence": record.evidence_digest})
    stores.audit.append("enrolled", {"model": MODEL}, subject=subject)
    stores.outbox.append(match_draft(clock, "p1_" + rng.bytes(16).hex()), owner=owner_of(subject))
    return subject


def live(config: Config, seed: int) -> None:
    """Enrol five people, and erase the third."""
    clock, rng = SimulatedClock(), np.random.default_rng(seed)
    with opened(config, clock) as stores:
        subjects = [enrol(stores, config, clock, rng) for _ in range(5)]
    mark("begin " + subjects[2].hex())
    erase(config, clock, secrets.token_bytes, [subjects[2]])
    mark("erased " + subjects[2].hex())


if __name__ == "__main__":
    live(load_config(Path(sys.argv[1])), int(sys.argv[2]))
