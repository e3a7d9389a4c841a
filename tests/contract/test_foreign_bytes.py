# SPDX-License-Identifier: Apache-2.0
"""One decoder for bytes that others made, and one place that prints: checked on the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.contract.test_layout import module, modules, tree

DECODER = "parse.strict_json"
PRINTER = "cli.words"
DECODERS = {
    "json.loads",
    "json.load",
    "json.JSONDecoder",
    "msgspec.json.decode",
    "msgspec.json.Decoder",
    "msgspec.convert",
}
DECODERS |= {"msgspec.convert"}  # not bytes any more, but no thread may meet a type while another one does
DECODERS |= {f"msgspec.{form}.{name}" for form in ("yaml", "toml", "msgpack") for name in ("decode", "Decoder")}
JUSTIFIED = {
    (
        "inference.manifest",
        "msgspec.yaml.decode",
    ): "bounded; each of its errors, RecursionError too, becomes ModelError",
    (
        "protocol.event",
        "msgspec.json.Decoder",
    ): "bounded; what is not written again to the very bytes that came is read by strict_json, RecursionError too",
    ("camera.scene.people", "msgspec.yaml.decode"): "a file of the package itself, beside its program text",
}
DECODING = {
    "json": {"loads", "load", "JSONDecoder"},
    "msgspec.json": {"decode", "Decoder"},
    "msgspec": {"json", "convert"},
}
WRITES = {  # to a stream, beside ``words``: why it may
    "cli.aim": "goes back to the start of the line by a control sequence of its own",
    "cli.options": "writes what this program made, for a file or a pipe",
    "subscribe.show": "passes each line through printable",
}


def calls(path: Path) -> list[tuple[str, int]]:
    return [(ast.unparse(node.func), node.lineno) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_bytes_of_others_are_decoded_in_one_place() -> None:
    """What this program wrote itself is read by ``strict_json``, too: a file may have been changed."""
    wrong = [
        f"{path}:{line} {name}"
        for path in modules("agent")
        if module(path) != DECODER
        for name, line in calls(path)
        if name in DECODERS and (module(path), name) not in JUSTIFIED
    ]
    wrong += [
        f"{path}:{node.lineno} imports {alias.name} from {node.module}"
        for path in modules("agent")
        if module(path) != DECODER
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in DECODING.get(node.module or "", set())
    ]
    assert not wrong


def test_the_command_line_prints_in_one_place() -> None:
    wrong = [
        f"{path}:{line} {name}"
        for path in modules("agent")
        if module(path) != PRINTER
        for name, line in calls(path)
        if name == "print"
        or (name.endswith((".write", ".writelines")) and "std" in name and module(path) not in WRITES)
    ]
    assert not wrong


def test_every_text_that_is_printed_passes_through_printable() -> None:
    (path,) = [path for path in modules("agent") if module(path) == PRINTER]
    assert {"print", "printable"} <= {name for name, _ in calls(path)}
    for name in WRITES:
        assert [path for path in modules("agent") if module(path) == name], f"{name} is no module any more"


def test_json_on_a_terminal_is_written_by_the_one_that_escapes_everything() -> None:
    wrong = [
        f"{path}:{line}"
        for path in modules("agent/cli", "agent/subscribe")
        for name, line in calls(path)
        if name == "json.dumps"
    ]
    assert not wrong
