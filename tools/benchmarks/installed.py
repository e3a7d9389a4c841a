# SPDX-License-Identifier: Apache-2.0
"""What an installation weighs: the packages that the service needs to run, and those that its peers need."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tools.benchmarks.report import Section

MODELS = Path(__file__).resolve().parents[2] / "models"
PEERS = ("opencv-python-headless", "onnxruntime")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
MIB = 1024 * 1024


def install_section() -> Section:
    """Size on disk of the runtime dependencies, with what they depend on."""
    section = Section("install")
    needed = _closure("postern") - {"postern"}
    sizes = {name: _size(name) for name in needed}
    section.single("runtime dependencies, installed", "MiB", sum(sizes.values()) / MIB)
    section.single("with PyAV for files, RTSP and USB", "MiB", (sum(sizes.values()) + _total("av", needed)) / MIB)
    section.single("models", "MiB", sum(path.stat().st_size for path in MODELS.glob("*.tflite")) / MIB)
    peers: set[str] = set()
    for name in PEERS:
        peers |= _closure(name)
    section.single("peers: OpenCV and ONNX Runtime", "MiB", sum(map(_size, peers)) / MIB if peers else None)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    section.notes.append("largest: " + ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in largest))
    return section


def _closure(name: str) -> set[str]:
    """Names of a package and all it needs, without extras; empty when it is not installed."""
    names: set[str] = set()
    waiting = [name]
    while waiting:
        one = _normal(waiting.pop())
        found = _find(one)
        if one in names or found is None:
            continue
        names.add(one)
        for requirement in found.requires or ():
            match = _NAME.match(requirement)
            if match is not None and "extra ==" not in requirement:
                waiting.append(match[0])
    return names


def _total(name: str, without: set[str]) -> int:
    return sum(map(_size, _closure(name) - without))


def _size(name: str) -> int:
    found = _find(name)
    files = (found.files or ()) if found is not None else ()
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
