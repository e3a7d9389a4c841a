# SPDX-License-Identifier: Apache-2.0
"""Which frames the detector must see: whether anything changed where somebody could act since it last saw nobody.

A door is empty nearly all day. A frame is skipped only if nothing differs from the last one that the network looked at
and found empty, block by block of the brightness; slow changes therefore add up until they are looked at. What changes
a whole row in one ratio (flicker of lamps in bands, a cloud) is light and no person. Where blocks differ, all
frames are looked at until some time after it ended: somebody who came in blurred is seen once they stand. While a
track, an enrolment or an act is under way nothing is skipped at all, and once a second the network looks anyway.
Where nothing differed for some time only every other frame is compared: whoever comes is seen one frame later at most.

What is kept between frames is the mean brightness of blocks as large as a fifth of the smallest face that is accepted,
of one frame in which nobody was found; it is overwritten when somebody is. How many frames were looked at follows from
who passes by: it is told to whoever stands at the unit with ``postern doctor``, and to nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.camera.base import Frame, Luma, Picture
from agent.detect.cadence import Cadence
from agent.detect.view import Part, box_of, grown

BLOCKS_A_FACE = 5  # across the smallest face that is accepted: its eyes, brows and outline each darken some
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 32  # pixels; smaller ones are as noisy as pixels, larger ones average faces away
ROWS_A_BLOCK = 4  # rows of pixels that are read: the mean of 64 pixels has an eighth of their noise
# Grey levels (0 to 255) by which a block's mean must differ. Video coding moves it by up to 2 where nothing happens; a
# face before a wall, a dark coat before a dark door or a step to the side of 2 pixels move it by more than 2.5.
LEAST_CHANGE = 2.5
MOST_CHANGE = 6.0  # however noisy the picture is: beyond this, noise costs looks and not people
NOISE_RATIO = (
    8.0  # of a block's change to the mean of all: normal noise exceeds it once in 10 000 frames of 3600 blocks
)
MOST_GAIN = 1.5  # between two frames: a row that changed by more is no light that flickers
HOLD_NS = 500_000_000  # after the last change: about as long as a step takes
HEARTBEAT_NS = 1_000_000_000  # between looks where nothing changes

WORD = 4  # pixels that a number of 32 bits holds; a block is so many times some
BYTE, LANE = np.uint32(8), np.uint32(16)  # bits
EVEN_BYTES, LOWER_LANE = np.uint32(0x00FF_00FF), np.uint32(0xFFFF)

_Blocks = NDArray[np.float32]  # (rows, columns), mean brightness


class ChangeTest:
    """The test of one camera. ``part`` is where somebody could act; faces smaller than ``min_face_px`` do not count."""

    def __init__(self, part: Part, *, min_face_px: int, hold_ns: int = HOLD_NS) -> None:
        self._part, self._min_face_px, self._hold_ns = part, min_face_px, hold_ns
        self._block = min(max(min_face_px // BLOCKS_A_FACE // WORD * WORD, SMALLEST_BLOCK), LARGEST_BLOCK)
        self._size, self._box = (0, 0), (0, 0, 0, 0)  # of the pictures, and what is read of them
        self._seen: _Blocks | None = None
        self._fresh = False  # ``_seen`` is of the frame before: the difference to it is noise
        self._noise = MOST_CHANGE
        self._seen_ns = self._looked_ns = 0
        self._until_ns = -1
        self._cadence = Cadence()
        self.looked = self.skipped = 0

    def is_due(self, frame: Frame, *, busy: bool) -> bool:
        """Whether the detector must see ``frame``; frames come in order, and one for which it is true is looked at.

        ``busy``: a track, an enrolment or an act lives, or one may not be missed for another reason.
        """
        due = self._is_due(frame, busy=busy)
        self.looked += due
        self.skipped += not due
        return due

    def stirs(self, now_ns: int) -> bool:
        """Whether something changed a moment ago, or the last frame might not be missed for another reason."""
        return now_ns <= self._until_ns

    def forget(self) -> None:
        """Overwrite what is kept; the next frame is looked at."""
        if self._seen is not None:
            self._seen.fill(0)
        self._seen = None

    def _is_due(self, frame: Frame, *, busy: bool) -> bool:
        now_ns = frame.timestamp_ns
        backwards, self._seen_ns = now_ns < self._seen_ns, now_ns
        quiet = self._seen is not None and not self._fresh and not busy
        if self._cadence.spares(now_ns, free=quiet):
            return False
        if busy or backwards:
            self.forget()
            self._until_ns, self._looked_ns = now_ns + self._hold_ns, now_ns
            return True
        blocks = self._blocks(frame.main)
        if self._seen is None or self._seen.shape != blocks.shape or self._differs(blocks, self._seen):
            if now_ns > self._until_ns:
                self._noise = MOST_CHANGE  # measured anew: the light may have become another
            self._until_ns = now_ns + self._hold_ns
        self._fresh = now_ns <= self._until_ns
        if self._fresh:
            self.forget()
            self._seen = blocks
        elif now_ns - self._looked_ns < HEARTBEAT_NS:
            return False
        self._looked_ns = now_ns
        return True

    def _blocks(self, main: Picture) -> _Blocks:
        size = main.width, main.height
        if size != self._size:
            x0, y0, x1, y1 = box_of(grown(self._part, self._min_face_px, *size), *size)
            self._size, self._box = size, (x0, y0, x0 + (x1 - x0) // self._block * self._block, y1)
        return _means(main.luma(self._box, self._block // ROWS_A_BLOCK), self._block)

    def _differs(self, blocks: _Blocks, seen: _Blocks) -> bool:
        """Whether a block changed by more than light and noise explain; in a picture smaller than a block all does."""
        if not blocks.size:
            return True
        gain = (blocks.sum(1) + 1) / (seen.sum(1) + 1)
        rest = seen * gain[:, None]
        np.subtract(blocks, rest, out=rest)
        np.abs(rest, out=rest)
        if self._fresh:
            self._noise = min(self._noise, float(rest.mean()))
        limit = min(max(NOISE_RATIO * self._noise, LEAST_CHANGE), MOST_CHANGE)
        return bool(rest.max() > limit or gain.max() > MOST_GAIN or gain.min() < 1 / MOST_GAIN)


def _means(rows: Luma, block: int) -> _Blocks:
    """Mean of each ``ROWS_A_BLOCK`` rows by ``block`` columns, in a contiguous picture that is whole blocks across.

    Four pixels are added at a time, as numbers of 32 bits: numpy widens bytes one by one on a processor whose wide
    units it does not use for that.
    """
    down, across = len(rows) // ROWS_A_BLOCK, rows.shape[1] // block
    words = rows[: down * ROWS_A_BLOCK].view(np.uint32)
    pairs = words & EVEN_BYTES  # two lanes of 16 bits
    words = words >> BYTE
    words &= EVEN_BYTES
    pairs += words
    pairs = pairs.reshape(down, ROWS_A_BLOCK, across, block // WORD)
    sums = pairs[:, 0] + pairs[:, 1]
    for row in range(2, ROWS_A_BLOCK):
        sums += pairs[:, row]
    total = sums[..., 0].copy()
    for column in range(1, block // WORD):
        total += sums[..., column]
    total += total >> LANE  # the lower lane has both: 128 pixels of 255 are below 2^15
    return (total & LOWER_LANE).astype(np.float32) * np.float32(1 / (ROWS_A_BLOCK * block))


def part_of(polygon: Sequence[tuple[float, float]]) -> Part:
    """The upright rectangle around a zone."""
    across, down = zip(*polygon, strict=True)
    return min(across), min(down), max(across), max(down)
