# SPDX-License-Identifier: Apache-2.0
"""What a peer writes is text to a terminal and to a log, never a command to it, and never a line of its own."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import secrets
import unicodedata
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from agent.audit.log import AuditLog
from agent.cli import guarded, main, run
from agent.cli.audit import tell_entry
from agent.cli.doctor import as_line
from agent.cli.gallery import as_text
from agent.cli.subjects import tell_held
from agent.cli.words import say, tell_notice
from agent.clock import SimulatedClock
from agent.errors import MAX_PEER_TEXT, BrokerError, printable
from agent.gallery.records import Held
from agent.protocol.subject import SubjectId
from agent.site.records import SiteFiles
from agent.subscribe.show import Screen
from agent.subscribe.subscriber import Refusal
from agent.unit.doctor import Finding
from tests.simulators.broker import RealBroker
from tests.simulators.desk import Desk, read_command
from tests.simulators.unit_life import write_unit

FORGED = "FORGED: all is well"
# Clears the screen, sets the title, turns the direction of writing, goes back to the start of the line, ends the line
# in every way that Unicode knows: ESC, BEL, C1, bidi overrides and isolates, CR, NEL, LS, PS, DEL, a surrogate, a tag.
HOSTILE = (
    f"\x1b[2J\x1b]0;mine\x07\x9b31m\u202eevil\u2066\r{FORGED}\n{FORGED}\x0b{FORGED}\x0c{FORGED}\x85{FORGED}"
    f"\u2028{FORGED}\u2029{FORGED}\x7f\x00\x1c{FORGED}\ud800\U000e0041\u200b\ufeff"
)
LINE_ENDS = "\n"


def harmless(text: str, *, said: str = "evil") -> None:
    """Every character is one that a terminal shows, and no line is the peer's."""
    strange = {c for c in text if c not in LINE_ENDS and not c.isprintable() and unicodedata.category(c) != "Zs"}
    assert not strange, sorted(map(ascii, strange))
    assert not [line for line in text.splitlines() if line.lstrip().startswith(FORGED)]
    assert said in text, "the peer's text was not told at all"


@pytest.fixture
def desk(tmp_path: Path, broker: RealBroker) -> Iterator[Desk]:
    made = Desk(tmp_path, broker)
    yield made
    made.stop()


def signed(desk: Desk, verb: str, request: bytes, **outcome: Any) -> bytes:
    """What ``door-1``, which was taken over, signs."""
    content = {
        "site": "hq",
        "unit": "door-1",
        "verb": verb,
        "command": "sha256:" + hashlib.sha256(request).hexdigest(),
        "number": 1,
        "transaction": read_command(request)["transaction"],
        **outcome,
    }
    return desk.keys["door-1"].sign(json.dumps(content).encode(), typ="postern-response+jws").encode()


def plain(request: bytes, **outcome: Any) -> bytes:
    """The same as a unit of the release before answers."""
    return json.dumps({"transaction": read_command(request)["transaction"], **outcome}).encode()


REFUSAL = {"status": "error", "error": HOSTILE, "message": HOSTILE}
DONE = {"status": "ok", "data": {HOSTILE: [HOSTILE]}}
PROGRESS = {
    "status": "ok",
    "data": {"enrolment": HOSTILE, "state": "capturing", "captured": HOSTILE, "wanted": HOSTILE, "advice": HOSTILE},
}


@pytest.mark.broker
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (["ask", "door-1", "selftest"], REFUSAL),
        (["ask", "door-1", "selftest"], DONE),
        (["ask", "door-1", "enrol/begin"], PROGRESS),
        (["withdraw", "5a" * 16, "--unit", "door-1"], REFUSAL),
    ],
    ids=["refusal", "data", "progress", "withdrawal"],
)
def test_what_a_unit_answers_is_text(
    desk: Desk, capsys: pytest.CaptureFixture[str], words: list[str], outcome: Any
) -> None:
    """Under the unit's signature, where more is said of what is under way until it has failed, and without it."""

    def sign(verb: str, request: bytes) -> bytes:
        unit.mailbox.report(verb, signed(desk, verb, request, number=2, **REFUSAL))
        return signed(desk, verb, request, **outcome)

    for make in (sign, lambda _, request: plain(request, **outcome)):
        unit = desk.start("door-1", make)
        main([*words, *desk.words, "--timeout", "2"])
        unit.uplink.stop()
    told = capsys.readouterr()
    harmless(told.out + told.err)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_a_broker_delivers_to_a_subscriber_is_text(json_lines: bool) -> None:
    stream = Terminal()
    Screen(stream, json_lines=json_lines).show(Refusal("malformed", f"postern/{HOSTILE}", HOSTILE))
    harmless(stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[1;31m", ""))


def test_notices_of_a_subscriber_and_of_a_bridge_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    tell_notice(HOSTILE)
    told = capsys.readouterr().err
    harmless(told)
    assert told.count("\n") == 1


def hostile_log(path: Path) -> AuditLog:
    log = AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes)
    log.append("command_refused", {"verb": HOSTILE.replace("\ud800", ""), "step": "site_created"})
    return log


def test_log_that_was_carried_here_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile_log(tmp_path / "audit.log").close()
    assert main(["audit", "list", "--log", str(tmp_path / "audit.log")]) == 0
    harmless(capsys.readouterr().out)


def test_log_of_a_site_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "create", "hq", "-f", str(tmp_path / "site")]) == 0
    hostile_log(SiteFiles(tmp_path / "site").audit).close()
    assert main(["site", "log", "-f", str(tmp_path / "site")]) == 0
    harmless(capsys.readouterr().out)


def hostile_files() -> dict[str, Any]:
    return {
        "policy": {HOSTILE: HOSTILE, "version": 1},
        "consent": {HOSTILE: HOSTILE},
        "answer": HOSTILE,
        "keys": {"evil": HOSTILE},
        "site-key": {"site_key": HOSTILE, "policy": HOSTILE},
    }


@pytest.mark.parametrize(
    "words",
    [
        ["enrol", "consent"],
        ["unit", "install", "answer"],
        ["unit", "install-keys", "keys"],
        ["unit", "install-site-key", "site-key"],
        ["check-config", "answer"],
        ["site", "policy", "policy"],
        ["site", "add-unit", "answer"],
    ],
    ids=" ".join,
)
def test_what_a_file_holds_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    main(["site", "create", "hq", "-f", str(tmp_path / "site")])
    file = tmp_path / words[-1]
    file.write_text(json.dumps(hostile_files()[words[-1]], ensure_ascii=False).encode("utf-8", "replace").decode())
    place = ["-f", str(tmp_path / "site")] if words[0] == "site" else ["-c", str(tmp_path / "config.yaml")]
    place = [] if words[0] == "check-config" else place
    capsys.readouterr()
    assert main([*words[:-1], str(file), *place]) != 0
    told = capsys.readouterr()
    harmless(told.out + told.err, said="postern: ")


def test_line_of_events_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, subjects, events = (tmp_path / name for name in ("key", "subjects", "events"))
    key.touch(mode=0o600)
    members = {"site": "hq", "audience": "access", "epoch": "2026-W47", "key": "A" * 43}
    key.write_text(json.dumps(members))
    subjects.write_text("5a" * 16 + "\n")
    events.write_bytes(json.dumps({"outcome": HOSTILE, "evil": HOSTILE}).encode() + b"\n\x1b[2J evil\n")
    main(["resolve", str(events), "--key", str(key), "--subjects", str(subjects)])
    told = capsys.readouterr()
    harmless(told.out + told.err, said="")


def test_what_a_gallery_holds_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A consent record comes from a person's file; its purpose and version are in what is listed."""
    when, day = datetime(2026, 1, 5, tzinfo=UTC), date(2026, 1, 5)
    said = (HOSTILE, 3, HOSTILE, "hq", ("door-1",), HOSTILE, "sha256:")
    held = Held(SubjectId(bytes(16)), *said, "of_age", when, when, when, day, day)
    for as_json in (False, True):
        say(as_text([held], as_json=as_json))
        harmless(capsys.readouterr().out)
    harmless(tell_held(held))


@pytest.mark.parametrize("as_json", [False, True])
def test_findings_are_text(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    """A broker, a driver or a certificate may have a say in them."""
    said = printable(HOSTILE) + HOSTILE.replace("\n", " ").replace(FORGED, "")
    say(as_line(Finding("broker", "fault", said), as_json=as_json))
    harmless(capsys.readouterr().out)


@pytest.mark.parametrize("formatter", [run._Line("%(asctime)s %(message)s"), run._Journal()])
def test_log_line_of_the_service_is_text(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("postern", logging.WARNING, "", 0, "%s: %s", (HOSTILE, HOSTILE), None)
    line = formatter.format(record)
    harmless(line)
    assert "\n" not in line


def test_error_of_any_command_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise BrokerError(HOSTILE)

    assert guarded(fail) == BrokerError.exit_status
    harmless(capsys.readouterr().err)


@given(text=st.text(), most=st.integers(0, 300))
def test_printable_text_shows_and_is_bounded(text: str, most: int) -> None:
    shown = printable(text, most)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in shown)
    assert len(shown) <= most + 1
    assert len(printable(text)) <= MAX_PEER_TEXT + 1


def test_entry_is_one_line(tmp_path: Path) -> None:
    from agent.audit.chain import read_entries  # noqa: PLC0415 - the last of the readers

    hostile_log(tmp_path / "audit.log").close()
    entries = list(read_entries(tmp_path / "audit.log"))
    assert entries
    for entry in entries:
        assert len(tell_entry(entry).splitlines()) == 1
