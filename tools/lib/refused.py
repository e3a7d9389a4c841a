# SPDX-License-Identifier: Apache-2.0
"""Refuses the arguments of a program of tools/ before its environment is made, which takes minutes.

``python refused.py PROGRAM MODULE ARGUMENT...``, by any Python 3.11 with nothing installed. So programs are not
imported but read: which commands and options there are at all. Their own parsers judge the rest. Exit status 2 is a
refusal, 64 says that all was told, 0 that nothing speaks against a start.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
REFUSED, TOLD = 2, 64
OPTION: Final = re.compile(r"--[a-z][a-z0-9-]*")
# Programs that do nothing when they are given nothing, and what to give.
NEEDED: Final = {
    "bridge": "--demo, or the bridge's configuration",
    "convert": "--pack NAME, or --model FILE and what describes it",
    "evaluate": "what to measure",
    "lifetime": "days or join",
    "manifest": "add, check or bind",
    "mutate": "faults or rooms",
    "scene_to_video": "a scene, and the clip to write",
}


def main(words: list[str]) -> int:
    """Look at ``words``: the names of program and module, and what it was given."""
    program, module, *given = words
    sys.path.insert(0, str(ROOT))
    if module == "train" and not _is_step(given):
        from tools.lib.train.__main__ import main as train  # noqa: PLC0415 - needs nothing but the steps' files

        return train(given) or TOLD
    if (refusal := _refusal(module, given)) is None:
        return 0
    print(f"tools/{program}: {refusal}", file=sys.stderr)
    return REFUSED


def _is_step(given: list[str]) -> bool:
    from tools.lib.train.__main__ import steps  # noqa: PLC0415 - as above

    return bool(given) and given[0] in steps()


def _refusal(module: str, given: list[str]) -> str | None:
    if not given and module in NEEDED:
        return f"give {NEEDED[module]}"
    entry = _file(f"tools.lib.train.{given[0].replace('-', '_')}" if module == "train" else f"tools.lib.{module}")
    if entry is None:
        return None
    trees = list(_read(entry)) + ([] if module != "bridge" else list(_read(ROOT / "agent/cli/bridge.py")))
    commands = _commands(trees[0])
    if given and commands and not given[0].startswith("-") and given[0] not in commands:
        return f"there is no {given[0][:64]!r}; there are {', '.join(sorted(commands))}"
    known = {"--help"}.union(*(_options(tree) for tree in trees))
    for word in given[: given.index("--") if "--" in given else None]:
        name = OPTION.match(word)
        if name is not None and not any(option.startswith(name[0]) for option in known):
            return f"there is no option {name[0][:64]}"
    return _pack(given) if module == "convert" else None


def _pack(given: list[str]) -> str | None:
    from agent.errors import ConfigError  # noqa: PLC0415 - of this checkout, and needs nothing that is installed
    from tools.lib.convert.packs import find_pack  # noqa: PLC0415 - likewise

    named = [given[at + 1] for at, word in enumerate(given[:-1]) if word == "--pack"]
    named += [word.partition("=")[2] for word in given if word.startswith("--pack=")]
    try:
        for name in named:
            find_pack(name)
    except ConfigError as error:
        return str(error)
    return None


def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    found = (place / "__main__.py", place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def _read(entry: Path) -> Iterator[ast.Module]:
    """What ``entry`` says, and every module of tools/ that it imports."""
    waiting, read = [entry], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in read:
            continue
        read.add(path)
        tree = ast.parse(path.read_text())
        yield tree
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tools.lib"):
                names = (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
                waiting += [found for name in names if (found := _file(name)) is not None]


def _options(tree: ast.Module) -> set[str]:
    words = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {word for word in words if isinstance(word, str) and OPTION.fullmatch(word)}


def _commands(tree: ast.Module) -> set[str]:
    """Names of a program's commands: of its sub-parsers, or of a table that is called COMMANDS."""
    found = set()
    for node in ast.walk(tree):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_parser":
            keys = list(node.args[:1])
        elif isinstance(node, ast.Assign) and any(
            isinstance(at, ast.Name) and at.id == "COMMANDS" for at in node.targets
        ):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
        found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # of 'head': nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(TOLD)
