# SPDX-License-Identifier: Apache-2.0
"""Tools in Python that run with whatever Python they were called by, and else make themselves an environment."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RETURNED = "POSTERN_TOOL_ENVIRONMENT"  # set for the second start, so that there is no third
SCRIPT = """root=$1 name=$2 extra=$3; . "$root/tools/lib/setup.sh"; set_up "$root" "$name" "$extra" >&2
shift 3; exec "$BIN/python" "$@" """


def start_again(missing: ModuleNotFoundError, name: str, extra: str) -> None:
    """Run this program in the environment ``name`` with the extra ``extra``; does not return.

    Raises ``missing`` if that environment lacks the module too.
    """
    if os.environ.get(RETURNED):
        raise missing
    os.environ[RETURNED] = "1"
    os.execvp("bash", ["bash", "-euc", SCRIPT, "environment", str(ROOT), name, extra, *sys.argv])  # noqa: S606
