# SPDX-License-Identifier: Apache-2.0
"""The source archive of one commit: the same bytes whoever builds it, wherever and whenever.

``git archive`` writes the commit's files in the order of their names, owned by root, with the commit's date; the
compression's header holds neither a date nor a name.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

COMPRESSION = 9


def git(root: Path, *arguments: str) -> bytes:
    """Run git in ``root`` and return what it printed; CalledProcessError when it fails."""
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout


def commit_time(root: Path) -> int:
    """Seconds since 1970 of the commit that is checked out: the date of every file of a release."""
    return int(git(root, "log", "-1", "--format=%ct"))


def make_archive(root: Path, version: str) -> bytes:
    """The commit that is checked out as the bytes of ``postern-VERSION.tar.gz``; changes in the tree do not count."""
    # Whatever umask the person's own settings name for archives.
    tar = git(root, "-c", "tar.umask=0022", "archive", "--format=tar", f"--prefix=postern-{version}/", "HEAD")
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=COMPRESSION, mtime=0) as stream:
        stream.write(tar)
    return packed.getvalue()


def unpack(archive: bytes, folder: Path) -> Path:
    """Unpack an archive that ``make_archive`` wrote into ``folder``; the one folder that is in it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked
