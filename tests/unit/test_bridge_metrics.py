# SPDX-License-Identifier: Apache-2.0
"""What the bridge tells Prometheus: what somebody has to be woken for, and nobody's name."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agent.bridge.metrics import Gathered, Metrics
from agent.bridge.records import records_of
from agent.errors import RefusedError
from agent.subscribe.subscriber import Refusal
from tests.simulators.health import healthy
from tests.simulators.ports import free_port
from tests.unit.test_bridge_outputs import Bench, bench

VECTORS = Path(__file__).parents[1] / "vectors"
REFUSED = r'"refused": ?"([a-z_]+)"'
__all__ = ["bench"]  # a fixture


def test_metrics_tell_what_to_wake_somebody_for_and_nobodys_name(bench: Bench) -> None:
    port = free_port()
    store = bench.store
    metrics = Metrics("127.0.0.1", port, status=bench.status, store=store, now_s=lambda: bench.now_s)
    try:
        verified = bench.hear()
        facts = bench.status.facts
        facts.event_s["door-3"] = bench.now_s - 7
        facts.units = ("door-3", "door-4", "door-5")
        facts.health["door-3"] = (bench.now_s - 60, healthy("door-3", certificate_days=42))
        facts.health["door-4"] = (bench.now_s - 181, healthy("door-4"))  # door-5 was never heard
        facts.epoch_keys_s = bench.now_s + 9 * 86_400
        store.put(
            records_of(Refusal("replayed", "postern/hq/door-3/event/match", "older"), "hq", serial=store.serial), 0
        )
        bench.pump("archive", metrics).step()
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    finally:
        metrics.close()
    assert 'postern_unit_event_age_seconds{unit="door-3"} 7.0' in page
    for unit, up in (("door-3", "1.0"), ("door-4", "0.0"), ("door-5", "0.0")):
        assert f'postern_unit_available{{unit="{unit}"}} {up}' in page
    assert 'postern_unit_certificate_days_left{unit="door-3"} 42.0' in page
    assert 'postern_key_days_left{what="epoch_keys"} 9.0' in page
    assert 'postern_refusals_total{reason="replayed"} 1.0' in page
    assert 'postern_output_behind_records{output="hook"} 2.0' in page
    assert verified.event.data.subject not in page  # type: ignore[union-attr]
    with pytest.raises(RefusedError, match="choose another"):
        Metrics("192.0.2.1", port, status=bench.status, store=store, now_s=lambda: 0)


def test_what_can_be_counted_is_there_before_it_happens(bench: Bench) -> None:
    """Of a series that begins at 1 Prometheus counts no increase: the first forgery would wake nobody."""
    gathered = Gathered(bench.status, bench.store, lambda: bench.now_s)
    bench.status.facts.units = ("door-3",)
    bench.status.facts.event_s["door-9"] = bench.now_s  # was retired since
    registry = CollectorRegistry()
    registry.register(gathered)
    told = set(generate_latest(registry).decode().splitlines())
    refused = {
        reason
        for file in (VECTORS / "events.json", VECTORS / "chains.json")
        for reason in re.findall(REFUSED, file.read_text())
    }
    assert len(refused) > 15
    zeros = {f'postern_refusals_total{{reason="{reason}"}} 0.0' for reason in refused}
    zeros |= {f'postern_records_total{{kind="{kind}"}} 0.0' for kind in ("match", "gap", "loss", "refusal", "notice")}
    zeros |= {f'postern_output_{what}{{output="hook"}} 0.0' for what in ("dead_letters", "failing", "behind_records")}
    of_a_unit = ("lost_events_total", "owned_up_events_total", "unit_withheld_events", "unit_missing_events")
    zeros |= {f'postern_{what}{{unit="door-3"}} 0.0' for what in of_a_unit}
    assert zeros <= told, zeros - told
    assert not [line for line in told if "door-9" in line], "of a unit that is in service no more"
