# SPDX-License-Identifier: Apache-2.0
"""``tools/release``: everything that a release consists of, from the commit that is checked out and nothing else.

Changes in the working tree do not count: the Debian packages and the bill of materials are made from the unpacked
source archive, so whoever has the archive can make them again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.lib.release.archive import commit_time, git, make_archive, unpack
from tools.lib.release.bom import make_bom
from tools.lib.release.changelog import (
    ROOT,
    UNRELEASED,
    ChangelogError,
    disagreements,
    package_version,
    read_changelog,
    release_tags,
)
from tools.lib.release.repository import ARCHITECTURES, RepositoryError, publish

SUMS = "SHA256SUMS"


def main(words: list[str] | None = None) -> int:
    """Exit status 0; 1 when a second build differs; 2 when this commit is no release."""
    parser = argparse.ArgumentParser(prog="tools/release", description=__doc__.split("\n")[0])
    parser.add_argument(
        "out", nargs="?", type=Path, default=ROOT / "out/release", help="folder for the files (out/release)"
    )
    parser.add_argument("--source-only", action="store_true", help="archive and bill of materials, no Debian packages")
    parser.add_argument("--trial", action="store_true", help="build although this commit carries no tag of its version")
    parser.add_argument("--twice", action="store_true", help="build everything a second time and compare the bytes")
    repository = parser.add_argument_group("an APT repository of releases, instead of a build")
    repository.add_argument("--repository", type=Path, metavar="FOLDER", help="add the packages in 'out' and sign it")
    repository.add_argument("--key", metavar="FINGERPRINT", help="of the key that gpg signs the repository with")
    repository.add_argument("--promote", metavar="VERSION", help="from the suite 'first' to 'stable'")
    arguments = parser.parse_args(words)
    if arguments.repository is not None or arguments.promote is not None or arguments.key is not None:
        return _publish(arguments)
    if not arguments.trial and (why := why_no_release(ROOT)):
        print("\n".join(f"tools/release: {sentence}" for sentence in why), file=sys.stderr)
        return 2
    files = build(ROOT, debian=not arguments.source_only)
    if arguments.twice and (differing := compare(files, build(ROOT, debian=not arguments.source_only))):
        print(f"tools/release: another build gave other bytes: {', '.join(differing)}", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, SUMS: sums(files)}.items():
        (arguments.out / name).write_bytes(content)
    print(sums(files).decode(), end="")
    print(
        f"{arguments.out}: {len(files)} files and {SUMS}" + (", built twice, the same bytes" if arguments.twice else "")
    )
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    if arguments.repository is None or arguments.key is None:
        print("tools/release: give --repository FOLDER and --key FINGERPRINT together", file=sys.stderr)
        return 2
    packages = [] if arguments.promote else sorted(arguments.out.glob("postern_*.deb"))
    if not packages and not arguments.promote:
        print(f"tools/release: no packages in {arguments.out}: build them first with 'tools/release'", file=sys.stderr)
        return 2
    try:
        stable = publish(arguments.repository, arguments.key, packages, promote=arguments.promote)
    except RepositoryError as error:
        print(f"tools/release: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.repository}: signed; stable has {', '.join(stable) or 'nothing yet: --promote VERSION'}")
    return 0


def why_no_release(root: Path) -> list[str]:
    """Say what keeps this commit from being a release."""
    try:
        version = package_version(root)
        newest = read_changelog((root / "deploy/debian/changelog").read_text())[0]
    except ChangelogError as error:
        return [str(error)]
    tags = release_tags(root)
    found = disagreements(version, newest, tags)
    if not tags:
        found.append(f"this commit carries no tag v{version}: tag it, or say --trial")
    if newest.distribution == UNRELEASED:
        found.append(f"deploy/debian/changelog still says {UNRELEASED}: name the distribution and the date")
    return found


def build(root: Path, *, debian: bool) -> dict[str, bytes]:
    """Make all files of a release; by name."""
    commit, time = git(root, "rev-parse", "HEAD").decode().strip(), commit_time(root)
    with tempfile.TemporaryDirectory() as folder:
        version = package_version(root)
        archive = make_archive(root, version)
        source = unpack(archive, Path(folder, "source"))
        bom = make_bom(source, version=version, commit=commit, time=time)
        files = {f"postern-{version}.tar.gz": archive, f"postern-{version}.cdx.json": bom.encode()}
        if debian:
            out = Path(folder, "packages")
            for architecture in ARCHITECTURES:
                command: list[str | Path] = [source / "deploy/debian/build", architecture, out]
                subprocess.run(
                    command, check=True, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": str(time)}
                )
            files |= {path.name: path.read_bytes() for path in out.iterdir()}
    return files


def compare(files: dict[str, bytes], others: dict[str, bytes]) -> list[str]:
    """Name the files that differ."""
    return sorted(name for name in files.keys() | others.keys() if files.get(name) != others.get(name))


def sums(files: dict[str, bytes]) -> bytes:
    """Write what ``sha256sum --check`` reads."""
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return "".join(lines).encode()


if __name__ == "__main__":
    sys.exit(main())
