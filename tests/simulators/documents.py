# SPDX-License-Identifier: Apache-2.0
"""The documents as a reader meets them: every command line that they show, links, and rows of tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r'^([A-Z_]+)="([^"]*)"$', re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BEFORE = {"sudo", "do", "exec", "then"}  # words that may stand before a command; sudo's own options, too
_ENDS = {"|", "&&", "||", ";", "&"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A command line that a document shows. Only one in a block has to be whole; one in a sentence may be cut short."""

    document: Path
    words: tuple[str, ...]
    whole: bool

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def read_commands(document: Path, text: str) -> Iterator[Shown]:
    """Command lines of ``postern`` and ``tools/``; ``$NAME`` stands for what a block of the same document sets."""
    variables = dict(ASSIGNMENT.findall(text))
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for words in _commands(line, variables):
                yield Shown(document, words, whole=True)
    for span in SPAN.findall(FENCE.sub("", text)):
        for words in _commands(span.replace("\n", " "), variables):
            yield Shown(document, words, whole=False)


def _commands(line: str, variables: dict[str, str]) -> Iterator[tuple[str, ...]]:
    if "postern " not in line and "tools/" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quotation mark of a sentence: no command line
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _ENDS:
            command.append(word)
            continue
        if found := _stripped(command, variables):
            yield found
        command = []


def _stripped(words: list[str], variables: dict[str, str]) -> tuple[str, ...]:
    """The command without redirections and what stands before it; empty when it is none of ours."""
    kept: list[str] = []
    after_redirection = False
    for word in words:
        if word in {"<", ">", ">>"}:
            after_redirection = True
        elif after_redirection:
            after_redirection = False
        elif word.startswith("$") and word[1:] in variables:
            kept += variables[word[1:]].split()
        else:
            kept.append(word.replace("$", ""))  # a loop's variable stands for its value
    while kept and (kept[0] in _BEFORE or "=" in kept[0] or kept[0].startswith("-")):
        kept = kept[2:] if kept[0] == "-u" else kept[1:]
    is_ours = len(kept) > 1 and kept[0] == "postern" and kept[1][0].isalpha()
    return tuple(kept) if is_ours or (kept and re.fullmatch(r"tools/[a-z0-9-]+", kept[0])) else ()


def anchors(text: str) -> set[str]:
    """Names by which the headings of a document can be linked to, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(FENCE.sub("", text))
    }


def rows(text: str) -> Iterator[str]:
    """Rows of tables that hold a figure; without those of heads and of lines."""
    for line in text.splitlines():
        if line.startswith("|") and re.search(r"\d", line):
            yield line.strip()
