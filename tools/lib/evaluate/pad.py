# SPDX-License-Identifier: Apache-2.0
"""How often liveness lets somebody pass: APCER of each species of attack, BPCER, and the worst (ISO/IEC 30107-3).

An attempt passes as at a unit: its challenge, and with ``--passive`` the network's judgement of it as well. What each
part alone would have let pass is told beside it; of the network by the looks it had before the challenge ended.

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
from agent.detect.face import Face
from agent.detect.pose import head_pose
from agent.door.challenge import DIRECTIONS, Challenge, Look, advance, begin, unseen
from agent.door.evidence import Looks, Part
from agent.inference.engine import load_engine
from agent.unit.liveness import make_passive
from tools.lib.evaluate.arguments import some
from tools.lib.evaluate.attempts import SPECIES, Attempt, attempts
from tools.lib.evaluate.peers import FindsFaces
from tools.lib.evaluate.rates import rate
from tools.lib.evaluate.recogniser import Finder, add_model_arguments, progress

BONA_FIDE = "bona-fide"
FILMS = {".mp4", ".mkv", ".mov", ".avi"}
AHEAD_NS = 1_500_000_000  # 1.5 s: enough for the looks that the network needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, help="a folder with bona-fide and one folder for each species")
    parser.add_argument(
        "--trials", type=some, default=5, help="challenges for each attack's film; default: %(default)s"
    )
    parser.add_argument("--simulate", type=some, metavar="N", help="draw so many attempts of each species")
    parser.add_argument("--species", nargs="+", choices=(BONA_FIDE, *SPECIES), help="only these")
    parser.add_argument("--ahead", action="store_true", help="nobody is asked to turn: the network alone, and quickly")
    parser.add_argument("--passive", metavar="NAME", help="a liveness network of the manifest, required as well")
    parser.add_argument("--images", type=Path, help="photos that simulated attacks show")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn by chance; default: %(default)s")
    add_model_arguments(parser, embedder=False)


@dataclass(slots=True)
class Trial:
    """One attempt: its challenge as it stands, and what the passive network saw meanwhile, where there is one."""

    challenge: Challenge
    passive: Part | None = None
    looks: Looks = field(default_factory=Looks)

    @property
    def over(self) -> bool:
        return self.challenge.over

    @property
    def parts(self) -> dict[str, bool]:
        """Which parts let it pass."""
        found = {"challenge": self.challenge.phase == "passed"}
        return found if self.passive is None else found | {"passive": self.looks.passed(self.passive)}


@dataclass(slots=True)
class Count:
    """Attempts of one species, how many passed by all parts and by each alone, and why challenges were not passed."""

    attempts: int = 0
    passed: int = 0
    by_part: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, trial: Trial) -> None:
        parts = trial.parts
        self.attempts += 1
        self.passed += all(parts.values())
        if trial.passive is not None:
            alone = {"challenge_alone": parts["challenge"], "passive_alone": trial.looks.mean >= trial.passive.edge}
            self.by_part = {part: self.by_part.get(part, 0) + passed for part, passed in alone.items()}
        if not parts["challenge"]:
            reason = trial.challenge.reason or "film over"
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def run(args: argparse.Namespace) -> dict[str, Any]:
    finder, rng = Finder(args), np.random.default_rng(args.seed)
    passive = None if args.passive is None else make_passive(load_engine(args.models, args.passive))
    counts: dict[str, Count] = {}
    wanted = args.species or (BONA_FIDE, *SPECIES)
    if args.clips:
        for folder in sorted(path for path in args.clips.iterdir() if path.is_dir()):
            films = sorted(path for path in folder.iterdir() if path.suffix.lower() in FILMS)
            for film in progress(films):
                trials = 1 if folder.name == BONA_FIDE else args.trials
                for _ in range(trials):
                    challenge = ahead() if args.ahead else challenge_of(film, rng)
                    counts.setdefault(folder.name, Count()).add(watched(finder, film, Trial(challenge, passive)))
    for species in wanted if args.simulate else ():
        shown = attempts(species, args.simulate, rng, finder, args.images)
        for attempt in progress_of(shown, args.simulate):
            challenge = ahead() if args.ahead else begin(rng.bytes, 0)
            counts.setdefault(species, Count()).add(played(finder, attempt, Trial(challenge, passive)))
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


def ahead() -> Challenge:
    """A challenge without a turn: the face is looked at for a while."""
    return Challenge((), (AHEAD_NS,), began_ns=0, last_ns=0)


def watched(finder: Finder, film: Path, trial: Trial) -> Trial:
    """The trial after the frames of a film."""
    camera = open_camera(
        FileCamera(path=film, realtime=False), lores_size=finder.detector.input_size, clock=SystemClock()
    )
    first_ns: int | None = None
    with camera:
        for frame in camera.frames():
            first_ns = frame.timestamp_ns if first_ns is None else first_ns
            with frame:
                step(finder, frame, trial, frame.timestamp_ns - first_ns)
            if trial.over:
                break
    return trial


def played(finder: Finder, attempt: Attempt, trial: Trial) -> Trial:
    """The trial after a drawn attempt, whose person sees what the door shows."""
    for frame in attempt.frames(finder.detector.input_size):
        step(finder, frame, trial, frame.timestamp_ns)
        attempt.see(trial.challenge.prompt)
        if trial.over:
            break
    return trial


def step(finder: Finder, frame: Frame, trial: Trial, now_ns: int) -> None:
    """One frame more, as the pipeline does it, with the largest face."""
    faces, challenge = finder.detector.detect(frame, exact=False), trial.challenge
    with finder.times.measure("challenge"):
        near = nearest(finder.detector, frame, faces)
        if near is None:
            trial.challenge = unseen(challenge, now_ns)
            return
        pose = head_pose(near.landmarks)
        look = Look(pose.yaw, pose.pitch, matched=challenge.phase == "pause", timestamp_ns=now_ns)
        trial.challenge = advance(challenge, look)
    if trial.passive is not None and trial.looks.due(challenge, now_ns):
        with finder.times.measure("passive"):
            trial.looks = trial.looks.after(trial.passive, frame, near.box)


def nearest(detector: FindsFaces, frame: Frame, faces: list[Face]) -> Face | None:
    """The largest face at the second look, if that sees one."""
    largest = max(faces, key=lambda face: face.width * face.height, default=None)
    if largest is None:
        return None
    near = detector.locate(frame, largest)
    return None if near is largest else near


def report(counts: dict[str, Count]) -> dict[str, Any]:
    """Rates with intervals; the worst species is what ISO/IEC 30107-3 has one state."""
    attacks = {name: count for name, count in counts.items() if name != BONA_FIDE}
    found: dict[str, Any] = {}
    if BONA_FIDE in counts:
        honest = counts[BONA_FIDE]
        found["bona_fide"] = {"attempts": honest.attempts, "passed": honest.passed} | honest.by_part
        found["bona_fide"] |= rate("bpcer", honest.attempts - honest.passed, honest.attempts) | honest.reasons
    if attacks:
        found["attacks"] = {
            name: {"attempts": one.attempts, "passed": one.passed}
            | one.by_part
            | rate("apcer", one.passed, one.attempts)
            | one.reasons
            for name, one in attacks.items()
        }
        worst = max(attacks, key=lambda name: attacks[name].passed / attacks[name].attempts)
        found["worst_species"] = worst
        found |= rate("worst_apcer", attacks[worst].passed, attacks[worst].attempts)
    return found
