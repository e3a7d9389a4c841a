# SPDX-License-Identifier: Apache-2.0
"""``unpack.py FOLDER WHEELS``: wheels into a folder of the package, of LiteRT only what its Interpreter needs."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

# What the interpreter opens, seen with strace: the rest is accelerators, converters and tools for other uses.
LITERT_FILES = {
    f"ai_edge_litert/{name}"
    for name in (
        "interpreter.py",
        "metrics_interface.py",
        "metrics_portable.py",
        "_pywrap_litert_interpreter_wrapper.so",
        "libpywrap_litert_common.so",
    )
}


def wanted(wheel: str, name: str) -> bool:
    """Whether file ``name`` of ``wheel`` goes into the package."""
    if not wheel.startswith("ai_edge_litert-"):
        return True
    return name in LITERT_FILES or "/licenses/" in name or name.endswith(".dist-info/METADATA")


def main(folder: Path, wheels: Path) -> None:
    """Unpack every wheel of ``wheels``."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if wanted(wheel.name, name):
                    archive.extract(name, folder)
        if wheel.name.startswith("ai_edge_litert-"):
            version = wheel.name.split("-")[1]
            (folder / "ai_edge_litert/__init__.py").write_text(f'__version__ = "{version}"\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
