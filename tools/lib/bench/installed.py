# SPDX-License-Identifier: Apache-2.0
"""What an installation weighs: by pip, as the Debian package, and what the peers need. In MB of 1 000 000 bytes.

The Debian package is built for this: of LiteRT it takes what the interpreter opens, pip takes everything.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tools.lib.bench.report import Bar, Section

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "deploy" / "debian" / "build"
BUILD_TIMEOUT_S = 600.0  # it fetches two interpreters' worth of wheels
PEERS = ("opencv-python-headless", "onnxruntime")
MAX_INSTALLED_MB = 60.0  # beyond the distribution's Python and numpy
BY_PIP, DEBIAN = "installed by pip, without numpy", "Debian package, installed"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_INSTALLED = re.compile(r"installed (\d+) KiB")
MB = 1_000_000


def install_section() -> Section:
    """Size on disk of the program, its models and its runtime dependencies, with what they depend on."""
    section = Section("install")
    needed = closure("postern") - {"postern"}
    sizes = {name: size_of(name) for name in needed}
    own = _tree(ROOT / "agent") + _tree(ROOT / "models")
    everything = sum(sizes.values()) + own
    section.single("installed by pip", "MB", everything / MB)
    section.single(BY_PIP, "MB", (everything - sizes.get("numpy", 0)) / MB)
    section.single("of it program and models", "MB", own / MB)
    section.single("PyAV for files, RTSP and USB, beside it", "MB", _total("av", needed) / MB)
    package, why = _debian_package()
    section.single(DEBIAN, "MB", package)
    peers: set[str] = set()
    for name in PEERS:
        peers |= closure(name)
    without_numpy = sum(size_of(name) for name in peers - {"numpy"})
    section.single("peers: OpenCV and ONNX Runtime, without numpy", "MB", without_numpy / MB if peers else None)
    for figure in (BY_PIP, DEBIAN):
        text = f"{figure}: at most {MAX_INSTALLED_MB:g} MB"
        section.bars.append(Bar(text, figure, "<=", MAX_INSTALLED_MB))
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    section.notes.append("largest: " + ", ".join(f"{name} {size / MB:.1f} MB" for name, size in largest))
    section.notes.append(why or "the Debian package serves two versions of Python; what is Debian's own is not counted")
    return section


def _debian_package() -> tuple[float | None, str]:
    """MB that the package takes once installed, or None and why it was not measured."""
    if shutil.which("dpkg-deb") is None:
        return None, "the Debian package was not built: there is no dpkg-deb"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        return None, f"there is no Debian package for {platform.machine()}"
    with tempfile.TemporaryDirectory(prefix="postern-deb-") as folder:
        try:
            done = subprocess.run(
                [str(BUILD), machine, folder], capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return None, "the Debian package was not built in time"
    found = _INSTALLED.search(done.stdout)
    if done.returncode != 0 or found is None:
        return (
            None,
            f"the Debian package was not built: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
        )
    return int(found[1]) * 1024 / MB, ""


def _tree(folder: Path) -> int:
    """Bytes of the files in a folder, without what Python compiled meanwhile."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files)


def closure(name: str) -> set[str]:
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
    return sum(map(size_of, closure(name) - without))


def size_of(name: str) -> int:
    """Bytes of the files of a package; 0 when it is not installed."""
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
