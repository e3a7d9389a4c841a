# SPDX-License-Identifier: Apache-2.0
"""A signed APT repository of releases, written by Debian's own tools (apt-ftparchive, gpg) and served as plain files.

Two suites: ``first`` has every release at once, for one unit that goes ahead; ``stable`` has those that were promoted.
Older releases stay in both, so that a unit can go back. A suite is written beside the old one and takes its place by a
rename; what is signed names every file by its digest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

SUITES = ("first", "stable")
COMPONENT = "main"
ARCHITECTURES = ("arm64", "amd64")
ORIGIN = "Postern"
PROMOTED = "promoted"  # a file beside the suites: versions of ``stable``, one a line
NEEDS = {"apt-ftparchive": "apt-utils", "gpg": "gpg", "dpkg-deb": "dpkg"}
_PACKAGE = re.compile(r"postern_(?P<version>[0-9A-Za-z.+~-]+)_(?P<arch>arm64|amd64)\.deb$")


class RepositoryError(Exception):
    """The repository cannot be written as asked; the message says what to do."""


def publish(root: Path, key: str, packages: Iterable[Path] = (), *, promote: str | None = None) -> list[str]:
    """Add ``packages`` to the repository in ``root``, promote a version to ``stable``; its versions there.

    ``key`` is the fingerprint of the key that gpg signs both suites with. A package is added once: other bytes of a
    version that is there are refused. Raises RepositoryError.
    """
    _check_tools()
    pool = root / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for package in packages:
        _add(package, pool)
    known = sorted({found["version"] for path in pool.iterdir() if (found := _PACKAGE.match(path.name))})
    promoted = _promoted(root)
    if promote is not None:
        if promote not in known:
            raise RepositoryError(f"there is no release {promote} to promote; there are: {', '.join(known) or 'none'}")
        promoted = sorted({*promoted, promote})
        _write(root / PROMOTED, "".join(f"{version}\n" for version in promoted))
    stanzas = _stanzas(root)
    _sign_suite(root, "first", stanzas, key)
    _sign_suite(root, "stable", [one for one in stanzas if _field(one, "Version") in promoted], key)
    return promoted


def _check_tools() -> None:
    for program, package in NEEDS.items():
        if shutil.which(program) is None:
            raise RepositoryError(f"{program} is missing: apt-get install {package}")


def _add(package: Path, pool: Path) -> None:
    if _PACKAGE.match(package.name) is None:
        raise RepositoryError(f"{package} is no package of a release: give those that tools/release built")
    target = pool / package.name
    if target.exists():
        if target.read_bytes() != package.read_bytes():
            raise RepositoryError(
                f"{package.name} is there with other bytes: a release is never replaced, make a new one"
            )
        return
    fresh = target.with_suffix(".new")
    shutil.copyfile(package, fresh)
    fresh.replace(target)


def _promoted(root: Path) -> list[str]:
    path = root / PROMOTED
    return path.read_text().split() if path.exists() else []


def _stanzas(root: Path) -> list[str]:
    """What apt knows of each package, as apt-ftparchive says it."""
    listed = _run(["apt-ftparchive", "packages", "pool"], root)
    return [stanza for stanza in listed.split("\n\n") if stanza.strip()]


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    if found is None:
        raise RepositoryError(f"a package in the pool has no field {name}: remove it, then add it again")
    return found[1]


def _sign_suite(root: Path, suite: str, stanzas: list[str], key: str) -> None:
    """Write one suite beside the old one, sign it, and put it in its place."""
    dists = root / "dists"
    dists.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dists, prefix=f".{suite}.") as folder:
        fresh = Path(folder) / suite
        for architecture in ARCHITECTURES:
            index = fresh / COMPONENT / f"binary-{architecture}" / "Packages"
            index.parent.mkdir(parents=True)
            mine = [stanza for stanza in stanzas if _field(stanza, "Architecture") == architecture]
            index.write_text("".join(f"{stanza.strip()}\n\n" for stanza in mine))
        options = {
            "Origin": ORIGIN,
            "Label": ORIGIN,
            "Suite": suite,
            "Codename": suite,
            "Architectures": " ".join(ARCHITECTURES),
            "Components": COMPONENT,
        }
        words = [word for name, text in options.items() for word in ("-o", f"APT::FTPArchive::Release::{name}={text}")]
        release = fresh / "Release"
        content = _run(["apt-ftparchive", *words, "release", str(fresh)], root)
        _write(release, content)
        signed = fresh / "InRelease"
        gpg = ["gpg", "--batch", "--yes", "--local-user", key, "--digest-algo", "SHA512", "--clearsign"]
        _run([*gpg, "--output", str(signed), str(release)], root)
        old = dists / suite
        if old.exists():
            old.replace(Path(folder) / "old")
        fresh.replace(old)


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def _run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RepositoryError(f"{words[0]} failed: {last}")
    return done.stdout
