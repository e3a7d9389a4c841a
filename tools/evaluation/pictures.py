# SPDX-License-Identifier: Apache-2.0
"""Pictures of a folder as frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from agent.camera.base import Frame, RgbPicture, lores_fit
from agent.camera.convert import letterbox

SUFFIXES = {".jpg", ".jpeg", ".png"}


def find(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the pictures below ``folder``, sorted; an evenly spread ``limit`` of them if there are more."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"tools/evaluate: no pictures below {folder}")
    if limit is None or limit >= len(paths):
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def load(path: Path, lores_size: tuple[int, int]) -> Frame:
    """Decode a whole picture to a frame whose lores has the size (w, h) that the detector takes."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    fitted = upright.resize(lores_fit(*upright.size, *lores_size), Image.Resampling.BILINEAR)
    return Frame(0, 0, letterbox(np.asarray(fitted), lores_size), RgbPicture(np.asarray(upright)))
