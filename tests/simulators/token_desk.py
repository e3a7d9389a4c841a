# SPDX-License-Identifier: Apache-2.0
"""A site with a desk that issues tokens and a gate that takes them, made with the real kit."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agent.config.schema import Config
from agent.door.token import Carried
from agent.gallery.records import Held
from agent.gallery.template import Vector
from agent.protocol.subject import SUBJECT_BYTES, SubjectId
from agent.site import units
from agent.site.token_list import issue_token_list
from agent.unit.joining import install_epoch_keys
from agent.unit.seal_key import statement
from agent.unit.tokens import Issued, TokenCheck, install_token_list, make_issued
from tests.simulators.config import parse_config
from tests.simulators.site_office import SiteOffice

EXAMPLE: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "deploy/config.example.yaml").read_text())
MODEL = "sha256:" + "ab" * 32
PURPOSE, NOTICE = "Boarding without a paper, at this gate alone", "2026-1"
DESK, GATE = "desk-1", "gate-1"
SENTENCES = {  # what the unit itself has to say to whoever holds a token up
    "clock": "tokens wait until this unit knows the time: let its clock be synchronised",
    "list_ended": "the list of tokens of this unit has ended: carry the site's newest here (postern site token-list,"
    " then postern ask UNIT key/rotate token_list=@FILE)",
    "revoked": "the token was revoked: ask the desk for a new one",
    "expired": "the token has ended: ask the desk for a new one",
    "wrong_unit": "the token is not for this unit: use the one that it names",
    "wrong_model": "the token was made with another model than this unit has: ask the desk for a new one",
    "wrong_terms": "the token was given for another purpose or notice than this unit's: read the notice here, then ask"
    " the desk for a new one",
}


class TokenDesk:
    """``gate`` says what the gate makes of bytes; ``issue`` makes a token at the desk."""

    def __init__(self, folder: Path) -> None:
        self.office = SiteOffice(folder)
        self.clock = self.office.clock
        self.folder = folder
        self.erased: tuple[str, ...] = ()
        self._configs: dict[tuple[str, str], Config] = {}
        for unit in (DESK, GATE):
            self.office.enrol(unit)
        self.renew_list(issuers=[DESK])
        for unit in (DESK, GATE):
            self.bring_keys(unit)

    def renew_list(self, **changes: Any) -> str:
        listed = issue_token_list(self.office.site, clock=self.clock, **changes)
        for unit in (DESK, GATE):
            install_token_list(self.office.keys(unit).folder, listed.encode(), site="hq")
        return listed

    def bring_keys(self, unit: str) -> None:
        sealed = units.issue_epoch_keys(self.office.site, unit, clock=self.clock)
        now = self.clock.now()
        install_epoch_keys(
            self.office.keys(unit).folder, sealed, site="hq", unit=unit, now=now, clock=self.clock.state()
        )
        stated = statement(self.office.keys(unit), site="hq", unit=unit)
        units.take_seal_key(self.office.site, stated, clock=self.clock)

    def config(self, unit: str, **changes: Any) -> Config:
        key = (unit, repr(changes))
        if key not in self._configs:
            self._configs[key] = self._config(unit, changes)
        return self._configs[key]

    def _config(self, unit: str, changes: dict[str, Any]) -> Config:
        content = EXAMPLE | {
            "unit": {"site": "hq", "id": unit, "name": "Gate"},
            "purpose": PURPOSE,
            "notice": {**EXAMPLE["notice"], "version": NOTICE},
            "activation": {"kind": "button", "name": "gate", "inputs": [{"kind": "token"}], "window_s": 30},
            "liveness": "require",
            "keys": {"folder": str(self.office.keys(unit).folder)},
        }
        return parse_config(yaml.safe_dump(content | changes).encode(), self.folder / "config.yaml")

    def held(self, **changes: Any) -> Held:
        now = self.clock.now()
        values = {
            "subject": SubjectId(secrets.token_bytes(SUBJECT_BYTES)),
            "model": MODEL,
            "captures": 5,
            "purpose": PURPOSE,
            "site": "hq",
            "units": (DESK, GATE),
            "notice_version": NOTICE,
            "evidence_digest": "sha256:" + "00" * 32,
            "age_class": "of_age",
            "given_at": now,
            "expires_at": now + timedelta(days=90),
            "enrolled_at": now,
            "last_used_on": now.date(),
            "erased_by": (now + timedelta(days=90)).date(),
        }
        return Held(**{**values, **changes})

    def issue(
        self,
        held: Held | None = None,
        *,
        unit: str = DESK,
        reference: Vector | None = None,
        model: str = MODEL,
        units: tuple[str, ...] | None = None,
        until: datetime | None = None,
    ) -> Issued:
        return make_issued(
            self.config(unit),
            self.held() if held is None else held,
            reference_of(1) if reference is None else reference,
            model=model,
            key=self.office.event_key(unit),
            clock=self.clock,
            units=units,
            until=until,
        )

    def gate(self, data: bytes, *, model: str = MODEL, unit: str = GATE, **changes: Any) -> Carried:
        """Raises VerificationError."""
        config = self.config(unit, **changes)
        check = TokenCheck(
            config=config,
            model=model,
            clock=self.clock,
            latest=self.clock.now,
            tombstones=lambda: self.erased,
        )
        return check(data)


def reference_of(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))
