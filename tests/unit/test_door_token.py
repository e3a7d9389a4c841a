# SPDX-License-Identifier: Apache-2.0
"""Holding up a token: read by the pixels of a module, one act each time, overwritten, told to its bearer alone."""

from __future__ import annotations

import io
import secrets
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.camera.base import RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import Code, SceneScript
from agent.clock import SimulatedClock
from agent.door.codes import QrCodes
from agent.door.feedback import REFUSED_NS, TEXTS, Feedback
from agent.door.token import READ_EVERY_NS, REST_NS, Carried, TokenAct
from agent.errors import VerificationError
from agent.gallery.references import References
from agent.keys import UnitKey
from agent.protocol.subject import SubjectId
from agent.protocol.token import MAX_TOKEN_BYTES, Content, look_at, make_token, unit_mark
from agent.unit.card import CODE_MM, _letters, code_modules, draw_card
from agent.unit.tokens import Issued

MODULES = 65  # of the largest token


def a_token(seed: int = 0, units: int = 10) -> bytes:
    rng = np.random.default_rng(seed)
    content = Content(
        SubjectId(rng.bytes(16)), datetime(2027, 1, 1, tzinfo=UTC), rng.bytes(8), rng.bytes(8),
        tuple(unit_mark(f"gate-{n}") for n in range(units)), rng.bytes(128),
    )  # fmt: skip
    return make_token(content, token_id=rng.bytes(12), key=rng.bytes(32), issuer=UnitKey.generate(), site="hq")


def shown(token: bytes, module: float, *, seed: int = 0, tilt: float = 0.0) -> RgbPicture:
    """A picture of a camera with noise, in which the code is held up."""
    rows = tuple("".join("1" if dark else "0" for dark in row) for row in code_modules(token))
    script = SceneScript(
        size=(640, 480),
        duration=1,
        seed=seed,
        noise=3.0,
        disturbances=(Code(rows=rows, x=180 + seed % 7, y=95 + seed % 5, module=module + seed % 3 * 0.01),),
    )
    frame = SceneRenderer(script).frame(seed % 4)
    if tilt:
        frame = np.asarray(Image.fromarray(frame).rotate(tilt, Image.Resampling.BICUBIC, fillcolor=(180, 184, 186)))
    return RgbPicture(np.ascontiguousarray(frame))


def test_the_largest_token_is_a_code_of_65_modules() -> None:
    token = a_token()
    assert len(token) <= MAX_TOKEN_BYTES
    assert len(code_modules(token)) == MODULES


@pytest.mark.parametrize(
    ("module", "least", "most"), [(1.2, 0.0, 0.2), (2.7, 0.95, 1.0), (3.0, 0.95, 1.0), (4.0, 1.0, 1.0)]
)
def test_the_reading_rate_by_pixels_of_a_module(module: float, least: float, most: float) -> None:
    codes, tries = QrCodes(), 20
    read = 0
    for seed in range(tries):
        content = np.random.default_rng(seed).bytes(MAX_TOKEN_BYTES)
        read += codes.read(shown(content, module, seed=seed)) == [content]
    assert least <= read / tries <= most


def test_a_code_that_is_held_askew_is_read() -> None:
    codes = QrCodes()
    contents = [np.random.default_rng(seed).bytes(MAX_TOKEN_BYTES) for seed in range(20)]
    pictures = [shown(one, 4.0, seed=seed, tilt=12 * (seed % 5 - 2)) for seed, one in enumerate(contents)]
    read = [codes.read(picture) == [one] for picture, one in zip(pictures, contents, strict=True)]
    assert sum(read) >= 17


@pytest.mark.parametrize("kind", ["png", "pdf", "bin"])
def test_what_is_handed_out_is_the_token(kind: str, tmp_path: Path) -> None:
    token = a_token()
    issued = Issued(token, secrets.token_hex(12), datetime(2027, 1, 1, tzinfo=UTC), ("gate-1",))
    content = draw_card(issued, site="hq", kind=kind)  # type: ignore[arg-type]
    if kind == "bin":
        assert content == token
    elif kind == "pdf":
        assert content.startswith(b"%PDF-")
    else:
        (tmp_path / "card.png").write_bytes(content)
        card = Image.open(tmp_path / "card.png")
        assert card.width / card.info["dpi"][0] * 25.4 == pytest.approx(CODE_MM + 12, abs=6)
        assert QrCodes().read(RgbPicture(np.asarray(card.convert("RGB")))) == [token]


def test_a_card_is_laid_out_in_millimetres_and_says_three_lines_and_nothing_about_the_person() -> None:
    issued = Issued(bytes(300), "ab" * 16, datetime(2027, 1, 2, 3, 4, tzinfo=UTC), ("gate-1",))
    drawn = Image.open(io.BytesIO(draw_card(issued, site="hq", kind="png")))
    assert drawn.mode == "1"
    assert drawn.info["dpi"] == pytest.approx((304.8, 304.8), abs=0.01)
    # 61 modules and 8 of quiet of 10 dots in 60 mm, 6 mm around them, and 4 mm a line
    assert len(code_modules(issued.token)) == 61
    assert drawn.size == (610 + 80 + 2 * 72, 610 + 80 + 2 * 72 + 3 * 48)
    ink = ~np.asarray(drawn)
    code = ink[: 72 + 690]
    assert (code.any(1).argmax(), code.any(0).argmax()) == (112, 112), "where a finder begins"
    assert (ink[112:722:10, 112:722:10] == np.array(code_modules(issued.token))).all()
    assert not ink[722:762].any()
    assert not ink[:, :72].any()
    assert not ink[:, -72:].any()
    said = (
        "hq: valid until 2027-01-02 03:04 UTC",
        f"token {'ab' * 16}",
        "Keep it as you keep a key. Lost: tell the desk.",
    )
    for top, text in zip((762, 810, 858), said, strict=True):
        line = ~np.asarray(_letters(text, 690))
        assert line.any()
        assert 20 <= line.shape[0] <= 48, "read at arm's length, and no line upon another"
        assert (ink[top : top + line.shape[0], 72 : 72 + line.shape[1]] == line).all(), text
        ink[top : top + line.shape[0], 72 : 72 + line.shape[1]] = False
    assert not ink[762:].any(), "nothing else"
    assert _letters("x" * 200, 690).width <= 690
    assert b"/MediaBox [ 0 0 197.0" in draw_card(issued, site="hq", kind="pdf"), "834 dots are 69.5 mm"


# -- the act -----------------------------------------------------------------------------------------


class Held:
    """Codes that are in view, and what they bring."""

    def __init__(self) -> None:
        self.clock, self.view, self.looks = SimulatedClock(), [], 0
        self.takes_s = 0.0
        self.refuse: VerificationError | None = None
        self.made: list[Carried] = []
        self.act = TokenAct(self, self.check, self.clock)

    def read(self, picture: object) -> list[bytes]:
        self.looks += 1
        self.clock.advance(self.takes_s)
        return list(self.view)

    def check(self, data: bytes) -> Carried:
        if self.refuse is not None:
            raise self.refuse
        row = np.full((1, 128), 0.088, np.float32)
        self.made.append(
            Carried(
                References((SubjectId(data[:16]),), row, "m", carried=True),
                look_at(data).token_id,
                self.clock.now(),
                self.again,
            )
        )
        return self.made[-1]

    def again(self) -> None:
        if self.refuse is not None:
            raise self.refuse

    def look(self, seconds: float = 0.25) -> Carried | str | None:
        self.clock.advance(seconds)
        return self.act.look(shown_nothing())


def shown_nothing() -> RgbPicture:
    return RgbPicture(np.zeros((2, 2, 3), np.uint8))


def test_what_a_token_brings_is_overwritten_when_it_is_dropped() -> None:
    held = Held()
    held.view = [a_token()]
    taken = held.look()
    assert isinstance(taken, Carried)
    assert held.act.carried is taken
    assert held.act.drop()
    assert not taken.references.matrix.any()
    assert held.act.carried is None
    assert not held.act.drop()


def test_nothing_is_read_more_often_than_needed_nor_while_a_token_counts() -> None:
    held = Held()
    for _ in range(50):
        held.look(READ_EVERY_NS / 1e9 / 10)
    assert held.looks <= 6
    held.view = [a_token()]
    held.look()
    before = held.looks
    for _ in range(20):
        held.look()
    assert held.looks == before


def test_a_poster_that_is_slow_to_read_takes_a_fifth_of_the_time_at_most() -> None:
    """A pattern of a code's corners alone keeps the library busy for a second."""
    held = Held()
    held.takes_s, began = 0.5, 0.0
    for _ in range(200):
        held.look(0.05)
        began += 0.05
    assert held.looks * held.takes_s <= (began + held.looks * held.takes_s) / 4
    held.takes_s = 0.008
    before = held.looks
    for _ in range(100):
        held.look(0.05)
    assert held.looks - before >= 15, "and no longer than it is there"


def test_a_token_that_is_revoked_while_its_window_is_open_ends_it_at_once() -> None:
    held = Held()
    held.view = [a_token()]
    assert isinstance(held.look(), Carried)
    held.clock.advance(0.25)
    assert held.act.ended() is None
    held.refuse = VerificationError("revoked", "the token was revoked: ask the desk for a new one")
    held.clock.advance(0.25)
    assert held.act.ended() == "the token was revoked: ask the desk for a new one"
    assert held.act.drop()
    held.clock.advance(0.25)
    assert held.act.ended() is None


def test_a_refusal_is_told_though_another_code_is_beside_it() -> None:
    held = Held()
    held.view, held.refuse = [a_token(), b"https://example.org"], None
    reasons = iter(["expired", "no_token"])
    held.check = lambda data: (_ for _ in ()).throw(VerificationError(next(reasons), "the token has ended"))  # type: ignore[method-assign]
    held.act = TokenAct(held, held.check, held.clock)
    assert held.look() == "the token has ended"


def test_a_code_that_is_no_token_is_as_good_as_none() -> None:
    held = Held()
    held.view, held.refuse = [b"https://example.org"], VerificationError("no_token", "not ours")
    assert held.look() is None


def test_a_refusal_is_told_and_a_good_token_beside_a_bad_code_is_taken() -> None:
    held = Held()
    held.view, held.refuse = [a_token()], VerificationError("expired", "the token has ended: ask the desk")
    assert held.look() == "the token has ended: ask the desk"
    assert held.act.carried is None


def test_a_token_that_stays_in_view_after_its_window_acts_again_only_once_it_was_away() -> None:
    held = Held()
    token = a_token()
    held.view = [token]
    assert isinstance(held.look(), Carried)
    held.act.drop()
    for _ in range(40):
        assert held.look() is None
    held.view = []
    for _ in range(round(REST_NS / 1e9 / 0.25) + 1):
        held.look()
    held.view = [token]
    assert isinstance(held.look(), Carried)


# -- what its bearer sees ----------------------------------------------------------------------------


def test_who_is_refused_reads_why_and_others_see_what_everybody_sees(tmp_path: Path) -> None:
    clock, text = SimulatedClock(), tmp_path / "display"
    feedback = Feedback({}, text, press=True, clock=clock, on_problem=pytest.fail)
    feedback.refuse("the token has ended: ask the desk for a new one")
    feedback.tick()
    assert text.read_text().strip() == "the token has ended: ask the desk for a new one"
    feedback.refuse("the token was revoked: ask the desk for a new one")
    feedback.tick()
    assert "revoked" in text.read_text()
    clock.advance(REFUSED_NS / 1e9)
    feedback.tick()
    assert text.read_text().strip() == TEXTS["ready"]
