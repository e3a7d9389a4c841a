# SPDX-License-Identifier: Apache-2.0
"""Pictures of a folder as frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from agent.camera.base import Frame, RgbPicture, letterbox, lores_fit

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
    return as_frame(upright(path), lores_size)


def upright(path: Path) -> Image.Image:
    """Decode a whole picture to RGB, turned as it was taken."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def as_frame(picture: Image.Image, lores_size: tuple[int, int]) -> Frame:
    """Return an RGB picture as a frame."""
    fitted = picture.resize(lores_fit(*picture.size, *lores_size), Image.Resampling.BILINEAR)
    return Frame(0, 0, letterbox(np.asarray(fitted), lores_size), RgbPicture(np.asarray(picture)))


def moved(frame: Frame, dx: int, dy: int, lores_size: tuple[int, int]) -> Frame:
    """Return what the camera would show had it turned a little: the picture ``dx``, ``dy`` pixels farther on."""
    main = frame.main
    whole = Image.fromarray(main.window(0, 0, main.width, main.height))
    return as_frame(ImageChops.offset(whole, dx, dy), lores_size)
