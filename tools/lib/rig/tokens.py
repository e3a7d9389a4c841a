# SPDX-License-Identifier: Apache-2.0
"""Tokens of a scenario: issued by a desk of the site and held up before the camera; nobody of them is enrolled here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.camera.scene.script import Code, SceneScript, Seconds
from agent.disk.files import write_atomic
from agent.gallery.template import Vector, mean_reference, pack
from agent.keys import SigningKey
from agent.protocol.names import round_down
from agent.protocol.subject import SUBJECT_BYTES, SubjectId
from agent.protocol.token import ID_BYTES, Content, make_token, model_mark, terms_mark, unit_mark
from agent.protocol.token_list import TokenList
from agent.unit.card import code_modules
from agent.unit.key_files import UnitFiles
from tools.lib.demo.site import NOTICE, PURPOSE, SITE, UNIT
from tools.lib.rig.faults import Who

LASTS = timedelta(days=30)
LIST_LASTS = timedelta(days=14)


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody's token in view for a while; ``times`` are when, ``expires_at`` its end."""

    who: Who
    times: Annotated[tuple[tuple[Seconds, Seconds], ...], Meta(min_length=1, max_length=8)]
    x: Annotated[int, Meta(ge=0, description="its left edge in pixels")]
    y: Annotated[int, Meta(ge=0, description="its upper edge in pixels")]
    module: Annotated[float, Meta(gt=0.5, le=20, description="pixels of a module")] = 3.0
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    revoked: bool = False


class Desk:
    """The unit that issues, and the key and list that the site gave to the unit of the scenario."""

    def __init__(self, desk_key: SigningKey, site_key: SigningKey, *, start: datetime, seed_key: bytes) -> None:
        self._key, self._site_key, self._start, self._token_key = desk_key, site_key, start, seed_key
        self._revoked: list[str] = []

    def hand_over(self, files: UnitFiles) -> None:
        """Write the unit's key and list of tokens."""
        listed = TokenList(
            version=1,
            site=SITE,
            serial=1,
            issued_at=round_down(self._start, 1),
            expires_at=round_down(self._start + LIST_LASTS, 1),
            issuers=(self._key.public_jwk(),),
            tokens=tuple(self._revoked),
        )
        write_atomic(files.token_key, self._token_key)
        write_atomic(files.token_list, listed.sign(self._site_key).encode())

    def issue(self, token: Token, vectors: Sequence[Vector], *, model: str, chance: bytes) -> tuple[SubjectId, bytes]:
        """The subject whose reference it is, and the token; ``chance`` makes both."""
        subject, token_id = SubjectId(chance[:SUBJECT_BYTES]), chance[SUBJECT_BYTES : SUBJECT_BYTES + ID_BYTES]
        content = Content(
            subject=subject,
            expires_at=token.expires_at or self._start + LASTS,
            model=model_mark(model),
            terms=terms_mark(PURPOSE, NOTICE["version"]),
            units=(unit_mark(UNIT),),
            template=pack(mean_reference(vectors)),
        )
        if token.revoked:
            self._revoked.append(token_id.hex())
        made = make_token(content, token_id=token_id, key=self._token_key, issuer=self._key, site=SITE)
        return subject, made


def in_view(script: SceneScript, token: Token, made: bytes) -> SceneScript:
    """The scene in which the token is held up."""
    rows = tuple("".join("1" if dark else "0" for dark in row) for row in code_modules(made))
    codes = [
        Code(rows=rows, x=token.x, y=token.y, module=token.module, appears=begin, leaves=end)
        for begin, end in token.times
    ]
    return msgspec.structs.replace(script, disturbances=(*script.disturbances, *codes))
