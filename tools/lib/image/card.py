# SPDX-License-Identifier: Apache-2.0
"""A card that the image was written to: larger than the image, with the installer's files on its boot partition."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

CARD_BYTES: Final = 8 * 1024**3  # the file is sparse
BOOT: Final = 1  # the partition's number


class Card:
    """A file that stands for a card; QEMU writes to it as a board does."""

    def __init__(self, file: Path) -> None:
        self.file = file
        listed = json.loads(_output("sfdisk", "--json", file))["partitiontable"]["partitions"]
        self._offset = int(listed[BOOT - 1]["start"]) * 512

    @classmethod
    def write(cls, image: Path, file: Path) -> Card:
        """Write ``image`` to a new card, as an imager does."""
        _output("cp", "--sparse=always", image, file)
        os.truncate(file, CARD_BYTES)
        return cls(file)

    def put(self, name: str, content: bytes) -> None:
        """Put a file on the boot partition, as the installer's own computer does."""
        self._mtools("mcopy", "-o", "-", f"::{name}", stdin=content)

    def names(self) -> set[str]:
        """The files of the boot partition."""
        return set(self._mtools("mdir", "-b", "::").decode().replace("::/", "").split("\n"))

    def take(self, names: list[str], folder: Path) -> None:
        """Copy files of the boot partition to ``folder``."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in names:
            self._mtools("mcopy", f"::{name}", str(folder / name))

    def _mtools(self, program: str, *words: str, stdin: bytes | None = None) -> bytes:
        return _output(program, "-i", f"{self.file}@@{self._offset}", *words, stdin=stdin)


def _output(*words: str | Path, stdin: bytes | None = None) -> bytes:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    return subprocess.run([*map(str, words)], input=stdin, check=True, capture_output=True, env=environment).stdout
