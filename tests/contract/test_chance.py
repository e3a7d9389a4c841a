# SPDX-License-Identifier: Apache-2.0
"""What a test finds hangs on the program, not on luck: dice have a seed, examples are the same in each run."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parents[1]
# Of the module: whoever draws shares them, and nobody gave them a seed. A generator may have the module's name.
SHARED = ("random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform", "gauss", "randbytes")


def chances(source: str) -> Iterator[str]:
    """What draws without a seed, or fails on a busy machine: ``line: what``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            module, _, name = called.rpartition(".")
            unseeded = not node.args and not node.keywords and name in ("default_rng", "RandomState", "Random")
            shared = module == "random" and name in SHARED
            legacy = module in ("np.random", "numpy.random") and name not in ("default_rng", "Generator", "PCG64")
            if unseeded or shared or legacy:
                yield f"{node.lineno}: {called}"
        if isinstance(node, ast.keyword):
            given = ast.unparse(node.value)
            # A list of a test's own stands in place of the profile's.
            if node.arg == "suppress_health_check" and "too_slow" not in given and given != "list(HealthCheck)":
                yield f"{node.value.lineno}: suppress_health_check without too_slow, which a busy machine is"
            if node.arg == "deadline" and given != "None":
                yield f"{node.value.lineno}: a deadline by the wall's clock"


@pytest.mark.parametrize(
    "line",
    [
        "rng = np.random.default_rng()",
        "random.choice(units)",
        "time.sleep(random.random())",
        "dice = random.Random()",
        "np.random.rand(3)",
        "@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])\ndef test(): ...",
        "@settings(deadline=200)\ndef test(): ...",
    ],
)
def test_each_way_to_leave_a_test_to_chance_is_seen(line: str) -> None:
    assert list(chances(line))


def test_no_test_is_left_to_chance() -> None:
    found = {
        f"{path.relative_to(TESTS)}:{one}"
        for path in sorted(TESTS.rglob("*.py"))
        for one in chances(path.read_text())
        if path != Path(__file__)
    }
    assert not found, "give it a seed: " + "; ".join(sorted(found))


@pytest.mark.skipif(os.environ.get("POSTERN_EXHAUSTIVE") == "1", reason="others are drawn on purpose")
def test_examples_are_the_same_in_each_run_and_no_clock_ends_one() -> None:
    used = settings()
    assert used.derandomize
    assert used.deadline is None
    assert HealthCheck.too_slow in used.suppress_health_check
