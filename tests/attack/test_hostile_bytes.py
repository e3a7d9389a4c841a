# SPDX-License-Identifier: Apache-2.0
"""Bytes that somebody else made end no program: every reader of them answers with the one error that it promises."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from agent.audit.chain import parse_entry, verify_log
from agent.cli import ask, main, resolve
from agent.cli import unit as unit_cli
from agent.errors import PosternError
from agent.gallery.consent import parse_consent
from agent.keys import SigningKey, UnitKey, load_public_key, read_header
from agent.match.policy import parse_policy, verify_policy
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.joining import UnitRequest
from agent.protocol.pseudonym import EpochKey
from agent.protocol.record import load
from agent.protocol.trust import TRUST_TYPE, TrustedUnits
from agent.site.withdraw import withdraw
from agent.subscribe.chain import Chains
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.resolve import Keys, read_epoch_key, read_subjects
from agent.subscribe.verify import Verifier
from agent.uplink.commands import CommandCounter
from tests.simulators.broker import RealBroker
from tests.simulators.desk import Desk, read_command, trusting

KEY, UNIT = SigningKey.generate(), UnitKey.generate()


def nested(depth: int, inside: bytes = b"") -> bytes:
    return b"[" * depth + inside + b"]" * depth


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(64),
    "no UTF-8": b'{"version":"\xff\xfe"}',
    "no UTF-8 in a name": b'{"\xc3\x28":1}',
    "encoded surrogate": b'{"version":"\xed\xa0\x80"}',
    "lone surrogate": b'{"version":"\\ud800","jwk":{"x":"\\udfff"}}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "array": b"[]",
    "number": b"1",
    "text": b'"text"',
    "key twice": b'{"version":1,"version":2}',
    "no number": b'{"version":NaN}',
    "infinite": b'{"version":1e999,"margin":-1e999}',
    "wide": b'{"version":' + b"9" * 4000 + b"}",
    "deep array": nested(900),
    "deeper array": nested(1500),
    "very deep array": nested(6000),
    "deep object": b'{"data":' * 900 + b"1" + b"}" * 900,
    "very deep object": b'{"data":' * 2500 + b"1" + b"}" * 2500,
    "deep member": b'{"facts":{"x":' + nested(900) + b'},"data":' + nested(900) + b',"event":' + nested(900) + b"}",
    "cut": b'{"version":1,"site":"hq"',
    "control characters": b'{"version":"\x1b[2J\x9b"}',
    "long": b'{"version":"' + b"x" * 70_000 + b'"}',
}


def stored(folder: Path, content: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def audit_log(folder: Path, content: bytes) -> object:
    """A log with one line, and a personal part."""
    log = stored(folder, content + b"\n", "audit.log")
    (folder / "audit.log.personal").mkdir(exist_ok=True)
    stored(folder / "audit.log.personal", content + b"\n", "one.jsonl")
    with suppress(PosternError):
        verify_log(log)
    stored(folder, b"", "audit.log")
    return verify_log(log)


OF_THE_WEEK = Keys([EpochKey("hq", "access", "2026-W47", "A" * 43)], [])


def resolved(folder: Path, content: bytes) -> object:
    (line,) = resolve.resolve_lines([content.replace(b"\n", b" ")], OF_THE_WEEK)
    assert "refused" in line
    return line


def signed(content: bytes, typ: str) -> str:
    return KEY.sign(content, typ=typ)


def subscribers_state(folder: Path, content: bytes) -> object:
    with closing(StateFile(stored(folder, content))) as state:
        return Chains(state.load().chains)


Reader = Callable[[Path, bytes], object]
READERS: dict[str, Reader] = {
    "list of units": lambda folder, content: TrustedUnits.from_signed(content, KEY.public),
    "list of units, signed": lambda folder, content: TrustedUnits.from_signed(
        signed(content, TRUST_TYPE).encode(), KEY.public
    ),
    "trust.jws": lambda folder, content: TrustFile(stored(folder, content), KEY.public).load(),
    "policy": lambda folder, content: parse_policy(content),
    "policy, signed": lambda folder, content: verify_policy(
        signed(content, "postern-policy+jws"), KEY.public, model="sha256:" + "0" * 64
    ),
    "consent": lambda folder, content: parse_consent(content),
    "epoch key file": lambda folder, content: read_epoch_key(stored(folder, content)),
    "epoch-keys.json": lambda folder, content: EpochKeys.load(stored(folder, content)),
    "subjects": lambda folder, content: read_subjects(stored(folder, content)),
    "subscriber's state": subscribers_state,
    "change of the site's key": lambda folder, content: unit_cli._site_key_change(stored(folder, content)),
    "audit line": lambda folder, content: parse_entry(content, 1),
    "audit log": audit_log,
    "line of events": resolved,
    "argument from a file": lambda folder, content: ask._value(f"x=@{stored(folder, content)}"),
    "command counter": lambda folder, content: CommandCounter(stored(folder, content)),
    "record of the site": lambda folder, content: load(stored(folder, content), UnitRequest),
    "site.jwk": lambda folder, content: load_public_key(stored(folder, content)),
    "header": lambda folder, content: read_header(content.decode("latin-1")),
    "event": lambda folder, content: Verifier(trusting({"door-1": UNIT})).check(
        "postern/hq/door-1/event/match", content, datetime.now(UTC)
    ),
}


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_bytes_raise_nothing_but_the_readers_own_error(tmp_path: Path, reader: str, content: str) -> None:
    with suppress(PosternError, argparse.ArgumentTypeError):
        READERS[reader](tmp_path, HOSTILE[content])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_the_readers_own_error(tmp_path: Path, content: bytes) -> None:
    for reader in READERS.values():
        with suppress(PosternError, argparse.ArgumentTypeError):
            reader(tmp_path, content)


# -- a unit, or a broker in its place, and the units after it ------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, broker: RealBroker) -> Iterator[Desk]:
    made = Desk(tmp_path, broker)
    yield made
    made.stop()


def answer_with(content: bytes) -> Callable[[str, bytes], bytes]:
    return lambda verb, request: content


def with_data(data: bytes) -> Callable[[str, bytes], bytes]:
    """An answer that is one but for its data."""

    def answer(verb: str, request: bytes) -> bytes:
        name = read_command(request)["transaction"]
        return b'{"status":"ok","transaction":"%s","data":{"receipt":%s}}' % (name.encode(), data)

    return answer


ANSWERS: dict[str, Callable[[str, bytes], bytes]] = {
    **{name: answer_with(content) for name, content in HOSTILE.items() if len(content) <= 16_384},
    "deep receipt": with_data(nested(800)),
    "receipt with a lone surrogate": with_data(b'{"subject":"\\ud800"}'),
}


@pytest.mark.broker
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["deep array", "deep receipt", "no UTF-8", "lone surrogate", "deep object"])
def test_malformed_answer_of_one_unit_keeps_no_other_from_being_asked(
    desk: Desk, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    asked: list[str] = []
    desk.start("door-1", ANSWERS[how])
    desk.start("door-2", lambda verb, request: asked.append(verb) or b"")
    assert main(["withdraw", "5a" * 16, *desk.words, "--timeout", "1"]) == 75
    assert "not known to be erased at: door-1, door-2" in capsys.readouterr().err
    assert asked == ["subject/revoke"]


@pytest.mark.broker
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["receipt nested", "receipt of another form", "progress"])
def test_what_a_unit_signs_wrongly_is_that_units_fault_alone(
    desk: Desk, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """A unit that was taken over signs what it likes."""
    data: dict[str, Any] = {
        "receipt nested": {"receipt": json.loads(nested(20))},
        "receipt of another form": {"receipt": {"subject": 1, "signature": "\ud800"}},
        "progress": {"state": "capturing", "captured": "\x1b[2J", "wanted": None},
    }[how]

    def answer(verb: str, request: bytes) -> bytes:
        content = {"site": "hq", "unit": "door-1", "verb": verb, "number": 1, "status": "ok", "data": data}
        content["transaction"] = read_command(request)["transaction"]
        content["command"] = "sha256:" + hashlib.sha256(request).hexdigest()
        return desk.keys["door-1"].sign(json.dumps(content).encode(), typ="postern-response+jws").encode()

    desk.start("door-1", answer)
    assert main(["withdraw", "5a" * 16, *desk.words, "--timeout", "1"]) == 75
    told = capsys.readouterr()
    assert "not known to be erased at: door-1, door-2" in told.err
    assert "\x1b" not in told.err + told.out


@pytest.mark.parametrize("error", [RecursionError, UnicodeDecodeError, KeyError, MemoryError, OSError, AssertionError])
def test_fault_of_any_kind_in_one_exchange_never_touches_the_next_unit(error: type[Exception]) -> None:
    def ask(unit: str, verb: str, values: object) -> Any:
        asked.append(unit)
        if unit == "door-1":
            raise error("x") if error is not UnicodeDecodeError else UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")
        raise PosternError("nobody there")

    asked: list[str] = []
    trusted = trusting({"door-1": UNIT, "door-2": UnitKey.generate()})
    told = list(withdraw(bytes(16), ["door-1", "door-2"], trusted=trusted, ask=ask))  # type: ignore[arg-type]
    assert asked == ["door-1", "door-2"]
    assert [(answer.unit, answer.receipt, answer.again) for answer in told] == [
        ("door-1", None, True),
        ("door-2", None, True),
    ]
