# SPDX-License-Identifier: Apache-2.0
"""The list of wrong lines stays true: what ``tools/mutate`` would try is there, and a test is there to notice.

Whether the tests do notice takes an hour and is no part of a run of the tests: tests/README.md says when it was tried.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.lib.mutate import equivalent
from tools.lib.mutate.faults import Fault, read
from tools.lib.mutate.rooms import MEASURED, ROOMS, ROOT, answering, modules_of

FAULTS = read()


def test_no_name_is_used_twice() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_wrong_line_can_be_put_in_is_a_program_and_has_tests(fault: Fault, tmp_path: Path) -> None:
    copy = tmp_path / fault.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / fault.file).read_text())
    fault.put_into(tmp_path)
    if copy.suffix == ".py":
        ast.parse(copy.read_text())
    assert fault.asked()
    assert all((ROOT / test).is_file() for test in fault.asked())
    fault.take_out_of(tmp_path)
    assert copy.read_text() == (ROOT / fault.file).read_text()


def test_what_cannot_be_noticed_is_a_change_of_a_line_that_is_there_and_has_a_reason() -> None:
    for one in equivalent.read():
        assert one.old != one.new
        assert one.why
        assert one.file == "*" or one.old in (ROOT / one.file).read_text(), one


def test_a_mutant_is_taken_for_one_that_changes_nothing_only_where_the_list_has_it() -> None:
    listed = equivalent.Equivalent("agent/clock.py", "x = 0", "x = None", "not read")
    same = "-    x = 0\n+    x = None\n"
    assert listed.is_of("agent/clock.py", same)
    assert not listed.is_of("agent/keys.py", same)
    assert not listed.is_of("agent/clock.py", "-    x = 0\n+    x = 1\n")
    assert not listed.is_of("agent/clock.py", "-    x = 0\n-    y = 0\n+    x = None\n")
    assert equivalent.Equivalent("*", '"ascii"', '"ASCII"', "no case").is_of("agent/a.py", '-a("ascii")\n+a("ASCII")')


def test_sql_knows_no_case_but_of_the_texts_in_it() -> None:
    for piece in (
        'db.execute("UPDATE event SET seq=?", (new,))',
        '" ORDER BY seq"',
        '"INSERT INTO event (seq) VALUES (?)",',
    ):
        text = piece.partition('"')[2].partition('"')[0]
        for other in (text.upper(), text.lower()):
            if other != text:
                assert equivalent.why("agent/a.py", f"-  {piece}\n+  {piece.replace(text, other)}")
    for same, other in (
        ("\"SELECT 1 WHERE reason='full'\"", "\"SELECT 1 WHERE reason='FULL'\""),
        ('"select the right one"', '"SELECT THE RIGHT ONE"'),
        ('row("SELECT a FROM b", digest)', 'row("SELECT a FROM c", digest)'),
        ('row("SELECT a FROM b", "full")', 'row("SELECT a FROM b", "FULL")'),
    ):
        assert equivalent.why("agent/a.py", f"-  {same}\n+  {other}") is None, same


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_code_and_each_of_its_globs_finds_tests(room: str) -> None:
    assert modules_of(room)
    assert answering(room)
    for glob in (*ROOMS[room].tests, *ROOMS[room].started):
        assert list((ROOT / "tests").glob(glob)), glob


def test_the_measured_rooms_are_rooms() -> None:
    assert set(MEASURED) <= set(ROOMS)


@pytest.mark.parametrize("room", MEASURED)
def test_a_module_that_tests_import_is_imported_by_tests_that_its_room_asks(room: str) -> None:
    """A test that is written for a module and not asked about it makes its room look worse than it is held."""
    everywhere = {
        path: path.read_text() for kind in ("unit", "attack") for path in (ROOT / "tests" / kind).glob("test_*.py")
    }
    asked = [everywhere.get(ROOT / test, "") for test in answering(room)]
    for module in modules_of(room):
        folder, name = module.removesuffix(".py").replace("/", ".").rsplit(".", 1)
        imports = re.compile(rf"from {folder}\.{name} import|from {folder} import (\w+, )*{name}\b", re.ASCII)
        if any(imports.search(content) for content in everywhere.values()):
            assert any(imports.search(content) for content in asked), f"no test of {room} imports {module}"
