# SPDX-License-Identifier: Apache-2.0
"""A unit's files with people in them: gallery, events that wait, and audit log, as its own commands write them.

As a program, ``python -m tests.simulators.unit_life CONFIG SEED`` enrols some people and erases one of them with the
command line's own function, and marks what it was promised.
"""

from __future__ import annotations

import secrets
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import yaml

from agent.clock import Clock, SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.gallery.consent import ConsentRecord
from agent.keys import UnitKey
from agent.notices.notice import notice_id
from agent.protocol.subject import SubjectId
from agent.unit.assemble import load_key
from agent.unit.by_hand import erase
from agent.unit.forget import owner_of
from agent.unit.stores import Stores, open_stores
from tests.simulators.config import EXAMPLE, example
from tests.simulators.gallery_life import MODEL, captures, consent
from tests.simulators.power import mark
from tests.simulators.signing_unit import match_draft


def write_unit(config: Path, folder: Path, name: str = "door-3") -> Config:
    """Configure the unit ``name`` whose files all lie in ``folder``, and give it a key unless it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    data = example()
    for section, file in (("gallery", "gallery.db"), ("outbox", "outbox.db"), ("audit", "audit.log")):
        data[section]["path"] = str(folder / file)
    data["keys"]["folder"], data["unit"]["id"] = str(folder), name
    data["models"]["manifest"] = str(EXAMPLE.parents[1] / "models" / "manifest.yaml")
    config.write_text(yaml.safe_dump(data))
    if not (folder / "unit.key").exists():
        UnitKey.generate().save(folder / "unit.key")
    return load_config(config)


def agreed(config: Config, clock: Clock) -> ConsentRecord:
    """A consent that this unit accepts."""
    version, digest = notice_id(config)
    names = {"site": config.unit.site, "units": (config.unit.id,), "purpose": config.purpose}
    return consent(clock.now(), notice_version=version, notice_digest=digest, **names)


def opened(config: Config, clock: Clock) -> AbstractContextManager[Stores]:
    """The unit's stores, opened as the service and the command line do."""
    return open_stores(config, load_key(config), clock)


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
