# SPDX-License-Identifier: Apache-2.0
"""Make the demo people: heads of nobody, drawn from a model, chosen far apart, each in several pictures.

tools/train people FACES.npy OUT_FOLDER

FACES.npy comes from tools/train align-faces on a folder of generated portraits. Same input and seed, same
people. The measured figures (how far people are from each other, from their own other pictures and from the
nearest training portrait, as cosines of the teacher's embeddings) are written into people.yaml.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from agent.camera.scene.pose import PICTURE_MARGIN, PICTURE_SCALE, PICTURE_SIDE, TEMPLATE_SIZE, frontal, shade
from tools.lib.train.people_model import GREY, Head, HeadModel
from tools.lib.train.teacher import TEMPLATE, DetectionTeacher, EmbeddingTeacher

PEOPLE, PICTURES = 32, 4
SPARE = 10  # people drawn beyond those, to leave out who is too like another in some picture
CANDIDATES, BATCH = 4000, 100
TRIES = 40  # starting points of the farthest-point selection
SEED = 20260105
MIN_SCORE = 0.92  # detector's score of a candidate; portraits reach 0.93 to 0.94
KEPT_BY_TIDINESS = 0.3  # share of the candidates that the selection may choose from
MIN_WITHIN = 0.65  # cosine between any two pictures of one person
VIEW_TRIES = 12
WEBP_QUALITY = 92


@dataclass(frozen=True)
class View:
    """How a further picture of a person differs from the first; degrees, shares, stored pixels."""

    yaw: float = 0.0
    pitch: float = 0.0
    expression: float = 0.0
    side: float = 0.0
    above: float = 0.0
    gain: float = 1.0
    warmth: float = 0.0
    blur: float = 0.0


def plan(variant: int, turn: int, rng: np.random.Generator) -> View:
    """Plan picture ``variant``: frontal, turned to either side, and last one softer under warm light from above."""
    match variant:
        case 0:
            return View()
        case 1:
            yaw, pitch, side = turn * rng.uniform(9, 14), rng.uniform(-4, 2), turn * rng.uniform(0.15, 0.3)
            return View(yaw, pitch, 0.5, side, 0.1, gain=rng.uniform(0.95, 1.1), warmth=0.02)
        case 2:
            yaw, pitch, side = -turn * rng.uniform(9, 14), rng.uniform(0, 5), -turn * rng.uniform(0.2, 0.4)
            return View(yaw, pitch, 0.65, side, 0.2, gain=rng.uniform(0.8, 0.95), warmth=-0.03, blur=0.4)
    pitch, above = rng.uniform(-8, -4), rng.uniform(0.2, 0.4)
    return View(turn * rng.uniform(2, 7), pitch, 0.5, 0.0, above, gain=rng.uniform(1.0, 1.15), warmth=0.04, blur=0.7)


def render(model: HeadModel, head: Head, view: View, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGBA (PICTURE_SIDE, PICTURE_SIDE, 4), not premultiplied, colour running on under the soft edge."""
    picture = model.expression(head, rng, view.expression) if view.expression else head.picture
    matte = picture[..., 3:] / 255
    colour = np.clip((picture[..., :3] - GREY * (1 - matte)) / np.maximum(matte, 0.3), 0, 255)
    matte = _outline(matte[..., 0])[..., None]
    core = (matte > 0.9).astype(np.float32)
    weight = cv2.GaussianBlur(core, (0, 0), 4)[..., None]
    beside = cv2.GaussianBlur(colour * core, (0, 0), 4) / np.maximum(weight, 1e-3)
    colour = np.where(core > 0, colour, np.where(weight > 1e-2, beside, GREY)).astype(np.float32)
    colour = colour + 0.5 * (
        colour - cv2.GaussianBlur(colour, (0, 0), 1.4)
    )  # components beyond the last are lost detail
    colour *= shade(view.side, view.above)[..., None] * view.gain * (1 + view.warmth * np.array([1, 0, -1]))
    rgba = np.dstack([colour, 255 * matte]).astype(np.float32)
    axis = (np.arange(PICTURE_SIDE, dtype=np.float32) + 0.5) / PICTURE_SCALE - PICTURE_MARGIN - TEMPLATE_SIZE / 2
    across, down = np.meshgrid(axis, axis)
    source = [
        (p + PICTURE_MARGIN + TEMPLATE_SIZE / 2) * PICTURE_SCALE - 0.5
        for p in frontal(across, down, view.yaw, view.pitch)
    ]
    rgba = cv2.remap(rgba, source[0], source[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if view.blur:
        rgba = cv2.GaussianBlur(rgba, (0, 0), view.blur)
    return np.clip(rgba + 0.5, 0, 255).astype(np.uint8)


def _outline(matte: np.ndarray) -> np.ndarray:
    """Make a clear outline of a mixed matte: what is less than half a head is a ghost of other hair styles."""
    smooth = cv2.GaussianBlur(matte, (0, 0), 2.2)
    _, parts = cv2.connectedComponents((smooth > 0.45).astype(np.uint8), connectivity=4)
    head = (parts == parts[110, 100]).astype(np.float32)
    step = np.clip((cv2.GaussianBlur(head, (0, 0), 1.0) * smooth - 0.35) / 0.35, 0, 1)
    return step * step * (3 - 2 * step)


class Judge:
    """The teachers' view of a picture."""

    def __init__(self, teachers: Path) -> None:
        self._embed = EmbeddingTeacher(teachers)
        self._detect = DetectionTeacher(teachers)

    def faces(self, rgba: np.ndarray) -> np.ndarray:
        """Rows of the detector for the picture over grey."""
        return self._detect(np.ascontiguousarray(over_grey(rgba)[..., ::-1]))

    def embedding(self, rgba: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Unit vector of the picture, aligned by the detector's landmarks."""
        matrix, _ = cv2.estimateAffinePartial2D(face[4:14].reshape(5, 2), TEMPLATE, method=cv2.LMEDS)
        return self.unit(cv2.warpAffine(over_grey(rgba), matrix, (TEMPLATE_SIZE, TEMPLATE_SIZE), flags=cv2.INTER_AREA))

    def unit(self, crop: np.ndarray) -> np.ndarray:
        """Unit vector of an aligned uint8 crop."""
        vector = self._embed(crop[None]).embedding[0]
        return vector / np.linalg.norm(vector)


def over_grey(rgba: np.ndarray) -> np.ndarray:
    """uint8 RGB on a grey background."""
    matte = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * matte + GREY * (1 - matte) + 0.5).astype(np.uint8)


def untidiness(head: Head) -> float:
    """Share of half-transparent matte, plus left-right difference of the inner face: both mark bad mixtures."""
    matte = head.picture[..., 3]
    inner = cv2.GaussianBlur(head.picture[60:170, 50:150, :3], (0, 0), 2.5)
    return float(((matte > 40) & (matte < 215)).mean() / 0.07 + np.abs(inner - inner[:, ::-1]).mean() / 12)


def spread_out(vectors: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Farthest-point selection: ``count`` rows whose largest mutual cosine is small, best of several starts."""
    cosine = vectors @ vectors.T
    best: tuple[float, list[int]] = (2.0, [])
    for start in rng.integers(0, len(vectors), TRIES):
        chosen, nearest = [int(start)], cosine[start].copy()
        while len(chosen) < count:
            chosen.append(int(np.argmin(nearest)))
            nearest = np.maximum(nearest, cosine[chosen[-1]])
        among = cosine[np.ix_(chosen, chosen)][np.triu_indices(count, 1)].max()
        best = min(best, (float(among), chosen))
    return best[1]


def encoded(rgba: np.ndarray) -> tuple[bytes, np.ndarray]:
    """WebP bytes, and the picture as they decode again: what the agent will see is what is judged."""
    content = io.BytesIO()
    Image.fromarray(rgba).save(content, "WEBP", quality=WEBP_QUALITY, method=4)
    return content.getvalue(), np.asarray(Image.open(content).convert("RGBA"))


def candidates(model: HeadModel, judge: Judge, rng: np.random.Generator) -> tuple[list[Head], np.ndarray]:
    """Tidy heads that the detector finds, with the embeddings of their first pictures."""
    heads, vectors = [], []
    for _ in range(CANDIDATES // BATCH):
        for head in sorted(model.sample(rng, BATCH), key=untidiness)[: int(BATCH * KEPT_BY_TIDINESS)]:
            _, rgba = encoded(render(model, head, View(), rng))
            faces = judge.faces(rgba)
            if len(faces) == 1 and faces[0, 14] >= MIN_SCORE:
                heads.append(head)
                vectors.append(judge.embedding(rgba, faces[0]))
    return heads, np.stack(vectors)


@dataclass(frozen=True)
class Portrait:
    """One finished picture: WebP bytes, detector row, unit vector."""

    content: bytes
    face: np.ndarray
    vector: np.ndarray


def portray(model: HeadModel, judge: Judge, head: Head, rng: np.random.Generator) -> list[Portrait] | None:
    """All pictures of one person, or nothing if a view cannot keep the person recognisable."""
    taken: list[Portrait] = []
    turn = int(rng.choice([-1, 1]))
    for variant in range(PICTURES):
        for _ in range(VIEW_TRIES):
            content, rgba = encoded(render(model, head, plan(variant, turn, rng), rng))
            faces = judge.faces(rgba)
            if len(faces) != 1:
                continue
            vector = judge.embedding(rgba, faces[0])
            if min((float(vector @ other.vector) for other in taken), default=1.0) >= MIN_WITHIN:
                taken.append(Portrait(content, faces[0], vector))
                break
        else:
            return None
    return taken


def least_alike(portraits: list[list[Portrait]], count: int) -> list[int]:
    """Indices of ``count`` people: whoever is part of the most alike pair of pictures goes, until so many are left."""
    vectors = np.stack([[one.vector for one in person] for person in portraits])
    alike = np.einsum("avd,bwd->abvw", vectors, vectors).max((2, 3))
    np.fill_diagonal(alike, -1)
    left = list(range(len(portraits)))
    while len(left) > count:
        among = alike[np.ix_(left, left)]
        pair = np.unravel_index(among.argmax(), among.shape)
        left.pop(max(pair, key=lambda i: np.sort(among[i])[-3:].sum()))
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(SEED)
    faces = np.load(args.faces, mmap_mode="r")
    landmarks = np.load(args.faces.with_suffix(".meta.npz"))["faces"][:, 4:14].reshape(-1, 5, 2)
    judge = Judge(args.teachers)
    model = HeadModel(faces, landmarks, rng)
    heads, vectors = candidates(model, judge, rng)
    chosen = [heads[index] for index in spread_out(vectors, PEOPLE + SPARE, rng)]
    shown = [(head, taken) for head in chosen if (taken := portray(model, judge, head, rng))]
    shown = [shown[index] for index in least_alike([taken for _, taken in shown], PEOPLE)]
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("person-*.webp"):
        old.unlink()
    people = {}
    for number, (head, taken) in enumerate(shown, 1):
        names = [f"person-{number:02}-{variant}.webp" for variant in range(1, len(taken) + 1)]
        for name, portrait in zip(names, taken, strict=True):
            (args.out / name).write_bytes(portrait.content)
        cheeks = head.picture[112:128, 70:130, :3].mean((0, 1))
        hsv = np.array([[[rng.integers(180), rng.integers(30, 140), rng.integers(40, 170)]]], np.uint8)
        cloth = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
        people[f"person-{number:02}"] = {"pictures": names, "skin": _hex(cheeks), "cloth": _hex(cloth)}
    boxes = [portrait.face[:4] for _, taken in shown for portrait in taken]
    embeddings = np.stack([[portrait.vector for portrait in taken] for _, taken in shown])
    size = sum(len(portrait.content) for _, taken in shown for portrait in taken)
    inner = slice(int(PICTURE_MARGIN * PICTURE_SCALE), int((PICTURE_MARGIN + TEMPLATE_SIZE) * PICTURE_SCALE))
    training = np.stack(
        [
            judge.unit(cv2.resize(face[inner, inner], (TEMPLATE_SIZE, TEMPLATE_SIZE), interpolation=cv2.INTER_AREA))
            for face in faces
        ]
    )
    measured = figures(embeddings, training) | {"bytes": size}
    x, y, w, h = np.mean(boxes, 0)
    document = {"box": [round(float(v), 1) for v in (x, y, x + w, y + h)], "measured": measured, "people": people}
    header = (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "# The demo people: nobody. Drawn by tools/train people from a model of generated portraits;\n"
        "# no picture is a photo or a training portrait.\n"
        "# box: where a detector sees the face in a picture (mean), in its pixels.\n"
        "# measured: cosines of the teacher's embeddings, for judging how alike pictures are.\n"
    )
    (args.out / "people.yaml").write_text(
        header + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120)
    )
    print(len(model.kept), "portraits,", len(heads), "candidates,", measured)


def figures(people: np.ndarray, training: np.ndarray) -> dict[str, float]:
    """Cosines between people, within a person, and to the nearest training portrait; ``people`` is (n, views, 128)."""
    count, per, dim = people.shape
    flat = people.reshape(-1, dim)
    cosine = (flat @ flat.T).reshape(count, per, count, per)
    other = ~np.eye(count, dtype=bool)
    first = cosine[:, 0, :, 0][other]
    within = np.concatenate([cosine[i, :, i][np.triu_indices(per, 1)] for i in range(count)])
    nearest = (people[:, 0] @ training.T).max(1)
    among = training @ training.T
    np.fill_diagonal(among, -1)
    usual = among.max(1)
    values = {
        "between_first_mean": first.mean(),
        "between_first_max": first.max(),
        "between_any_max": cosine.transpose(0, 2, 1, 3)[other].max(),
        "within_mean": within.mean(),
        "within_min": within.min(),
        "nearest_training_mean": nearest.mean(),
        "nearest_training_max": nearest.max(),
        "training_to_training_mean": usual.mean(),
        "training_to_training_99": np.percentile(usual, 99),
    }
    return {name: round(float(value), 3) for name, value in values.items()}


def _hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{int(v):02x}" for v in rgb)


if __name__ == "__main__":
    main()
