# SPDX-License-Identifier: Apache-2.0
"""What the programs that write a trained network as .tflite have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser that takes the checkpoint of a run, its pool, and where to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--float", action="store_true", help="float32, to measure what quantisation costs")
    return parser


def write(path: Path, content: bytes, told: str = "") -> None:
    """Write the file and say how long it is."""
    path.write_bytes(content)
    print(f"{path}: {len(content)} bytes{told}")
