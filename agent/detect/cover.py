# SPDX-License-Identifier: Apache-2.0
"""A picture in which nobody can be recognised, for whoever aims the camera: it leaves the unit where no other may.

Two things keep faces out of it, and each works without the other:

- It is coarse. Its longer side has ``MAX_SIDE`` pixels, whatever the camera's has: a face that is narrower than a
  fifth of the picture has about four pixels between its eyes at most, found or not. EN 62676-4 asks for 125 pixels a
  metre to recognise somebody who is known, which is eight between the eyes (63 mm), and calls half of that "observe".
- What may be a face is covered. The detector looks at the whole picture, and at it in a half, a third and a quarter of
  its size, in which a face that fills the picture is an ordinary one, each time the right way up, upside down and on
  both sides. What it is sure of gets one flat colour, with a margin; what it would refuse, down to ``UNSURE``, is left
  with ``FEW`` by ``FEW`` means; and what is large and hardly like a face at all with ``SOME`` by ``SOME``: at most four
  pixels between the eyes, if it is one.

How often both fail together is measured by ``tools/evaluate cover``. There is no other way to a ``CoveredPicture``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import LORES_BORDER, Frame, Rgb, RgbPicture, lores_fit
from agent.detect.decoders import make_decoder
from agent.detect.detector import DEFAULT_SCORE_THRESHOLD, Detector, sane
from agent.detect.face import Face
from agent.detect.landmarks import Landmarker
from agent.detect.nms import nms

MAX_SIDE: Final = 48  # pixels of the longer side of a picture that leaves; at 64 a peer found 5 tiny faces of 1 000
# Score of both looks together from which something may be a face, where 0.81 is one; and, of what is ``LARGE``, from
# which it can hardly be told. Of 1 400 faces of 0.4 to 1.3 of the picture's height 8 had less than 0.4; of those none
# had less than 0.4 at the first look alone.
UNSURE: Final = 0.4
HARDLY: Final = 0.25
HARDLY_FIRST: Final = 0.35  # the same of the first look alone
FIRST_LOOK: Final = 0.1  # score of the first look alone from which there is a second
LARGE: Final = 0.3  # of the picture's width
SMALL: Final = 7  # pixels of a picture that leaves: what is narrower, and unsure, has three between the eyes at most
IOU: Final = 0.5  # two answers that overlap more are one; a tighter cover would be won by others, not a smaller one
MAX_AREAS: Final = 64  # a look; a hostile picture cannot cost more
FLAT_CELLS, FEW, SOME = 0, 3, 8  # means, each way, that are left of an area
MARGIN: Final = 0.35  # of a box, added on each side: hair, chin and a box that is a little off
FLAT: Final = (112, 112, 112)  # the colour of what is covered
QUARTERS: Final = 4  # turns of 90 degrees
SHARES: Final = (2, 3, 4)  # of the picture's size, in which it is looked at once more


class Area(NamedTuple):
    """What may be a face, in fractions of the picture from its top left, and how many means each way are left of it."""

    x0: float
    y0: float
    x1: float
    y1: float
    cells: int

    def within(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Whole pixels of a picture of this size that it touches, with its margin; possibly none."""
        dx, dy = (self.x1 - self.x0) * MARGIN, (self.y1 - self.y0) * MARGIN
        x0, y0 = np.floor(np.array([self.x0 - dx, self.y0 - dy]) * (width, height)).astype(int)
        x1, y1 = np.ceil(np.array([self.x1 + dx, self.y1 + dy]) * (width, height)).astype(int)
        return max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height)


_MAKER = object()  # what a covered picture is made with: nobody else has it


class CoveredPicture:
    """Pixels that may leave: uint8 (h, w, 3) RGB, neither side longer than ``MAX_SIDE``, read only."""

    __slots__ = ("_pixels",)

    def __init__(self, maker: object, pixels: Rgb) -> None:
        """For ``Covering`` alone; TypeError for everybody else."""
        if maker is not _MAKER or max(pixels.shape[:2]) > MAX_SIDE:
            raise TypeError("a covered picture is made by Covering, and by nothing else")
        self._pixels = pixels
        self._pixels.setflags(write=False)

    @property
    def pixels(self) -> Rgb:
        return self._pixels


class Covering:
    """Covers with the models of a detector. Single-threaded, like their engines, which it shares."""

    def __init__(self, detector: Detector) -> None:
        """Raise ModelError when the outputs do not fit their decoder."""
        self._engine = detector.engine
        entry, second = detector.engine.entry, detector.landmarker
        self._decoder = make_decoder(entry, FIRST_LOOK)
        self._second = None if second is None else Landmarker(second.engine, score_threshold=HARDLY)
        working = entry.score_threshold if second is None else second.engine.entry.score_threshold
        self._sure = working or DEFAULT_SCORE_THRESHOLD

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels of the picture that it looks at."""
        return self._engine.entry.input.width, self._engine.entry.input.height

    def cover(self, frame: Frame, known: Iterable[Face] = ()) -> CoveredPicture:
        """Return ``frame`` without a face; ``known`` are those of whoever followed them through the frames before."""
        main = frame.main
        areas = [
            Area(x0 / main.width, y0 / main.height, x1 / main.width, y1 / main.height, FLAT_CELLS)
            for x0, y0, x1, y1 in (face.box for face in known)
        ]
        return CoveredPicture(_MAKER, covered(coarse(frame), [*areas, *self.areas(frame.content)]))

    def areas(self, content: Rgb) -> Iterator[Area]:
        """Yield what may be a face in a uint8 (h, w, 3) picture."""
        for canvas, tiles in _looks(content, *self.input_size):
            picture = RgbPicture(canvas)
            for face in self._faces(canvas):
                box = np.array(face.box, np.float32)
                tile = next((tile for tile in tiles if tile.holds((box[:2] + box[2:]) / 2)), None)
                if tile is None:
                    continue
                seen = None if self._second is None else self._second.look(picture, face)
                both = face.score if self._second is None else 0.0 if seen is None else seen.score
                area = tile.area(box, self._cells(both))
                if area.cells != SOME or (
                    area.x1 - area.x0 >= LARGE and (both >= HARDLY or face.score >= HARDLY_FIRST)
                ):
                    yield area

    def _cells(self, score: float) -> int:
        return FLAT_CELLS if score >= self._sure else FEW if score >= UNSURE else SOME

    def _faces(self, canvas: Rgb) -> Iterator[Face]:
        found = sane(self._decoder.decode(self._engine.run(canvas)))
        if found.scores.size:
            for row in nms(found.boxes, found.scores, IOU, MAX_AREAS):
                x0, y0, x1, y1 = found.boxes[row].tolist()
                yield Face((x0, y0, x1, y1), found.landmarks[row], float(found.scores[row]))


class _Tile(NamedTuple):
    """Where on a canvas the picture stands, and by how many quarters it was turned to the left."""

    x: int
    y: int
    width: int
    height: int
    quarters: int

    def holds(self, point: NDArray[np.floating]) -> bool:
        return bool(self.x <= point[0] < self.x + self.width and self.y <= point[1] < self.y + self.height)

    def area(self, box: NDArray[np.float32], cells: int) -> Area:
        """Turn a box on the canvas back to the picture."""
        corners = ((box.reshape(2, 2) - (self.x, self.y)) / (self.width, self.height)).tolist()
        (x0, y0), (x1, y1) = (_turned_back(u, v, self.quarters) for u, v in corners)
        return Area(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), cells)


def _turned_back(u: float, v: float, quarters: int) -> tuple[float, float]:
    """Where a point of ``np.rot90(picture, quarters)``, in fractions of it, lies in the picture."""
    return ((u, v), (1 - v, u), (1 - u, 1 - v), (v, 1 - u))[quarters]


def _looks(content: Rgb, width: int, height: int) -> Iterator[tuple[Rgb, list[_Tile]]]:
    """Canvases of ``width`` by ``height`` to look at, and what stands where on each."""
    whole = _fitted(content, width, height)
    canvas = np.full((height, width, 3), LORES_BORDER, np.uint8)
    canvas[: whole.shape[0], : whole.shape[1]] = whole
    yield canvas, [_Tile(0, 0, whole.shape[1], whole.shape[0], 0)]
    for share in SHARES:
        canvas = np.full((height, width, 3), LORES_BORDER, np.uint8)
        tiles = []
        for quarters in range(QUARTERS):
            turned = _fitted(np.rot90(content, quarters), width // share, height // share)
            x, y = (quarters % 2) * (width // 2), (quarters // 2) * (height // 2)
            rows, columns = turned.shape[:2]
            canvas[y : y + rows, x : x + columns] = turned
            tiles.append(_Tile(x, y, columns, rows, quarters))
        yield canvas, tiles


def covered(plain: Rgb, areas: Iterable[Area]) -> Rgb:
    """Return a copy of ``plain`` with ``areas`` covered: those first of which most is left."""
    picture = plain.copy()
    height, width = picture.shape[:2]
    for area in sorted(areas, key=lambda one: -one.cells):
        x0, y0, x1, y1 = area.within(width, height)
        if x0 >= x1 or y0 >= y1 or (area.cells and (area.x1 - area.x0) * width < SMALL):
            continue
        if not area.cells:
            picture[y0:y1, x0:x1] = FLAT
            continue
        for rows in np.array_split(np.arange(y0, y1), area.cells):
            for columns in np.array_split(np.arange(x0, x1), area.cells):
                if rows.size and columns.size:
                    cell = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                    picture[cell] = picture[cell].mean((0, 1))
    return picture


def coarse(frame: Frame) -> Rgb:
    """Return the whole frame as small as it leaves, with nothing covered yet: it is not to leave so."""
    return _fitted(frame.content, MAX_SIDE, MAX_SIDE)


def _fitted(picture: Rgb, width: int, height: int) -> Rgb:
    """Return ``picture`` scaled, in both directions alike, to fit into ``width`` by ``height``."""
    size = lores_fit(picture.shape[1], picture.shape[0], width, height)
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))
