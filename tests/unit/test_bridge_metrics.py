# SPDX-License-Identifier: Apache-2.0
"""What the bridge tells Prometheus: what somebody has to be woken for, and nobody's name."""

from __future__ import annotations

import urllib.request

import pytest

from agent.bridge.metrics import Metrics
from agent.bridge.records import records_of
from agent.errors import RefusedError
from agent.subscribe.subscriber import Refusal
from tests.simulators.health import healthy
from tests.simulators.ports import free_port
from tests.unit.test_bridge_outputs import Bench, bench

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
