# SPDX-License-Identifier: Apache-2.0
"""What an argument has to be, asked before it is measured: an hour of work ends in no mistake of its beginning."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def some(text: str) -> int:
    """A number of things, 1 or more."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def to_write(text: str) -> Path:
    """A file that can be written; it need not be there yet."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}: make it, or name a file elsewhere")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: name a file elsewhere")
    return path


def existing_file(text: str) -> Path:
    """Return the path of a file that is there; for argparse."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path
