# SPDX-License-Identifier: Apache-2.0
"""A token as something to carry: a card with its QR code (PDF or PNG), or the bytes for an NFC card.

The code is printed 60 mm wide, dark on white, at error level L: a higher level reads no better and needs more modules.
What a person can read beside it are the site, the end, the id by which a lost token is revoked, and nothing about them.
"""

from __future__ import annotations

import io
from typing import Literal

import segno
from PIL import Image, ImageDraw, ImageFont

from agent.unit.tokens import Issued

Kind = Literal["pdf", "png", "bin"]

DOTS_PER_MM = 12  # about 300 dpi
CODE_MM = 60
MARGIN_MM = 6
QUIET_MODULES = 4  # ISO/IEC 18004 sec. 5.3.8
TEXT_SCALE = 3  # of Pillow's own letters, which are 11 dots high
LINE_MM = 4
MM_PER_INCH = 25.4


def draw_card(issued: Issued, *, site: str, kind: Kind) -> bytes:
    """The file's content."""
    if kind == "bin":
        return issued.token
    modules = code_modules(issued.token)
    dots = max(1, CODE_MM * DOTS_PER_MM // (len(modules) + 2 * QUIET_MODULES))
    code = Image.new("1", (len(modules), len(modules)), 1)
    code.putdata([0 if dark else 1 for row in modules for dark in row])
    side, quiet, margin = dots * len(modules), dots * QUIET_MODULES, MARGIN_MM * DOTS_PER_MM
    lines = (
        f"{site}: valid until {issued.expires_at:%Y-%m-%d %H:%M} UTC",
        f"token {issued.token_id}",
        "Keep it as you keep a key. Lost: tell the desk.",
    )
    width = side + 2 * (quiet + margin)
    card = Image.new("1", (width, side + 2 * quiet + margin + len(lines) * LINE_MM * DOTS_PER_MM + margin), 1)
    card.paste(code.resize((side, side), Image.Resampling.NEAREST), (margin + quiet, margin + quiet))
    for number, line in enumerate(lines):
        card.paste(
            _letters(line, width - 2 * margin), (margin, margin + side + 2 * quiet + number * LINE_MM * DOTS_PER_MM)
        )
    content = io.BytesIO()
    dpi = DOTS_PER_MM * MM_PER_INCH
    if kind == "pdf":
        card.save(content, "PDF", resolution=dpi)
    else:
        card.save(content, "PNG", dpi=(dpi, dpi))
    return content.getvalue()


def code_modules(token: bytes) -> list[list[bool]]:
    """The code's modules row by row, True where dark; without the quiet zone."""
    made = segno.make_qr(token, error="l", mode="byte", boost_error=False)
    return [[bool(module) for module in row] for row in made.matrix]


def _letters(text: str, most: int) -> Image.Image:
    font = ImageFont.load_default()
    box = font.getbbox(text)
    line = Image.new("1", (int(box[2]), int(box[3]) + 1), 1)
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=0)
    scale = min(TEXT_SCALE, most / line.width)
    return line.resize((int(line.width * scale), int(line.height * scale)), Image.Resampling.NEAREST)
