# SPDX-License-Identifier: Apache-2.0
"""A full disk blocks no withdrawal: the person matches nowhere at once, and is erased when there is space again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.audit.chain import personal_folder
from agent.clock import SimulatedClock
from agent.errors import PosternError, StorageError
from agent.keys import SigningKey, UnitKey
from agent.protocol.command import SIGNATURE_TYPE, Command
from agent.protocol.subject import parse_subject
from agent.unit.forget import Forgetting
from agent.uplink.commands import CommandCounter, Commands
from tests.simulators.answering import answers, outcome_of
from tests.simulators.full_disk import LIMITS, no_file_grows_beyond
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.unit_life import enrol, opened, write_unit

SITE_KEY, UNIT_KEY = SigningKey.generate(), UnitKey.generate()


def command(verb: str, number: int, clock: SimulatedClock, **args: Any) -> bytes:
    now = int(clock.now().timestamp())
    members = {"issued_at": now, "expires_at": now + 60, "transaction": f"t-{number}", "args": args}
    return SITE_KEY.sign(
        msgspec.json.encode({"site": "hq", "unit": "door-1", "verb": verb, "cmd_seq": number, **members}),
        typ=SIGNATURE_TYPE,
    ).encode()


@pytest.mark.parametrize("limit", LIMITS)
def test_withdrawal_by_command_on_a_full_disk_stops_the_matching_at_once(tmp_path: Path, limit: int) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock, unit="door-1") as store:
        subject = store.enrol(captures(rng), consent=consent(clock.now(), units=("door-1",)), model=MODEL)
        done: list[str] = []

        def revoke(asked: Command) -> Mapping[str, Any]:
            return {"receipt": msgspec.to_builtins(store.erase(parse_subject(asked.args["subject"])))}

        commands = Commands(
            site="hq",
            unit="door-1",
            key=SITE_KEY.public,
            counter=CommandCounter(tmp_path / "commands.json"),
            answers=answers(UNIT_KEY),
            clock=clock,
            random=bytes,
            on_outcome=lambda _: None,
        )
        commands.bind({"subject/revoke": revoke, "selftest": lambda asked: done.append(asked.transaction) or {}})
        with no_file_grows_beyond(limit):
            recorded = command("subject/revoke", 1, clock, subject=subject.hex())
            answer = commands.handle("subject/revoke", recorded)
            assert answer is not None
            told = outcome_of(answer, UNIT_KEY)
            assert told["status"] == "ok" or (told["error"] == "fault" and "free space" in told["message"])
            again = commands.handle("subject/revoke", recorded)
            assert again is not None
            assert outcome_of(again, UNIT_KEY)["error"] == "replayed", "the number counts all the same"
            if limit == 0:
                other = commands.handle("selftest", command("selftest", 2, clock))
                assert other is not None
                assert outcome_of(other, UNIT_KEY)["error"] == "fault", "no other verb is done without its number"
                assert done == []
        assert subject not in store.references(MODEL).subjects, "before anything else was done for it"
        store.sweep(clock.now())
        assert subject not in store
        answer = commands.handle("subject/revoke", command("subject/revoke", 3, clock, subject=subject.hex()))
        assert answer is not None
        assert outcome_of(answer, UNIT_KEY)["status"] == "ok", "and whoever asks again gets the receipt"


@pytest.mark.parametrize("limit", [*LIMITS, *range(16_384, 131_072, 16_384)])
def test_what_a_full_disk_kept_of_an_erasure_is_done_when_there_is_space(tmp_path: Path, limit: int) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(1)
    config = write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    problems: list[PosternError] = []
    with opened(config, clock) as stores:
        subject = enrol(stores, config, clock, rng)
        for _ in range(3):
            enrol(stores, config, clock, rng)
        forgetting = Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights, on_problem=problems.append)
        with no_file_grows_beyond(limit), contextlib.suppress(StorageError):
            forgetting.erase(subject)
        forgetting.sweep(clock.now())
        assert subject not in stores.gallery
        assert [row.seq for row in stores.outbox.pending(10) if row.kind == "match"] == [2, 3, 4]
        kept = personal_folder(config.audit.path).glob("*.jsonl")
        assert len(list(kept)) == 3, "nobody's but the three who stay"
