# SPDX-License-Identifier: Apache-2.0
"""Records as logs: OTLP and syslog take each at least once; what they do not take waits, or is a dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bridge.otlp import Otlp
from agent.bridge.pump import Pump
from agent.bridge.records import records_of
from agent.bridge.syslog import Syslog
from agent.disk.files import write_atomic
from agent.errors import KeyStoreError
from agent.subscribe.chain import Gap
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import Loss
from tests.simulators.log_receivers import Collector, SyslogReceiver
from tests.simulators.pki import Authority
from tests.unit.test_bridge_outputs import Bench, bench  # noqa: F401 - a fixture

WARN, ERROR = 13, 17  # OTLP's severity numbers


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def syslog(authority: Authority) -> Iterator[SyslogReceiver]:
    receiver = SyslogReceiver(authority.issue("logs", server=True))
    yield receiver
    receiver.close()


def otlp(bench: Bench, collector: Collector, token: Path | None = None) -> Pump:  # noqa: F811
    return bench.pump("hook", Otlp(collector.url, site="hq", token=token, ca=None, words=None, clock=bench.clock))


def to_syslog(bench: Bench, receiver: SyslogReceiver, ca: Path) -> Pump:  # noqa: F811
    return bench.pump("archive", Syslog("127.0.0.1", receiver.port, ca=ca, keys=None, words=None))


def told(bench: Bench) -> None:  # noqa: F811
    """An event, a refusal and a loss."""
    bench.hear()
    for outcome in (Refusal("bad_signature", "postern/hq/door-3/event/match", "no"), Loss("door-3", Gap(7, 9), 3)):
        bench.store.put(records_of(outcome, "hq", serial=bench.store.serial), bench.now_s)


def test_collector_gets_event_refusal_and_loss_with_keys_times_and_severities(
    bench: Bench,  # noqa: F811
    collector: Collector,
    tmp_path: Path,
) -> None:
    write_atomic(tmp_path / "token", "let-me-in\r\n".encode("utf-16"))  # as Notepad saves "Unicode"
    told(bench)
    otlp(bench, collector, tmp_path / "token").step()
    assert collector.authorization == {"Bearer let-me-in"}
    assert [one.event_name for one in collector.taken] == ["postern.match", "postern.refusal", "postern.loss"]
    assert [one.severity_number for one in collector.taken][1:] == [WARN, ERROR]
    event = {one.key: one.value for one in collector.taken[0].attributes}
    assert event["postern.key"].string_value.startswith("/postern/hq/door-3#")
    assert event["postern.seq"].int_value == 1
    assert event["postern.fresh"].bool_value
    assert json.loads(event["postern.event"].string_value)["sig"]
    assert collector.taken[0].observed_time_unix_nano == bench.now_s * 10**9
    assert bench.store.behind()["hook"] == 0


@pytest.mark.parametrize("status", [429, 503])
def test_collector_that_is_busy_is_waited_for_in_one_sentence(
    bench: Bench,  # noqa: F811
    collector: Collector,
    status: int,
) -> None:
    bench.hear()
    pump = otlp(bench, collector)
    collector.status = status
    for _ in range(3):
        assert pump.step() > 0
    assert bench.notices == [f"output hook: the collector 127.0.0.1 answers {status}: it is tried again"]
    collector.status = 200
    assert pump.step() == 0
    assert len(collector.taken) == 1


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404])
def test_collector_that_does_not_take_the_token_costs_no_record(
    bench: Bench,  # noqa: F811
    collector: Collector,
    status: int,
) -> None:
    pump = otlp(bench, collector)
    collector.status = status
    for _ in range(3):
        bench.hear()
        assert pump.step() > 0
    (told_once,) = bench.notices
    assert f"answers {status}: correct the token or the URL" in told_once
    assert bench.store.dead() == []
    collector.status = 200
    pump.step()
    assert len(collector.taken) == 3


def test_record_that_a_collector_rejects_is_a_dead_letter_and_the_others_arrive(
    bench: Bench,  # noqa: F811
    collector: Collector,
) -> None:
    told(bench)
    collector.rejects = lambda record: record.event_name == "postern.refusal"
    otlp(bench, collector).step()
    assert {one.event_name for one in collector.taken} == {"postern.match", "postern.loss"}
    (dead,) = bench.store.dead()
    assert dead.body.kind == "refusal"
    assert dead.reason == "the collector rejected it: too odd"
    assert bench.store.behind()["hook"] == 0


def test_syslog_is_read_by_the_grammar_of_its_rfc(
    bench: Bench,  # noqa: F811
    syslog: SyslogReceiver,
    authority: Authority,
) -> None:
    told(bench)
    assert to_syslog(bench, syslog, authority.ca).step() == 0
    assert [(one["priority"], one["id"]) for one in syslog.taken] == [
        ("86", "match"),
        ("84", "refusal"),
        ("83", "loss"),
    ]
    first = json.loads(syslog.taken[0]["message"])
    assert first["key"].startswith("/postern/hq/door-3#")
    assert first["event"]["sig"]
    assert bench.store.behind()["archive"] == 0


def test_syslog_that_was_cut_off_unread_comes_again(
    bench: Bench,  # noqa: F811
    syslog: SyslogReceiver,
    authority: Authority,
) -> None:
    for _ in range(300):
        bench.hear()
    pump = to_syslog(bench, syslog, authority.ca)
    syslog.resets = True
    assert pump.step() > 0
    assert syslog.taken == []
    assert "did not take it" in bench.notices[0]
    syslog.resets = False
    pump.step()
    pump.step()
    assert [json.loads(one["message"])["seq"] for one in syslog.taken] == list(range(1, 301))


def test_syslog_of_a_stranger_gets_nothing(bench: Bench, syslog: SyslogReceiver, tmp_path: Path) -> None:  # noqa: F811
    bench.hear()
    foreign = Authority(tmp_path / "foreign")
    assert to_syslog(bench, syslog, foreign.ca).step() > 0
    assert syslog.taken == []
    assert f"127.0.0.1 port {syslog.port} did not take it (its certificate is not believed: " in bench.notices[0]
    assert "name who vouches for it with 'ca'" in bench.notices[0]


def test_authority_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(KeyStoreError, match="is not a certificate authority in PEM"):
        Syslog("127.0.0.1", 6514, ca=tmp_path / "ca.crt", keys=None, words=None)
