# SPDX-License-Identifier: Apache-2.0
"""Compose labelled scenes for the detector: people of photos and people who do not exist, where no face is.

tools/train scenes POOL --faces FOLDER:WEIGHT [FOLDER:WEIGHT ...] --backgrounds FOLDER [FOLDER ...]

The folders of faces are prepared by ``tools.lib.train.naturals``; backgrounds are folders of pictures or of shards.

Shard k is a function of the seed and k alone. Every tenth portrait and every fifth background are kept for
measuring; ``--held-out`` composes from those only. Shards: image-k.npy uint8 RGB (n, h, w, 3) and faces-k.npy
float32 (n, 24, 15): x, y, w, h, five landmarks x, y, and 1 for a face, -1 for one that must not count either way.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from agent.camera.base import LORES_BORDER
from tools.lib.train.cutouts import SIDE, Cutout, alpha_of, dress, place, suited
from tools.lib.train.naturals import Portraits, load_backgrounds, load_portraits

MAX_FACES = 24
ROW = 15
SMALLEST = 13.0  # pixels: smaller faces are neither face nor background
VISIBLE = 0.55  # share of a face that must be seen for it to count
GONE = 0.12  # share below which nothing of a face is left to see
FLATTEST = 6.0  # grey levels of deviation in a face's middle: darker or more blurred faces do not count
PHOTOS = 0.26  # share of scenes that are photos as they are
BORDERS = (LORES_BORDER, LORES_BORDER, 0, 255)  # tones around a picture that does not fill the frame


class Painter:
    """One scene being painted: float32 RGB, and the faces so far with their visible shares."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.rows: list[np.ndarray] = []
        self.visible: list[float] = []

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def paste(self, patch: np.ndarray, alpha: np.ndarray, corner: tuple[int, int]) -> None:
        """Blend a patch in and note what it hides."""
        x, y = corner
        h, w = alpha.shape
        for index, row in enumerate(self.rows):
            left, top = max(x, int(row[0])), max(y, int(row[1]))
            right, bottom = min(x + w, int(row[0] + row[2])), min(y + h, int(row[1] + row[3]))
            if right > left and bottom > top:
                hidden = alpha[top - y : bottom - y, left - x : right - x].sum() / max(row[2] * row[3], 1.0)
                self.visible[index] -= float(hidden)
        region = self.image[y : y + h, x : x + w]
        region += (patch - region) * alpha[..., None]

    def add(self, cut: Cutout | None) -> None:
        if cut is None:
            return
        self.paste(cut.image, cut.alpha, cut.corner)
        x, y, w, h = cut.box
        width, height = self.size
        inside = max(0.0, min(x + w, width) - max(x, 0)) * max(0.0, min(y + h, height) - max(y, 0)) / (w * h)
        self.rows.append(np.concatenate([cut.box, cut.landmarks.ravel(), [1.0]]).astype(np.float32))
        self.visible.append(float(inside))

    def free(self, x: float, y: float, size: float) -> bool:
        """Whether a face there would leave the others in sight."""
        for row in self.rows:
            reach = 0.5 * (size + float(np.sqrt(row[2] * row[3])))
            if np.hypot(x - row[0] - row[2] / 2, y - row[1] - row[3] / 2) < reach:
                return False
        return True

    def labels(self, final: np.ndarray) -> np.ndarray:
        """Faces of the finished picture: too small, hidden, flat or cut ones are marked -1."""
        out = np.zeros((MAX_FACES, ROW), np.float32)
        slot = 0
        grey = cv2.cvtColor(final, cv2.COLOR_RGB2GRAY)
        for row, visible in zip(self.rows[:MAX_FACES], self.visible[:MAX_FACES], strict=True):
            if visible < GONE:
                continue
            low, high = (
                np.maximum(row[:2] + 0.2 * row[2:4], 0).astype(int),
                np.maximum(row[:2] + 0.85 * row[2:4], 0).astype(int),
            )
            inner = grey[low[1] : high[1], low[0] : high[0]]
            seen = (
                visible >= VISIBLE
                and np.sqrt(row[2] * row[3]) >= SMALLEST
                and inner.size > 0
                and float(inner.std()) >= FLATTEST
            )
            out[slot] = row
            out[slot, -1] = 1 if seen else -1
            slot += 1
        return out


class Composer:
    """Scenes from portraits and backgrounds, all chance from one generator."""

    def __init__(
        self, portraits: Portraits, backgrounds: list[np.ndarray], size: tuple[int, int], photos: float = PHOTOS
    ) -> None:
        self.portraits, self.backgrounds, self.size = portraits, backgrounds, size
        composed, plain = np.array([34, 26, 8, 6, 0, 0]), np.array([0, 0, 0, 0, 16, 10])
        self._shares = composed / composed.sum() * (1 - photos) + plain / plain.sum() * photos

    def scene(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        kinds = [self.crowd, self.portrait, self.nobody, self.leaving, self.photo, self.place]
        kind = int(rng.choice(len(kinds), p=self._shares))
        if composed := kind < kinds.index(self.photo):
            painter = Painter(self.background(self.size, rng))
        else:
            painter = Painter(self.frame(rng) if kinds[kind] == self.photo else self.whole(rng))
        kinds[kind](painter, rng)
        image = painter.image.clip(0, 255).astype(np.uint8)
        if composed or rng.random() < 0.5:  # the others are photos already
            image = camera(painter.image, rng)
        return image, painter.labels(image)

    def crowd(self, painter: Painter, rng: np.random.Generator) -> None:
        """Several people."""
        for _ in range(int(rng.integers(0, 3))):
            self.decoy(painter, rng)
        largest = (0.17 if rng.random() < 0.45 else 0.45) * self.size[1]
        for size in sorted(np.exp(rng.uniform(np.log(11), np.log(largest), int(rng.integers(2, 13))))):
            self.person(painter, float(size), rng)

    def portrait(self, painter: Painter, rng: np.random.Generator) -> None:
        """One person, as a visitor or a document shows it."""
        if rng.random() < 0.3:
            self.decoy(painter, rng)
        if rng.random() < 0.25:
            for size in np.exp(rng.uniform(np.log(12), np.log(0.2 * self.size[1]), 2)):
                self.person(painter, float(size), rng)
        self.sitter(painter, rng)

    def nobody(self, painter: Painter, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(0, 5))):
            self.decoy(painter, rng)

    def leaving(self, painter: Painter, rng: np.random.Generator) -> None:
        """One person too close or leaving the picture."""
        width, height = self.size
        size = height * rng.uniform(0.4, 1.0)
        at = rng.uniform(0, 1, 2) * [width, height]
        axis = int(rng.integers(2))
        at[axis] = rng.choice([0, self.size[axis]]) + rng.normal(0, 0.25) * size
        self.put(painter, (float(at[0]), float(at[1])), size, "whole" if rng.random() < 0.4 else "head", rng)

    def photo(self, painter: Painter, rng: np.random.Generator) -> None:
        """A photo as it is, in a frame of another shape."""
        painter.add(self.framed(rng))

    def place(self, painter: Painter, rng: np.random.Generator) -> None:
        """A place as it is: nothing is added."""

    def frame(self, rng: np.random.Generator) -> np.ndarray:
        """Return an empty frame of the tone that surrounds pictures."""
        return np.full((self.size[1], self.size[0], 3), rng.choice(BORDERS), np.float32)

    def framed(self, rng: np.random.Generator) -> Cutout:
        """One photo with a face, as it is or dressed, at the top left of the frame, in its middle or anywhere."""
        portrait = self.portraits.pick(rng)
        image = dress(portrait, rng)[0] if rng.random() < 0.5 else portrait.image.astype(np.float32)
        side = self.size[1] if rng.random() < 0.4 else int(self.size[1] * np.exp(rng.uniform(np.log(0.25), 0)))
        room = np.array(self.size) - side
        corner = room * rng.choice([0.0, 0.5, rng.random()], 2)
        x, y = (int(v) for v in corner)
        how = cv2.INTER_AREA if side < SIDE else cv2.INTER_LINEAR
        patch = cv2.resize(image.clip(0, 255), (side, side), interpolation=how)
        scale, alpha = side / SIDE, np.ones((side, side), np.float32)
        box = (portrait.box * scale + [x, y, 0, 0]).astype(np.float32)
        return Cutout(patch, alpha, (x, y), box, (portrait.landmarks * scale + [x, y]).astype(np.float32))

    def whole(self, rng: np.random.Generator) -> np.ndarray:
        """Return a place as a photo shows it, whole, or a part of it at its own size."""
        source = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        source = source[:, ::-1] if rng.random() < 0.5 else source
        (height, width), (w, h) = source.shape[:2], self.size
        factor = min(w / width, h / height) * (1.0 if rng.random() < 0.6 else float(np.exp(rng.uniform(-0.7, 0.7))))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        size = max(8, round(width * factor)), max(8, round(height * factor))
        image = cv2.resize(np.ascontiguousarray(source), size, interpolation=how)
        left, top = (int(rng.integers(max(0, have - want) + 1)) for have, want in zip(size, self.size, strict=True))
        part = image[top : top + h, left : left + w]
        out = self.frame(rng)
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def put(self, painter: Painter, at: tuple[float, float], size: float, kind: str, rng: np.random.Generator) -> bool:
        """Paste a face; whether its landmarks can be known."""
        portrait = self.portraits.pick(rng)
        kind = suited(kind, portrait, rng)
        if kind in ("head", "ellipse") and rng.random() < (0.85 if kind == "head" else 0.5):
            self.body(painter, at, size, rng)
        cut = place(portrait, self.size, at, size, kind, rng)
        if cut is not None and rng.random() < 0.12:  # backlit, or in the shade
            cut = cut._replace(image=cut.image * np.float32(rng.uniform(0.25, 0.7)))
        painter.add(cut)
        return portrait.known

    def person(self, painter: Painter, size: float, rng: np.random.Generator) -> None:
        width, height = self.size
        for _ in range(8):
            x, y = rng.uniform(-0.02, 1.02) * width, rng.uniform(0, 1) * height
            if painter.free(x, y, size):
                kind = str(rng.choice(["head", "ellipse", "rectangle", "whole"], p=[0.62, 0.14, 0.14, 0.10]))
                self.put(painter, (x, y), size, kind, rng)
                return

    def sitter(self, painter: Painter, rng: np.random.Generator) -> None:
        width, height = self.size
        size = height * np.exp(rng.uniform(np.log(0.13), np.log(0.85)))
        x = width * np.clip(rng.normal(0.5, 0.15), 0, 1)
        y = height * np.clip(rng.normal(0.48, 0.1), 0.1, 0.9)
        kind = str(rng.choice(["head", "whole", "rectangle"], p=[0.7, 0.22, 0.08]))
        self.put(painter, (float(x), float(y)), float(size), kind, rng)

    def body(self, painter: Painter, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
        """Shoulders and chest of some cloth, drawn before the head."""
        half, top = size * rng.uniform(0.9, 1.5), at[1] + size * rng.uniform(0.62, 0.85)
        drop = size * rng.uniform(0.15, 0.5)
        shape = [[-0.3, 0], [0.3, 0], [1, drop / half], [1.15, 3.5], [-1.15, 3.5], [-1, drop / half]]
        points = np.array(shape) * half + [at[0], top]
        low = np.maximum(points.min(0) - 4, 0).astype(int)
        high = np.minimum(points.max(0) + 4, self.size).astype(int)
        if (high - low < 4).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [((points - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        alpha = cv2.GaussianBlur(mask, (0, 0), 0.8 + 0.02 * size).astype(np.float32) / 255
        painter.paste(self.cloth(mask.shape[::-1], rng), alpha, (int(low[0]), int(low[1])))

    def cloth(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """One dark, light or coloured texture."""
        base = rng.uniform(5, 60, 3) if rng.random() < 0.5 else rng.uniform(20, 245, 3)
        texture = self.background(size, rng)
        return ((texture - texture.mean()) * rng.uniform(0, 0.8) + base).astype(np.float32)

    def background(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Return a crop of a natural picture, two of them side by side, or a plain wall, float32 RGB."""
        draw = rng.random()
        if draw < 0.12:
            rows, columns = (int(v) for v in rng.integers(2, 9, 2))
            grid = rng.normal(0, rng.uniform(2, 40), (rows, columns, 3)) + rng.uniform(0, 255, 3)
            return cv2.resize(grid.astype(np.float32), size, interpolation=cv2.INTER_CUBIC).clip(0, 255)
        image = self.crop(size, rng)
        if draw < 0.27:
            other, cut = self.crop(size, rng), int(rng.uniform(0.15, 0.85) * size[0])
            image[:, cut:] = other[:, cut:]
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(np.log(0.6), np.log(9)))))
        return (
            (image * np.exp(rng.normal(0, 0.15, 3) + rng.normal(0, 0.3)) + rng.normal(0, 12))
            .clip(0, 255)
            .astype(np.float32)
        )

    def crop(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        source = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        if rng.random() < 0.15:
            source = cv2.rotate(source, cv2.ROTATE_180 if rng.random() < 0.5 else cv2.ROTATE_90_CLOCKWISE)
        fit = min(source.shape[1] / size[0], source.shape[0] / size[1])
        part = fit * np.exp(rng.uniform(np.log(0.3), 0))
        w, h = max(2, int(size[0] * part)), max(2, int(size[1] * part))
        x, y = rng.integers(source.shape[1] - w + 1), rng.integers(source.shape[0] - h + 1)
        image = source[y : y + h, x : x + w]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        how = cv2.INTER_AREA if part > 1 else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(image), size, interpolation=how).astype(np.float32)

    def decoy(self, painter: Painter, rng: np.random.Generator) -> None:
        """Paste what has the edges or the skin of a face, but no face."""
        portrait = self.portraits.pick(rng)
        size = float(np.exp(rng.uniform(np.log(14), np.log(0.6 * self.size[1]))))
        alpha = alpha_of(portrait, str(rng.choice(["head", "ellipse", "rectangle", "whole"])), rng)
        content = self.crop((SIDE, SIDE), rng)
        low = np.maximum(portrait.box[:2], 0).astype(int)
        (x, y), (w, h) = low, np.maximum(np.minimum(portrait.box[:2] + portrait.box[2:], SIDE).astype(int) - low, 12)
        kind = int(rng.integers(4))
        if kind == 1:  # skin with folds
            skin = portrait.image[y + h // 3, x + w // 4].astype(np.float32)
            content = skin + 0.35 * (content - content.mean())
        elif kind == 2:  # a head without a face: hair all over, or features wiped out
            content = portrait.image.astype(np.float32)
            wiped = cv2.GaussianBlur(content, (0, 0), 30) if rng.random() < 0.5 else np.roll(content[::-1], h // 2, 0)
            hole = np.zeros((SIDE, SIDE), np.float32)
            cv2.ellipse(hole, (x + w // 2, y + h // 2), (int(w * 0.56), int(h * 0.56)), 0, 0, 360, 1.0, -1)
            hole = cv2.GaussianBlur(hole, (0, 0), 5)[..., None]
            content = content * (1 - hole) + wiped * hole
            if rng.random() < 0.5:
                content[y : y + h] = content[y : y + h].mean((0, 1)) + rng.normal(0, 12, (h, SIDE, 3))
        elif kind == 3:  # parts of a face in the wrong places
            content = portrait.image.astype(np.float32)
            tall, wide = h // 3, max(1, w // 2)
            tiles = [
                content[y + r * tall : y + (r + 1) * tall, x + c * wide : x + (c + 1) * wide].copy()
                for r in range(3)
                for c in range(2)
            ]
            for slot, tile in enumerate(rng.permutation(6)):
                row, column = divmod(slot, 2)
                turned = tiles[tile][::-1] if rng.random() < 0.6 else tiles[tile]
                there = content[y + row * tall : y + (row + 1) * tall, x + column * wide : x + (column + 1) * wide]
                there[:] = turned[: there.shape[0], : there.shape[1]]
        scale = size / float(np.sqrt(w * h))
        side = max(4, int(SIDE * scale))
        patch = cv2.resize(content.clip(0, 255).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
        cx, cy = (
            int(rng.uniform(-0.1, 1) * self.size[0]) - side // 3,
            int(rng.uniform(-0.1, 1) * self.size[1]) - side // 3,
        )
        left, top = max(0, cx), max(0, cy)
        right, bottom = min(self.size[0], cx + side), min(self.size[1], cy + side)
        if right > left and bottom > top:
            inner = np.s_[top - cy : bottom - cy, left - cx : right - cx]
            painter.paste(patch[inner], alpha[inner], (left, top))


def camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, colour, darkness, letterbox, blur, low resolution, noise and codec; uint8 RGB out."""
    height, width = image.shape[:2]
    night = rng.random() < 0.12
    image = image * np.exp(rng.normal(0, 0.06, 3) + rng.normal(-1.3 if night else 0, 0.25)).astype(np.float32)
    table = (255 * np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.22))).astype(np.uint8)
    out = cv2.LUT(np.clip(image + np.float32(rng.normal(0, 6)), 0, 255).astype(np.uint8), table)
    if rng.random() < 0.13:  # grey, as by day, or of one channel more than of the others, as infra-red light is seen
        mix = rng.dirichlet([0.5, 0.5, 0.5]) if rng.random() < 0.6 else np.array([0.3, 0.59, 0.11])
        out = cv2.cvtColor(cv2.transform(out, mix[None].astype(np.float32)), cv2.COLOR_GRAY2RGB)
    draw = rng.random()
    if draw < 0.15:
        part = rng.uniform(0.35, 0.9)
        small = cv2.resize(out, (int(width * part), int(height * part)), interpolation=cv2.INTER_AREA)
        out = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif draw < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 2.0))
    elif draw < 0.38:
        kernel = np.zeros((11, 11), np.float32)
        cv2.line(kernel, (5, 5), tuple(int(v) for v in rng.integers(0, 11, 2)), 1.0)
        out = cv2.filter2D(out, -1, kernel / max(kernel.sum(), 1))
    if rng.random() < 0.5 or night:
        noise = rng.standard_normal((height, width, 3 if rng.random() < 0.6 else 1), dtype=np.float32)
        out = np.clip(out + noise * np.float32(rng.random() * (14 if night else 8)), 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
        out = cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], cv2.IMREAD_COLOR)
    if rng.random() < 0.15:  # bars, as letterboxing leaves them
        bar, tone = int(rng.uniform(0, 0.16) * width), int(rng.choice([0, 0, 114, 128, 255]))
        if rng.random() < 0.7:
            out[:, :bar], out[:, width - bar :] = tone, tone
        else:
            out[: bar // 2], out[height - bar // 2 :] = tone, tone
    return np.ascontiguousarray(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faces", required=True, nargs="+", metavar="FOLDER:WEIGHT", help="prepared portraits")
    parser.add_argument("--backgrounds", required=True, type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--shards", type=int, nargs=2, default=(0, 14), help="first and last + 1")
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), help="width and height")
    parser.add_argument("--photos", type=float, default=PHOTOS, help="share of photos as they are")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    composer = Composer(
        load_portraits(args.faces, held_out=args.held_out),
        load_backgrounds(args.backgrounds, held_out=args.held_out),
        tuple(args.size),
        args.photos,
    )
    for shard in range(*args.shards):
        began = time.monotonic()
        rng = np.random.default_rng([args.seed, shard, int(args.held_out), *args.size])
        scenes = [composer.scene(rng) for _ in range(args.per_shard)]
        np.save(args.out / f"faces-{shard:04d}.npy", np.stack([s[1] for s in scenes]))
        partial = args.out / f"partial-{shard:04d}.npy"
        np.save(partial, np.stack([s[0] for s in scenes]))
        partial.replace(args.out / f"image-{shard:04d}.npy")  # a running training takes up whole shards only
        print(f"shard {shard}: {args.per_shard / (time.monotonic() - began):.0f} scenes/s", flush=True)


if __name__ == "__main__":
    main()
