# SPDX-License-Identifier: Apache-2.0
"""Strict YAML: plain data with the place of every key, and nothing that surprises.

Refused, with the line: duplicate keys, anchors and aliases, merge keys, tags, more than one document,
keys that are not text, numbers that are not finite. Bounded in size and depth before any of it is built.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.errors import ConfigError, printable

MAX_CONFIG_BYTES = 64 * 1024  # the commented example is about a tenth of it; more is not a configuration
MAX_DEPTH = 12  # nested levels; the deepest key of the schema is at five
MAX_NODES = 2000  # values in the file; the schema with its longest lists needs fewer than 200

# What a plain or quoted scalar may be; everything else (dates, binary, sets, objects) is not configuration.
_SCALAR_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))

Place = tuple[str | int, ...]  # the path of a value: ("broker", "tls", "ca"), ("activation", "polygon", 2)


class Document(msgspec.Struct, frozen=True):
    """The file's data, and the line (from 1) of each key and list item."""

    file: Path
    data: dict[str, Any]
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """Find the line of ``place``, or of the nearest thing around it that is in the file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


AS_UNIT = "give its path with -c, or begin with a copy of config.example.yaml"


def read_document(file: Path, advice: str = AS_UNIT) -> Document:
    """Read one YAML mapping from ``file``; ConfigError has file and line, and ``advice`` where there is none."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the configuration ({error.strerror}): {advice}") from error
    return parse_document(content, file)


def parse_document(content: bytes, file: Path) -> Document:
    """Parse the bytes of ``file``; raises ConfigError with file and line."""
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: a configuration has at most {MAX_CONFIG_BYTES} bytes")
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}:{content[: error.start].count(10) + 1}: the text is not UTF-8") from error
    try:
        return _Reader(file, text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else f"{file}"
        problem = error.problem or error.context or ""
        advice = "; put text that holds ': ' in quotes" if "mapping values" in problem else ""
        raise ConfigError(f"{where}: this is not YAML: {printable(problem)}{advice}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: this is not YAML: it has a character that text cannot hold") from error


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, and with a bound on depth and number of nodes."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not used here, write the value out", problem_mark=event.start_mark
            )
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels or {MAX_NODES} values", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._text = text
        self._lines: dict[Place, int] = {}

    def document(self) -> Document:
        loader = _Loader(self._text)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                line = root.start_mark.line + 1 if root is not None else 1
                raise ConfigError(f"{self._file}:{line}: expected keys and values (KEY: VALUE)")
            data = self._mapping(loader, root, ())
        finally:
            loader.dispose()
        return Document(self._file, data, self._lines)

    def _value(self, loader: _Loader, node: yaml.Node, place: Place) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, place)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                raise self._refused(node, place, "tags are not used here")
            items = []
            for index, item in enumerate(node.value):
                self._lines[(*place, index)] = item.start_mark.line + 1
                items.append(self._value(loader, item, (*place, index)))
            return items
        return self._scalar(loader, node, place)

    def _mapping(self, loader: _Loader, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self._refused(node, place, "tags are not used here")
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise self._refused(key_node, place, "a key must be plain text")
            key = key_node.value
            inner = (*place, key)
            if key in data:
                raise self._refused(key_node, inner, f"the key is given twice, first in line {self._lines[inner]}")
            self._lines[inner] = key_node.start_mark.line + 1
            data[key] = self._value(loader, value_node, inner)
        return data

    def _scalar(self, loader: _Loader, node: yaml.Node, place: Place) -> object:
        if node.tag not in _SCALAR_TAGS:
            kind = printable(node.tag.rpartition(":")[2])
            raise self._refused(node, place, f"YAML reads this as {kind}; put it in quotes if it is text")
        try:
            value = loader.construct_object(node)
        except (ValueError, OverflowError, KeyError, IndexError) as error:
            raise self._refused(node, place, "the value cannot be read; put it in quotes if it is text") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refused(node, place, "expected a finite number")
        return value

    def _refused(self, node: yaml.Node, place: Place, reason: str) -> ConfigError:
        return ConfigError(f"{self._file}:{node.start_mark.line + 1}: {dotted(place)}: {reason}")


def dotted(place: Place) -> str:
    """``broker.tls.ca`` or ``activation.polygon[2]``, fit for a message."""
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{printable(part)}"
    return path or "(top level)"
