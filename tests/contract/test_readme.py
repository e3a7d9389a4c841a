# SPDX-License-Identifier: Apache-2.0
"""What the documents say can be done: each command line exists and parses, links lead somewhere, figures stand once."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

from agent.cli import COMMANDS
from tests.simulators.documents import FENCE, LINK, SPAN, Shown, anchors, read_commands, rows

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MAX_LINES, MAX_WORDS = 180, 1600  # one sitting
DOCUMENTS = tuple(
    sorted(
        path.relative_to(ROOT)
        for pattern in ("*.md", ".github/*.md", "[admt]*/**/*.md")
        for path in ROOT.glob(pattern)
        if "node_modules" not in path.parts
    )
)
PROMISES = (Path("tests/README.md"), Path(".github/SECURITY.md"))

EXAMPLES = {"SUBJECT": "0" * 32, "SEQ:DIGEST": f"1:sha256:{'0' * 64}", "N": "1", "SECONDS": "1"}  # for placeholders
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_.]*")
# What a program's text opens; a name that ends with a dot is completed by a word of the command line.
OPENS = re.compile(r"-m \"?(tools[\w.]+)|from (tools[\w.]+) import|import_module\(f?\"(tools[\w.]+)")
LAUNCHES = re.compile(r"^launch (\w+)", re.MULTILINE)  # tools/lib/launch.sh


def text_of(document: Path) -> str:
    return (ROOT / document).read_text()


def shown() -> list[Shown]:
    return [command for document in DOCUMENTS for command in read_commands(document, text_of(document))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the files lie that a command line names


def wrong(command: Shown) -> str | None:
    """Why a command line that is shown could not be typed, or None."""
    if "…" in " ".join(command.words):
        at = next(at for at, word in enumerate(command.words) if "…" in word)
        command = Shown(command.document, command.words[:at], whole=False)
        if command.words in {("postern",), ()}:
            return None
    if command.program == "tools/bridge":  # the command of an installed bridge, by another name
        command = Shown(command.document, ("postern", "bridge", *command.words[1:]), whole=command.whole)
    return wrong_postern(command) if command.program == "postern" else wrong_tool(command)


def wrong_postern(command: Shown) -> str | None:
    """Parse it as ``postern`` does, without running it."""
    verb, *words = (EXAMPLES.get(word, word) for word in command.words[1:])
    if verb not in COMMANDS:
        return f"there is no command {verb}"
    for word in words:
        if "@" in word:  # a file that is read while the line is parsed
            Path(word.partition("@")[2]).write_text(json.dumps({}))
    parser = Parser(prog=f"postern {verb}", allow_abbrev=False)
    importlib.import_module(f"agent.cli.{verb.replace('-', '_')}").configure(parser)
    try:
        parser.parse_args(words)
    except WrongError as error:
        cut_short = not command.whole and "required" in str(error)
        return None if cut_short else str(error)
    return None


class WrongError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    """Tells what is wrong instead of ending the program; parsers of acts are made of the same class."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise WrongError(message)


def wrong_tool(command: Shown) -> str | None:
    """Look for the program, and in what it opens for each option and each word that chooses something."""
    program = ROOT / command.program
    if not program.is_file() or not os.access(program, os.X_OK):
        return f"there is no program {command.program}"
    source = "\n".join(line for line in program.read_text().splitlines() if not line.startswith("#"))
    options, words = spoken(source)
    passes_on = command.program == "tools/test"  # to pytest, whose options are its own
    after_option = False
    for word in command.words[1:]:
        if word.startswith("-"):
            after_option = "=" not in word
            if not passes_on and word.partition("=")[0] not in options and not has_word(source, word):
                return f"{command.program} has no option {word}"
        elif "/" in word and word.split("/")[0] in {"tests", "tools", "models"} and not after_option:
            if not (ROOT / word).exists():
                return f"there is no {word}"
        elif re.fullmatch(r"[a-z][a-z0-9-]*", word) and not after_option and not passes_on:
            if word not in words and not has_word(source, word):
                return f"{command.program} knows no {word}"
        else:
            after_option = False
    return None


def has_word(source: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", source) is not None


@cache
def spoken(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """Options that a program takes, and the words that choose something in it: read from everything that it opens."""
    waiting = [name for match in OPENS.finditer(source) for name in match.groups() if name]
    waiting += [f"tools.lib.{name}" for name in LAUNCHES.findall(source)]
    modules: set[Path] = set()
    options: set[str] = set()
    words: set[str] = set()
    while waiting:
        name = waiting.pop()
        path = ROOT / name.rstrip(".").replace(".", "/")
        if name.endswith("."):
            words |= stems(path)
        found = {path.with_suffix(".py"), path / "__init__.py", path / "__main__.py"}
        if name.endswith("."):
            found |= set(path.glob("*.py"))
        for module in sorted(file for file in found - modules if file.is_file()):
            modules.add(module)
            text = module.read_text()
            tree = ast.parse(text)
            if "import_module(" in text or "run_module(" in text:  # a word chooses the module beside this one
                words |= stems(module.parent)
                waiting.append(".".join(module.parent.relative_to(ROOT).parts) + ".")
            waiting += imported(tree)
            for said in constants(tree):
                (options if said.startswith("-") else words).add(said)
    return frozenset(options), frozenset(words)


def stems(folder: Path) -> set[str]:
    return {module.stem.replace("_", "-") for module in folder.glob("*.py")}


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tools."):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def constants(tree: ast.Module) -> Iterator[str]:
    """Texts where a program names options and choices: arguments of a parser, keys, members, what is compared."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_parser")):
                places = node.args[:1]
            case ast.Call():
                places = [place for place in node.args if is_text(place) and place.value.startswith("-")]
            case ast.Dict():
                places = [key for key in node.keys if key is not None]
            case ast.Tuple() | ast.List() | ast.Set():
                places = node.elts
            case ast.Compare():
                places = [node.left, *node.comparators]
            case ast.MatchValue():
                places = [node.value]
            case _:
                continue
        for place in places:
            if is_text(place):
                yield place.value


def is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_command_line_exists_and_parses() -> None:
    commands = shown()
    assert len({command.program for command in commands}) > 10
    assert [f"{command}: {why}" for command in commands if (why := wrong(command))] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("postern enroll consent.json", "no command enroll"),
        ("postern site isue-keys door-3", "isue-keys"),
        ("postern site issue-keys", "required"),
        ("postern site issue-keys door-3 --a-head 2", "--a-head"),
        ("sudo -u postern postern doctor cameras", "no such check"),
        ("postern ask door-3 key/rotat --site-key K --broker H --site hq --keys F/", "key/rotat"),
        ("POSTERN_KILLS=1 tools/ring --target service", "no program tools/ring"),
        ("tools/rig --targets service", "no option --targets"),
        ("tools/evaluate verificate --images DIR", "knows no verificate"),
        ("tools/arm64 outputz", "knows no outputz"),
        ("tools/test tests/units", "no tests/units"),
    ],
)
def test_a_misspelled_line_is_found(line: str, why: str) -> None:
    (command,) = read_commands(README, f"```\n{line}   # as in a block\n```\n")
    assert why in str(wrong(command))


def test_lines_are_read_as_a_shell_reads_them() -> None:
    text = """
```
KEYS="--broker h --keys k/"
for unit in a b; do
  postern subscribe $KEYS --site hq --json | postern resolve --key k.json --subjects s.txt > out
done
sudo -u postern postern unit request > request.jws    # comment
tools/convert --model M.onnx \\
  --name x
```
`postern ask` and `tools/rig --json`, but not `posternd x`, `agent/tools/x` or `it's postern here`.
"""
    assert [(" ".join(command.words), command.whole) for command in read_commands(README, text)] == [
        ("postern subscribe --broker h --keys k/ --site hq --json", True),
        ("postern resolve --key k.json --subjects s.txt", True),
        ("postern unit request", True),
        ("tools/convert --model M.onnx --name x", True),
        ("postern ask", False),
        ("tools/rig --json", False),
    ]


def test_the_readme_is_read_in_one_sitting() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(document: Path) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", text_of(document))):
        target, _, anchor = link.partition("#")
        path = (ROOT / document).parent / target if target else ROOT / document
        if "://" in link or (path.exists() and (not anchor or anchor in anchors(path.read_text()))):
            continue
        dead.append(link)
    assert not dead


def test_every_promise_names_a_test_that_there_is() -> None:
    named = [name for document in PROMISES for span in SPAN.findall(text_of(document)) for name in expanded(span)]
    assert len(named) > 50
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_every_place_in_the_product_that_its_document_names_is_there() -> None:
    document = Path("agent/README.md")
    named = [span for span in SPAN.findall(text_of(document)) if re.fullmatch(r"[a-z]+/[\w/]+\.py", span)]
    assert len(named) > 20
    assert [name for name in named if not ((ROOT / "agent" / name).is_file() or (ROOT / name).is_file())] == []


def expanded(span: str) -> list[str]:
    """Files of tests that a span names; ``test_{a,b}_c.py`` names two."""
    if not re.fullmatch(r"[a-z]+/test_[\w{},]+\.py", span):
        return []
    before, brace, rest = span.partition("{")
    inside, _, after = rest.partition("}")
    return [f"{before}{part}{after}" for part in inside.split(",")] if brace else [span]


def test_every_room_that_the_readme_names_has_its_document() -> None:
    assert {Path(f"{room}/README.md") for room in ("agent", "models", "deploy", "tools", "tests")} <= set(DOCUMENTS)


def test_no_figure_stands_twice() -> None:
    found = Counter(row for document in DOCUMENTS for row in rows(text_of(document)))
    assert [row for row, times in found.items() if times > 1] == []
