# SPDX-License-Identifier: Apache-2.0
"""In which pictures a face was found: a row a picture, counted by turn of the head and by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.detect.face import LEFT_EYE, NOSE, RIGHT_EYE, Face
from tools.lib.evaluate.rates import rate
from tools.lib.evaluate.shards import LabelledFace

NEAR_FRONTAL, HALF = 0.25, 0.5  # offset of the nose from the middle of the eyes, in eye distances
LEAST = 5  # pictures: a group of fewer says nothing


class Row(NamedTuple):
    """One picture: how many faces were found, the best one's box and score, and what is known of the subject."""

    name: str
    found: int
    box: tuple[float, float, float, float]
    score: float
    turn: str
    group: str


def row(name: str, faces: Sequence[Face], *, turn: str = "", group: str = "") -> Row:
    best = max(faces, key=lambda face: face.score, default=None)
    box, score = (best.box, best.score) if best else ((np.nan,) * 4, np.nan)
    return Row(name, len(faces), box, score, turn, group)


def turn_of(face: LabelledFace) -> str:
    """How far the head is turned, by the teacher's landmarks."""
    return turn(face.landmarks) if np.isfinite(face.landmarks).all() else "unknown"


def turn(landmarks: NDArray[np.floating]) -> str:
    right, left, nose = (landmarks[k].astype(np.float64) for k in (RIGHT_EYE, LEFT_EYE, NOSE))
    eyes = left - right
    distance = max(float(np.hypot(*eyes)), 1e-6)
    offset = abs(float((nose - (right + left) / 2) @ eyes)) / distance**2
    return "near-frontal" if offset <= NEAR_FRONTAL else "half" if offset <= HALF else "profile"


def missed(rows: Iterable[Row]) -> dict[str, Any]:
    """Return in what share of the pictures nobody was found, with its 95 % interval."""
    listed = list(rows)
    if not listed:
        return {"pictures": 0, "nobody_found": 0.0}
    return {"pictures": len(listed), **rate("nobody_found", sum(r.found == 0 for r in listed), len(listed))}


def by_subject(rows: Sequence[Row]) -> dict[str, Any]:
    """Overall, by turn, and by group of the near-frontal and of all."""
    turns = sorted({r.turn for r in rows})
    groups = sorted({r.group for r in rows})
    table = {"all": missed(rows)} | {name: missed(r for r in rows if r.turn == name) for name in turns}
    frontal = {g: missed(r for r in rows if r.group == g and r.turn == "near-frontal") for g in groups}
    told = {g: v for g, v in frontal.items() if v["pictures"] >= LEAST}
    worst = max(told, key=lambda g: told[g]["nobody_found"], default=None)
    return {
        "by_turn": table,
        "near_frontal_by_group": told,
        "worst_group_of_the_near_frontal": worst,
        **{f"its_{key}": value for key, value in told.get(worst or "", {}).items()},
        "all_by_group": {g: missed(r for r in rows if r.group == g) for g in groups},
    }


def false_faces(rows: Sequence[Row]) -> dict[str, Any]:
    counts = np.array([r.found for r in rows])
    return {
        "empty_images": len(rows),
        "false_faces_per_image": float(counts.mean()),
        **rate("share_with_a_false_face", int((counts > 0).sum()), len(rows)),
    }


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write names, found, boxes, scores, turns and groups, a row a picture."""
    with path.open("wb") as out:
        np.savez_compressed(
            out,
            names=np.array([r.name for r in rows]),
            found=np.array([r.found for r in rows], np.int32),
            boxes=np.array([r.box for r in rows], np.float32).reshape(-1, 4),
            scores=np.array([r.score for r in rows], np.float32),
            turns=np.array([r.turn for r in rows]),
            groups=np.array([r.group for r in rows]),
        )
