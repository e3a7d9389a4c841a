# SPDX-License-Identifier: Apache-2.0
"""Frames of a scene: a pure function of script and frame number, drawn with NumPy and Pillow.

The background is drawn once; a frame copies it, draws only where people are and adds noise from a bank. Nothing
depends on which frames were drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Rgb
from agent.camera.scene.background import background
from agent.camera.scene.disturbance import before, behind
from agent.camera.scene.figure import Exposure, Figure, Sprite
from agent.camera.scene.motion import Placement, placements, scene_gain
from agent.camera.scene.people import People, load_people
from agent.camera.scene.relief import relief
from agent.camera.scene.script import Person, SceneScript
from agent.camera.scene.sheet import Sheet

NOISE_SHIFT: Final = 64  # pixels by which the bank is larger than the picture: 4096 places to cut from
NOISE_SIGMAS: Final = 3  # the bank ends here, and black and white keep as far from the ends of the scale

# With full backlight the background is 2.2 times as bright and faces keep a quarter of their light under a veil.
_BACK_BRIGHTER, _FACE_DARKER, _VEIL = 1.2, 0.75, 20.0


class SceneRenderer:
    """Draws the frames of one script."""

    def __init__(self, script: SceneScript, people: People | None = None) -> None:
        self._script = script
        self._width, self._height = script.size
        pack = people or load_people()
        self._figures = [figure(pack, person) for person in script.people]
        self._background = background(script.background, self._width, self._height)
        self._noise = None if script.noise == 0 else noise_bank(script.seed, script.noise, *script.size)
        self._lit: tuple[float, Rgb] | None = None

    def time(self, number: int) -> float:
        """Seconds from the scene's start to frame ``number``."""
        return number / self._script.frames_per_second

    def placements(self, number: int) -> list[Placement]:
        """List who is where in frame ``number``, farthest first."""
        return placements(self._script, self.time(number))

    def relief(self, number: int) -> Callable[[Sequence[float]], float | None]:
        """What a depth camera would say of frame ``number``, for ``Frame.relief``."""
        return lambda box: relief(self._script.people, self.placements(number), box)

    def frame(self, number: int, asked: tuple[float, float] | None = None) -> Rgb:
        """uint8 (height, width, 3), a fresh array.

        ``asked``: yaw and pitch, degrees, of people who obey, in place of the script's.
        """
        gain = scene_gain(self._script, self.time(number))
        backlight = self._script.backlight
        frame = self._lit_background(round(gain * (1 + _BACK_BRIGHTER * backlight), 3)).copy()
        behind(frame, self._script.disturbances, self.time(number))
        for placement in self.placements(number):
            if asked is not None and self._script.people[placement.index].obeys:
                placement = replace(placement, yaw=asked[0], pitch=asked[1])  # noqa: PLW2901 - as they are asked
            light = gain * placement.gain * (1 - _FACE_DARKER * backlight)
            exposure = Exposure(light, _VEIL * backlight * gain, self._script.motion_blur)
            sprites = self._figures[placement.index].draw(placement, exposure, self._script.size)
            for sprite in sprites:
                self._paste(frame, sprite)
        if self._script.disturbances:
            rng = np.random.default_rng((self._script.seed, number, 1))
            before(frame, self._script.disturbances, self.time(number), rng)
            np.clip(frame, self._amplitude, 255 - self._amplitude, out=frame)
        if self._noise is not None:
            rng = np.random.default_rng((self._script.seed, number))
            x, y = rng.integers(0, NOISE_SHIFT, 2)
            # Wraps as it should: the bank is two's complement and no pixel is nearer to the ends than its amplitude.
            np.add(frame, self._noise[y : y + self._height, x : x + self._width], out=frame)
        return frame

    @property
    def _amplitude(self) -> int:
        return _amplitude(self._script.noise)

    def _lit_background(self, gain: float) -> Rgb:
        if self._lit is None or self._lit[0] != gain:
            levels = np.clip(np.arange(256) * gain + 0.5, self._amplitude, 255 - self._amplitude).astype(np.uint8)
            self._lit = (gain, levels[self._background])
        return self._lit[1]

    def _paste(self, frame: Rgb, sprite: Sprite) -> None:
        x0, y0 = max(sprite.x, 0), max(sprite.y, 0)
        x1 = min(sprite.x + sprite.picture.width, self._width)
        y1 = min(sprite.y + sprite.picture.height, self._height)
        if x0 >= x1 or y0 >= y1:
            return
        part = sprite.picture.crop((x0 - sprite.x, y0 - sprite.y, x1 - sprite.x, y1 - sprite.y))
        region = Image.fromarray(frame[y0:y1, x0:x1])
        region.paste(part, (0, 0), part)
        np.clip(np.asarray(region), self._amplitude, 255 - self._amplitude, out=frame[y0:y1, x0:x1])


@lru_cache(maxsize=2)  # one of a scene and one of an enrolment: 3 MB each at 720p
def noise_bank(seed: int, noise: float, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 (height + NOISE_SHIFT, width + NOISE_SHIFT, 3), to be read alone: what is added to a frame, modulo 256."""
    rng = np.random.default_rng((seed, 2**31))
    values = rng.standard_normal((height + NOISE_SHIFT, width + NOISE_SHIFT, 3), np.float32)
    values *= noise
    np.rint(values, out=values)
    np.clip(values, -_amplitude(noise), _amplitude(noise), out=values)
    bank = values.astype(np.int8).view(np.uint8)
    bank.setflags(write=False)
    return bank


def _amplitude(noise: float) -> int:
    """Grey levels by which noise moves a pixel at most."""
    return round(NOISE_SIGMAS * noise)


def figure(people: People, person: Person) -> Figure | Sheet:
    """What is drawn of a person of the script."""
    attack = person.attack
    masked = attack is not None and attack.kind == "mask"
    shown = Figure(people, person.who, person.picture, person.blend, person.coat, masked=masked)
    return shown if attack is None or masked else Sheet(shown, attack)
