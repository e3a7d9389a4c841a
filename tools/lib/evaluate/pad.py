# SPDX-License-Identifier: Apache-2.0
"""How often the challenge lets somebody pass: APCER of each species of attack, BPCER, and the worst (ISO/IEC 30107-3).

``--clips DIR`` measures recordings: ``DIR/bona-fide`` and a folder for each species, films in them. A bona fide film
names the turns that its person was asked for, as ``anna-1.left-up-right.mp4``. An attack's film meets ``--trials``
challenges, each with its own order and pauses.

``--simulate N`` draws N attempts of each species, and of demo people who turn as they are asked (bona fide). Prints,
tablets and masks show photos of ``--images`` where it is given, else demo people. Whoever holds a print, a bent print,
a tablet with a still or a mask moves it the way the door asks; a tablet with a film plays a head that turns every way
in an order and at times of its own. Simulated attacks rank ideas: no APCER of a product may be claimed from them.

The face counts as matched whenever it looks ahead: the attacker's picture is as good as the comparison wants it.
Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent.camera.base import Frame
from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import FileCamera
from agent.detect.pose import head_pose
from agent.door.challenge import DIRECTIONS, Challenge, Look, advance, begin, unseen
from tools.lib.evaluate.attempts import SPECIES, Attempt, attempts
from tools.lib.evaluate.peers import FindsFaces
from tools.lib.evaluate.recogniser import Finder, add_model_arguments, progress

BONA_FIDE = "bona-fide"
FILMS = {".mp4", ".mkv", ".mov", ".avi"}
Z = 1.96  # of a normal distribution: 95 %


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, help="a folder with bona-fide and one folder for each species")
    parser.add_argument("--trials", type=int, default=5, help="challenges for each attack's film; default: %(default)s")
    parser.add_argument("--simulate", type=int, metavar="N", help="draw so many attempts of each species")
    parser.add_argument("--species", nargs="+", choices=(BONA_FIDE, *SPECIES), help="only these")
    parser.add_argument("--images", type=Path, help="photos that simulated attacks show")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn by chance; default: %(default)s")
    add_model_arguments(parser, embedder=False)


@dataclass(slots=True)
class Count:
    """Attempts of one species, how many passed, and why the others did not."""

    attempts: int = 0
    passed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, challenge: Challenge) -> None:
        self.attempts += 1
        self.passed += challenge.phase == "passed"
        if challenge.phase != "passed":
            reason = challenge.reason or "film over"
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def run(args: argparse.Namespace) -> dict[str, Any]:
    finder, rng = Finder(args), np.random.default_rng(args.seed)
    counts: dict[str, Count] = {}
    wanted = args.species or (BONA_FIDE, *SPECIES)
    if args.clips:
        for folder in sorted(path for path in args.clips.iterdir() if path.is_dir()):
            films = sorted(path for path in folder.iterdir() if path.suffix.lower() in FILMS)
            for film in progress(films):
                trials = 1 if folder.name == BONA_FIDE else args.trials
                for _ in range(trials):
                    counts.setdefault(folder.name, Count()).add(watched(finder, film, challenge_of(film, rng)))
    for species in wanted if args.simulate else ():
        shown = attempts(species, args.simulate, rng, finder, args.images)
        for attempt in progress_of(shown, args.simulate):
            counts.setdefault(species, Count()).add(played(finder, attempt, begin(rng.bytes, 0)))
    return report(counts) | {"cpu_milliseconds": finder.times.summary(), "models": finder.names}


def progress_of(items: Iterator[Attempt], count: int) -> Iterator[Attempt]:
    return (item for _, item in zip(progress([Path(str(i)) for i in range(count)]), items, strict=False))


def challenge_of(film: Path, rng: np.random.Generator) -> Challenge:
    """The challenge that a film has to meet; of a bona fide one the order that its name has, without pauses."""
    challenge = begin(rng.bytes, 0)
    if film.parent.name != BONA_FIDE:
        return challenge
    steps = tuple(step for step in film.stem.rpartition(".")[2].split("-") if step in DIRECTIONS)
    if not steps:
        raise SystemExit(
            f"tools/evaluate: {film} does not say what was asked: name it …{'-'.join(challenge.steps)}.mp4"
        )
    return Challenge(steps, (0,) * (len(steps) + 1), began_ns=0, last_ns=0)


def watched(finder: Finder, film: Path, challenge: Challenge) -> Challenge:
    """The challenge after the frames of a film."""
    camera = open_camera(
        FileCamera(path=film, realtime=False), lores_size=finder.detector.input_size, clock=SystemClock()
    )
    first_ns: int | None = None
    with camera:
        for frame in camera.frames():
            first_ns = frame.timestamp_ns if first_ns is None else first_ns
            with frame:
                challenge = step(finder, frame, challenge, frame.timestamp_ns - first_ns)
            if challenge.over:
                break
    return challenge


def played(finder: Finder, attempt: Attempt, challenge: Challenge) -> Challenge:
    """The challenge after a drawn attempt, whose person sees what the door shows."""
    for frame in attempt.frames(finder.detector.input_size):
        challenge = step(finder, frame, challenge, frame.timestamp_ns)
        attempt.see(challenge.prompt)
        if challenge.over:
            break
    return challenge


def step(finder: Finder, frame: Frame, challenge: Challenge, now_ns: int) -> Challenge:
    """As the pipeline does it, with the largest face."""
    faces = finder.detector.detect(frame, exact=False)
    with finder.times.measure("challenge"):
        angles = angles_of(finder.detector, frame, faces)
        if angles is None:
            return unseen(challenge, now_ns)
        return advance(challenge, Look(*angles, matched=challenge.phase == "pause", timestamp_ns=now_ns))


def angles_of(detector: FindsFaces, frame: Frame, faces: list[Any]) -> tuple[float, float] | None:
    largest = max(faces, key=lambda face: face.width * face.height, default=None)
    if largest is None:
        return None
    near = detector.locate(frame, largest)
    pose = head_pose(near.landmarks)
    return None if near is largest else (pose.yaw, pose.pitch)


def report(counts: dict[str, Count]) -> dict[str, Any]:
    """Rates with intervals; the worst species is what ISO/IEC 30107-3 has one state."""
    attacks = {name: count for name, count in counts.items() if name != BONA_FIDE}
    found: dict[str, Any] = {}
    if BONA_FIDE in counts:
        honest = counts[BONA_FIDE]
        found["bona_fide"] = {"attempts": honest.attempts, "passed": honest.passed}
        found["bona_fide"] |= rate("bpcer", honest.attempts - honest.passed, honest.attempts) | honest.reasons
    if attacks:
        found["attacks"] = {
            name: {"attempts": one.attempts, "passed": one.passed}
            | rate("apcer", one.passed, one.attempts)
            | one.reasons
            for name, one in attacks.items()
        }
        worst = max(attacks, key=lambda name: attacks[name].passed / attacks[name].attempts)
        found["worst_species"] = worst
        found |= rate("worst_apcer", attacks[worst].passed, attacks[worst].attempts)
    return found


def rate(name: str, hits: int, count: int) -> dict[str, float]:
    """A share with its interval (Wilson 1927)."""
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return {name: share, f"{name}_low": max(0.0, float(middle - half)), f"{name}_high": min(1.0, float(middle + half))}
