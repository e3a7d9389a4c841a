# SPDX-License-Identifier: Apache-2.0
"""Whether the models' answers are those of another machine: integers bit for bit, floats but for their rounding.

    python -m tools.lib.arm64.outputs write FILE      here: pictures, models' inputs and answers, faces, embeddings
    python -m tools.lib.arm64.outputs compare FILE    there: the same again, and what differs

The models get the very bytes of FILE, so a difference of theirs is theirs alone. What comes before and after them, in
floating point, is compared as well and may differ a little. The exit status is 1 when a model's differ. The last step
of an embedder is in float32: an integer before it that differed would move it by a hundred times its rounding.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Frame, RgbPicture, letterbox, lores_fit
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import load_script
from agent.detect.detector import Detector, load_detector
from agent.embed.align import align
from agent.inference.engine import Engine
from agent.inference.golden import picture
from agent.inference.manifest import load_manifest
from tools.lib.arm64 import MANIFEST

SCENES = Path(__file__).parents[2] / "scenes"
# Scene and frame: one face, two, eight small ones, little light, half covered, nobody.
VIEWS = (("demo", 70), ("two-at-once", 40), ("crowd", 30), ("low-light", 40), ("covered", 40), ("demo", 0))
DETECTOR = "detector-320x240"  # whose faces are aligned
MAX_CROPS = 8
ROUNDING = 1e-5  # of the largest value: sums of 256 products in float32, in another order, are 1e-7 off

Arrays = dict[str, NDArray[np.generic]]


def pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Scene frames, (h, w, 3) RGB."""
    for scene, number in VIEWS:
        renderer = SceneRenderer(load_script(SCENES / f"{scene}.yaml"))
        yield f"{scene}-{number}", renderer.frame(number)


def view(detector: Detector, main: NDArray[np.uint8]) -> Frame:
    """The frame that a camera makes of ``main`` for ``detector``."""
    fit = lores_fit(main.shape[1], main.shape[0], *detector.input_size)
    small = np.asarray(Image.fromarray(main).resize(fit, Image.Resampling.BOX))
    return Frame(0, 0, letterbox(small, detector.input_size), RgbPicture(main))


def around(frames: dict[str, NDArray[np.uint8]]) -> Arrays:
    """Faces (n, 15: box, landmarks, score) and crops: the floating-point stages beside the models."""
    detector = load_detector(MANIFEST, DETECTOR)
    found: Arrays = {}
    for name, main in frames.items():
        frame = view(detector, main)
        faces = detector.detect(frame)
        rows = [[*face.box, *np.ravel(face.landmarks).tolist(), face.score] for face in faces]
        found[f"faces/{name}"] = np.asarray(rows, np.float64).reshape(len(rows), 15)
        for index, face in enumerate(faces[:MAX_CROPS]):
            found[f"crop/{name}/{index}"] = align(frame, detector.locate(frame, face))
    return found


def inputs(frames: dict[str, NDArray[np.uint8]], crops: Arrays) -> Arrays:
    """What each model is given, by ``model/picture``; the golden picture is among it."""
    given: Arrays = {}
    for entry in load_manifest(MANIFEST).entries:
        spec = entry.input
        given[f"{entry.name}/golden"] = picture(entry.golden.seed, spec.height, spec.width)
        if entry.task == "detector":
            detector = Detector(engine(entry.name))
            given |= {f"{entry.name}/{name}": view(detector, main).lores for name, main in frames.items()}
        else:
            size = (spec.width, spec.height)
            given |= {
                f"{entry.name}/{name}": np.asarray(Image.fromarray(crop.astype(np.uint8)).resize(size))
                for name, crop in crops.items()
                if name.startswith("crop/")
            }
    return given


def engine(name: str) -> Engine:
    """A model without its self-test, which would refuse what is to be compared here."""
    models = load_manifest(MANIFEST)
    entry = models.entry(name)
    return Engine(entry, models.read(entry))


def answers(given: Arrays) -> Arrays:
    """Raw outputs by ``model/picture/output``."""
    engines = {name: engine(name) for name in sorted({key.split("/")[0] for key in given})}
    return {
        f"{key}/{output}": raw
        for key, image in given.items()
        for output, raw in engines[key.split("/")[0]].run(image.astype(np.uint8, copy=False)).items()
    }


@dataclass(slots=True)
class Difference:
    """How much of some arrays differs."""

    arrays: int = 0
    values: int = 0
    unequal: int = 0
    largest: float = 0.0
    rounded: bool = True  # whether what differs is floats, by no more than ``ROUNDING``
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, here: NDArray[np.generic] | None, there: NDArray[np.generic]) -> None:
        """Count one array; another shape counts as missing."""
        self.arrays += 1
        self.values += there.size
        if here is None or here.shape != there.shape or here.dtype != there.dtype:
            self.missing.append(name)
            return
        apart = np.abs(here.astype(np.float64) - there.astype(np.float64))
        self.unequal += int((apart > 0).sum())
        most = float(apart.max(initial=0.0))
        self.largest = max(self.largest, most)
        self.rounded &= most <= (ROUNDING * float(np.abs(there).max(initial=0.0)) if there.dtype.kind == "f" else 0.0)

    @property
    def none(self) -> bool:
        """Whether nothing differs but by rounding."""
        return self.rounded and not self.missing

    def words(self) -> str:
        counted = f"{self.values} values in {self.arrays} arrays"
        if self.none and not self.unequal:
            return f"equal bit for bit: {counted}"
        if self.none:
            return f"equal but for the rounding of {self.unequal}: {counted}, by {self.largest:.3g} at most"
        missing = f"; absent or of another shape: {', '.join(self.missing)}" if self.missing else ""
        return f"{self.unequal} of {counted} differ, by {self.largest:.3g} at most{missing}"


def difference(here: Arrays, there: Arrays, prefix: str) -> Difference:
    """Compare all arrays whose names begin with ``prefix``."""
    result = Difference()
    for name, array in there.items():
        if name.startswith(prefix):
            result.add(name, here.get(name), array)
    return result


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def write(path: Path) -> int:
    frames = dict(pictures())
    found = around(frames)
    given = inputs(frames, found)
    stored: dict[str, Any] = {  # Any: as arrays they could not be told from options of savez
        **prefixed("picture", frames),
        **found,
        **prefixed("in", given),
        **prefixed("out", answers(given)),
    }
    np.savez(path, **stored)
    print(f"{path}: {len(frames)} pictures, {len(given)} inputs of models, by {machine()}")
    return 0


def compare(path: Path) -> int:
    with np.load(path) as stored:
        there: Arrays = dict(stored.items())
    given = {name.removeprefix("in/"): array for name, array in there.items() if name.startswith("in/")}
    out = prefixed("out", answers(given))
    print(f"{machine()}, compared with {path.name}")
    models = {name: difference(out, there, f"out/{name}/") for name in sorted({key.split("/")[0] for key in given})}
    for name, apart in models.items():
        print(f"  {name:<26} {apart.words()}")
    # Faces and crops of the stored pictures: what differs there is not what differs in drawing.
    drawn: Arrays = dict(pictures())
    shown = {name: there[f"picture/{name}"].astype(np.uint8, copy=False) for name in drawn}
    around_here = {**prefixed("picture", drawn), **around(shown)}
    for prefix, what in (("picture/", "drawn pictures"), ("faces/", "faces, pixels"), ("crop/", "aligned crops")):
        print(f"  {what:<26} {difference(around_here, there, prefix).words()}")
    return 0 if all(apart.none for apart in models.values()) else 1


def machine() -> str:
    runtime = engine(DETECTOR).runtime
    return f"{platform.machine()}, {runtime}, numpy {np.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    arguments = parser.parse_args()
    return write(arguments.file) if arguments.what == "write" else compare(arguments.file)


if __name__ == "__main__":
    sys.exit(main())
