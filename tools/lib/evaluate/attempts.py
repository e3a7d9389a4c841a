# SPDX-License-Identifier: Apache-2.0
"""Drawn attempts at a door that asks people to turn their heads: demo people, and attacks of several species."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.people import PERSON_IDS, People, load_people
from agent.camera.scene.pose import PICTURE_MARGIN, PICTURE_SCALE, PICTURE_SIDE
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import Attack, PathKey, Person, PoseKey, Room, SceneScript
from agent.door.challenge import Prompt
from agent.embed.align import TEMPLATE, umeyama
from tools.lib.evaluate import pictures
from tools.lib.evaluate.recogniser import Finder
from tools.lib.rig.obedient import Obedient

SPECIES = ("print", "bent-print", "tablet-still", "tablet-film", "paper-mask")
FRAMES_PER_SECOND = 8.0
WIDTH, HEIGHT = 384, 288  # pixels: as much of a larger picture as the face needs
SECONDS = 40.0  # longer than any challenge
KINDS = {
    "print": "print",
    "bent-print": "bent",
    "tablet-still": "tablet",
    "tablet-film": "tablet",
    "paper-mask": "mask",
}
WAYS = ((1, 0), (-1, 0), (0, -1), (0, 1))


class Photo(People, frozen=True):
    """A pack in which everybody has one photo's face."""

    photo: Image.Image | None = None

    def picture(self, who: str, number: int) -> Image.Image:  # noqa: ARG002 - the same for everybody
        if self.photo is None:
            raise ValueError("this pack has no photo")
        return self.photo.copy()


@dataclass(eq=False)
class Attempt:
    """One person, or one attack, before a drawn camera."""

    script: SceneScript
    people: People
    who: Obedient

    shown: Prompt | None = None

    def see(self, prompt: Prompt | None) -> None:
        """What the door shows from now on."""
        if prompt != self.shown:
            self.shown = prompt
            self.who.prompt(prompt)

    def frames(self, lores_size: tuple[int, int]) -> Iterator[Frame]:
        renderer = SceneRenderer(self.script, self.people)
        for number in range(self.script.frame_count):
            main = RgbPicture(renderer.frame(number, self.who.pose(number / FRAMES_PER_SECOND)))
            now_ns = round(number * 1e9 / FRAMES_PER_SECOND)
            yield Frame(number, now_ns, partial(main.shrunk, (0, 0, WIDTH, HEIGHT), lores_size), main)


def attempts(
    species: str, count: int, rng: np.random.Generator, finder: Finder, images: Path | None
) -> Iterator[Attempt]:
    """``count`` attempts; attacks show photos of ``images`` where there are some."""
    people = load_people()
    photos = iter(faces(finder, images, count, rng)) if images is not None and species in SPECIES else None
    for number in range(count):
        pack: People = people
        if photos is not None:
            pack = Photo(people.box, people.measured, people.people, photo=next(photos))
        yield Attempt(scene(species, number, rng), pack, holder(species, rng))


def holder(species: str, rng: np.random.Generator) -> Obedient:
    """How far somebody turns, or how far a sheet is tilted."""
    if species in KINDS:
        return Obedient(yaw=rng.uniform(20, 45), pitch=rng.uniform(15, 35), reaction_s=rng.uniform(0.2, 0.7))
    return Obedient(yaw=rng.uniform(36, 45), pitch=rng.uniform(29, 35), reaction_s=rng.uniform(0.3, 0.8))


def scene(species: str, number: int, rng: np.random.Generator) -> SceneScript:
    kind = KINDS.get(species)
    attack = None
    if kind is not None:
        plays = film(rng) if species == "tablet-film" else ()
        attack = Attack(kind=kind, plays=plays)  # type: ignore[arg-type]
    tilt = rng.uniform(-6, 6, 3) if kind is not None else np.zeros(3)
    person = Person(
        who=PERSON_IDS[number % len(PERSON_IDS)],
        path=(PathKey(at=0, x=WIDTH / 2, y=rng.uniform(125, 145), face=rng.uniform(100, 130)),),
        pose=(PoseKey(at=0, yaw=tilt[0], pitch=tilt[1], roll=tilt[2]),),
        attack=attack,
        obeys=species != "tablet-film",
    )
    return SceneScript(
        size=(WIDTH, HEIGHT),
        duration=SECONDS,
        frames_per_second=FRAMES_PER_SECOND,
        seed=int(rng.integers(2**31)),
        background=Room(variant=int(rng.integers(9999)), window=bool(rng.integers(2))),
        people=(person,),
    )


def film(rng: np.random.Generator) -> tuple[PoseKey, ...]:
    """A head that turns every way, again and again, in an order and with rests by chance."""
    keys, at = [PoseKey(at=0)], 0.0
    while at < SECONDS - 8 and len(keys) < 60:
        for way in rng.permutation(4):
            x, y = WAYS[way]
            start = at + rng.uniform(0.8, 2.5)
            keys += [
                PoseKey(at=start),
                PoseKey(at=start + 0.6, yaw=42.0 * x, pitch=33.0 * y),
                PoseKey(at=start + rng.uniform(0.8, 1.2), yaw=42.0 * x, pitch=33.0 * y),
            ]
            at = start + 1.8
            keys.append(PoseKey(at=at))
    return tuple(keys[:64])


def faces(finder: Finder, folder: Path, count: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Photos of faces by chance, as a stored picture has them: RGBA, PICTURE_SIDE on each side."""
    paths = pictures.find(folder)
    made = 0
    while made < count:
        for path in (paths[int(place)] for place in rng.permutation(len(paths))):
            frame, found = finder.faces(path)
            if found:
                points = (TEMPLATE + PICTURE_MARGIN) * PICTURE_SCALE
                back = np.linalg.inv(np.vstack([umeyama(found[0].landmarks, points), [0, 0, 1]]))
                photo = Image.fromarray(frame.main.window(0, 0, frame.main.width, frame.main.height))
                side = (PICTURE_SIDE, PICTURE_SIDE)
                flat = photo.transform(
                    side, Image.Transform.AFFINE, back[:2].ravel().tolist(), Image.Resampling.BICUBIC
                )
                yield flat.convert("RGBA")
                made += 1
        if not made:
            raise SystemExit(f"tools/evaluate: nobody is found in the pictures of {folder}")
