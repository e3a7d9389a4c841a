# SPDX-License-Identifier: Apache-2.0
"""The command line: one small module per command, imported only when that command is asked for.

A module has ``configure(parser)`` and ``run(arguments) -> exit status``. Exit statuses are those of
``agent.errors`` (2 refused, 75 try later, 70 stopped, 78 a human mends it), 130 after Ctrl-C and 143 after SIGTERM.
Set POSTERN_DEBUG=1 to see the traceback behind a one-line error.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import NoReturn

from agent.cli.words import Nowhere, fill_streams, print_for_nobody, tell
from agent.errors import PosternError, RefusedError, in_one_sentence

COMMANDS = {
    "run": "run this unit",
    "check-config": "check a configuration file and say what it does",
    "doctor": "check camera, models, keys, clock, disk and broker, and say what to do",
    "aim": "help to place the camera: what it sees now, and why a face is not accepted",
    "console": "the web console of this unit, for whoever installs it: open, close, serve",
    "enrol": "enrol a person who is in front of the camera and has consented",
    "token": "make the token that an enrolled person carries, or say whether this unit takes one",
    "door-off": "switch every output line off",
    "gallery": "list or erase what is held",
    "rights": "answer a person: what is held about me, withdraw, erase",
    "withdraw": "erase a person at all units of the site, and gather the signed receipts",
    "retire": "tell at the broker that a revoked unit is gone",
    "notice": "print the notice to hang up before this unit",
    "assessment": "print the impact assessment of this unit, to be completed",
    "consent": "write the record of a consent that was just given",
    "subscribe": "receive and verify the events of a site",
    "bridge": "hand verified events to webhooks, databases, Home Assistant and Prometheus",
    "resolve": "turn pseudonyms back into subject ids, with the key of their week",
    "consumer-key": "make the key that sealed subjects are opened with",
    "ask": "send a signed command to a unit and show its answer",
    "site": "the site's authority: create, add units, issue keys, revoke",
    "unit": "this unit's keys: request a certificate, install the answer",
    "audit": "verify the audit log",
    "schema": "print a JSON Schema (configuration, event, list of units) or the AsyncAPI document",
    "version": "print versions",
}

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    # Before numpy starts a thread per core: one comparison takes a fifth of a millisecond on one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    fill_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter ends nothing
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _run(words))


def guarded(command: Callable[[], int]) -> int:
    """The exit status of ``command``; whatever it raises is told in one sentence."""
    try:
        return command()
    except PosternError as error:
        if os.environ.get("POSTERN_DEBUG") == "1":
            raise
        tell("\n".join(f"postern: {line}" for line in str(error).splitlines()))
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        print_for_nobody()
        return PosternError.exit_status
    except Exception as error:
        if os.environ.get("POSTERN_DEBUG") == "1":
            raise
        sentence, status = in_one_sentence(error)
        tell(f"postern: {sentence}")
        return status


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="postern",
        description="Consent-first face matching for smart cameras.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    module = None
    # Where the first word is a command, nobody asks for the list of all.
    listed = {chosen: COMMANDS[chosen]} if chosen in COMMANDS and words[0] == chosen else COMMANDS
    for name, text in listed.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name == chosen:
            module = _imported(name)
            module.configure(sub)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    arguments = parser.parse_args(words)  # ends the program unless a known command was chosen
    if module is None:
        return PosternError.exit_status
    if isinstance(sys.stdout, Nowhere) and not _is_service(arguments):
        raise RefusedError("standard output is closed: send what this prints to a terminal, a file or /dev/null")
    if "output" in arguments:  # of few commands, which import this in any case
        from agent.cli.options import check_outputs  # noqa: PLC0415

        check_outputs(arguments)
    return int(module.run(arguments))


def _is_service(arguments: argparse.Namespace) -> bool:
    """Whether nobody waits for what the command prints: whoever starts it for good may have closed that."""
    return arguments.command in ("run", "bridge") or getattr(arguments, "act", None) == "serve"


def _imported(name: str) -> ModuleType:
    """The module of a command. Nothing that it imports is garbage, and looking for it takes a tenth of that time."""
    gc.disable()
    try:
        return importlib.import_module(f"agent.cli.{name.replace('-', '_')}")
    finally:
        gc.enable()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature is signal's
    """Leave through every ``with`` and ``finally``, so that camera, queue and session are closed."""
    raise SystemExit(TERMINATED)
