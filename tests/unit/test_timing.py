# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.timing import BINS, Histogram, StageTimes


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_quantiles_bracket_what_was_counted(durations_ns: list[int]) -> None:
    histogram = Histogram()
    for duration in durations_ns:
        histogram.add(duration)
    one = histogram.summary()
    assert one.count == len(durations_ns)
    assert one.p50_us <= one.p95_us
    highest = max(durations_ns) / 1000
    assert one.p95_us <= max(highest * 1.1 + 2, 2)


def test_a_histogram_never_grows() -> None:
    histogram = Histogram()
    for n in range(10_000):
        histogram.add(n * n)
    assert len(histogram._bins) == BINS


def test_nothing_counted_is_nothing_reported() -> None:
    times = StageTimes(("detect",))
    assert times.summaries() == {}
    with pytest.raises(KeyError), times.measure("unknown"):
        pass
