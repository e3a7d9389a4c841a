# SPDX-License-Identifier: Apache-2.0
"""One step of training: ``tools/train STEP …``. A step is a module of this package with a ``main``."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.errors import PosternError

FOLDER = Path(__file__).parent
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def steps() -> dict[str, str]:
    """Name and one sentence of each step, read without importing it."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run a step, or say which there are; exit status 2 for a step or a file that isn't there."""
    words = sys.argv[1:] if words is None else words
    known = steps()
    if not words or words[0] in ("-h", "--help"):
        print("tools/train STEP …; tools/train STEP --help says what a step takes\n")
        print("\n".join(f"  {name:<17} {summary}" for name, summary in known.items()))
        return 0
    step, *rest = words
    if step not in known:
        print(f"tools/train: there is no step {step}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    sys.argv = [f"tools/train {step}", *rest]
    try:
        importlib.import_module(f"tools.lib.train.{step.replace('-', '_')}").main()
    except (PosternError, OSError) as error:
        print(f"tools/train {step}: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, PosternError) else 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
