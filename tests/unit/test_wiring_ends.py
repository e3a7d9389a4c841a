# SPDX-License-Identifier: Apache-2.0
"""What ends, ends everywhere: an erased person, a door; and a gallery that may be an old one ends nothing."""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from agent.door.rights import TokenUse
from agent.door.token import Carried
from agent.errors import VerificationError
from agent.gallery.references import References
from agent.match.records import Match
from agent.protocol.subject import subject_digest
from agent.unit.beside import Beside
from agent.unit.forget import Forgetting
from agent.unit.stores import Stores
from tests.attack.test_door import ANN, STRIKE, Entrance
from tests.unit.test_wiring import Unit


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def forgetting(stores: Stores) -> Forgetting:
    return Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights)


def test_an_erased_persons_use_of_a_rule_is_forgotten_with_them(unit: Unit) -> None:
    first, other = unit.people
    with unit.stores() as stores:
        for subject in unit.people:
            assert stores.rights.take("portion", subject_digest(subject), 540)
        forgetting(stores).erase(first)
        assert stores.rights.take("portion", subject_digest(first), 540), "nothing is known of them"
        assert not stores.rights.take("portion", subject_digest(other), 540), "and the other's waiting goes on"


def put_back(unit: Unit) -> None:
    """The gallery of before an erasure of the first person lies beside a log that tells of it."""
    folder, copy = unit.config.gallery.path.parent, unit.premises.config.with_name("before")
    shutil.copytree(folder, copy)
    with unit.stores() as stores:
        stores.audit.append("consent_given", subject=unit.people[1], personal={"evidence": "sha256:" + "0" * 64})
        forgetting(stores).erase(unit.people[0])
    for name in ("gallery.db", "keys/kek"):
        shutil.copy(copy / name, folder / name)


def test_a_start_erases_again_whom_the_log_says_was_erased(unit: Unit) -> None:
    put_back(unit)
    with unit.running() as service:
        assert service._stores.generation.doubted()
        assert service._stores.gallery.subjects() == (unit.people[1],)


def test_nothing_in_the_log_is_destroyed_on_the_word_of_a_doubted_gallery(unit: Unit) -> None:
    with unit.stores() as stores:
        stores.audit.append("consent_given", subject=unit.people[1], personal={"evidence": "sha256:" + "0" * 64})
    folder, older = unit.config.gallery.path.parent, unit.premises.config.with_name("copy")
    for name in ("gallery.db", "keys/kek"):  # from before the second person enrolled
        shutil.copy(older / name, folder / name)
    personal = unit.config.audit.path.with_name(unit.config.audit.path.name + ".personal")
    before = sorted(personal.glob("*.jsonl"))
    assert before
    with unit.running() as service:
        assert service._stores.generation.doubted()
        assert unit.people[1] not in service._stores.gallery.subjects()
        assert sorted(personal.glob("*.jsonl")) == before


class Lasting(Beside):
    """Work that goes on after it was told to end; it keeps for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__("lasting")
        self.name, self.waited = self.thread.name, list[float | None]()
        self.over = threading.Event()
        self.thread = Waited(self)

    def _run(self) -> None:
        self.over.wait()


class Waited(threading.Thread):
    def __init__(self, work: Lasting) -> None:
        super().__init__(target=work._run, daemon=True)
        self._work = work

    def join(self, timeout: float | None = None) -> None:
        self._work.waited.append(timeout)
        self._work.over.set()
        super().join()


def test_work_beside_is_waited_for_so_long_and_not_where_it_never_began() -> None:
    for asked, waited in (({}, 1.0), ({"timeout_s": 0.2}, 0.2)):
        work = Lasting()
        assert work.name == "postern-lasting"
        work.stop()
        assert work.waited == []
        work.start()
        work.stop(**asked)
        assert work.waited == [waited]


def test_a_token_that_is_used_up_is_overwritten_and_refused(tmp_path: Path) -> None:
    rule = {"name": "boarding", "when": "token", "single_use": True, "then": ["strike"]}
    held_up = {"kind": "button", "name": "entrance", "window_s": 40, "inputs": [{"kind": "token"}]}
    entrance = Entrance(tmp_path, rules=[rule], activation=held_up, liveness="require")
    references = References((ANN,), np.ones((1, 128), np.float32), "sha256:" + "0" * 64, carried=True)
    ends = entrance.clock.now() + timedelta(days=30)
    carried = Carried(references, b"t" * 12, ends, lambda: None)
    given: list[bytes] = []

    def check(data: bytes) -> Carried:
        given.append(data)
        return carried

    assert entrance.door._take(check, b"code") is carried
    assert references.matrix.all()
    assert entrance.rights.take("boarding", subject_digest(ANN), 10, TokenUse(b"t" * 12, ends))
    with pytest.raises(VerificationError) as refusal:
        entrance.door._take(check, b"again")
    assert refusal.value.reason == "used"
    assert str(refusal.value) == "this token was used before, and counts once: ask the desk for a new one"
    assert not references.matrix.any()
    assert given == [b"code", b"again"]


def test_a_door_that_is_closed_leaves_no_output_on(tmp_path: Path) -> None:
    entrance = Entrance(tmp_path)
    entrance.press()
    entrance.door.matched(Match(ANN, "entrance", 0))
    assert entrance.is_on(STRIKE)
    entrance.door.close()
    assert not entrance.is_on(STRIKE)
