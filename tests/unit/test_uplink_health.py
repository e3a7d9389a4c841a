# SPDX-License-Identifier: Apache-2.0
"""Health says how the unit does, signed, without floats, and without a trace of who stood there."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import strict_json
from agent.audit.log import AuditLog
from agent.cli import main
from agent.clock import SimulatedClock
from agent.errors import VerificationError
from agent.keys import UnitKey
from agent.protocol.health import MAX_HEALTH_BYTES, verify_health
from agent.uplink.health import HealthReporter, read_disk_free, read_temperature
from agent.uplink.info import CameraFacts, Info, encode_info
from tests.simulators.signing_unit import SigningUnit

SOURCE = "/postern/hq/door-3"


class Reporter:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.unit = SigningUnit(folder / "outbox.db")
        self.clock: SimulatedClock = self.unit.clock
        self.frames = 0
        self.reporter = HealthReporter(
            source=SOURCE,
            boot=self.unit.outbox.boot,
            signer=self.unit.key,
            clock=self.clock,
            outbox=self.unit.outbox,
            frames=lambda: self.frames,
            recognition=lambda: "running",
            temperature=lambda: 51,
            disk_free=lambda: 1_000_000,
            **options,
        )

    def build(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.reporter.build())
        return document


def test_document_says_what_it_promises_and_nothing_else(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    row = unit.unit.say()
    unit.frames, _ = 125, unit.clock.advance(10)
    document = unit.build()
    assert set(document) == {
        *("type", "source", "boot", "uptime_s", "time", "clock", "recognition", "fps_milli"),
        *("queue_depth", "temperature_c", "disk_free_bytes", "head", "sig"),
    }
    assert document["fps_milli"] == 12_500
    assert document["queue_depth"] == 1
    assert document["head"] == {"seq": row.seq, "digest": unit.unit.outbox.head().digest}
    assert strict_json.loads(unit.reporter.build(), limit=MAX_HEALTH_BYTES)  # which refuses floats


def test_frame_rate_is_of_the_time_since_the_last_report(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    unit.frames = 100
    unit.clock.advance(10)
    unit.build()
    unit.clock.advance(10)
    assert unit.build()["fps_milli"] == 0


def test_nobody_is_counted_unless_asked_for(tmp_path: Path) -> None:
    assert "reasons" not in Reporter(tmp_path).build()
    counted = Reporter(
        tmp_path / "x" if (tmp_path / "x").mkdir() is None else tmp_path, reasons=lambda: {"too_small": 2}
    )
    assert counted.build()["reasons"] == {"too_small": 2}


def test_signature_holds_and_any_change_breaks_it(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    payload = unit.reporter.build()
    report = verify_health(payload, unit.unit.key.public, source=SOURCE)
    assert report.clock == "synced"
    changed = payload.replace(b'"temperature_c":51', b'"temperature_c":15')
    stripped = payload[: payload.index(b',"sig"')] + payload[payload.index(b',"source"') :]
    for content, key, source, reason in [
        (changed, unit.unit.key, SOURCE, "bad_signature"),
        (payload, UnitKey.generate(), SOURCE, "wrong_key"),
        (payload, unit.unit.key, "/postern/hq/door-4", "wrong_source"),
        (b"{}", unit.unit.key, SOURCE, "malformed"),
        (stripped, unit.unit.key, SOURCE, "unsigned"),
    ]:
        with pytest.raises(VerificationError) as caught:
            verify_health(content, key.public, source=source)
        assert caught.value.reason == reason


def test_event_signature_does_not_pass_for_health(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    with pytest.raises(VerificationError) as caught:
        verify_health(unit.unit.say().payload, unit.unit.key.public, source=SOURCE)
    assert caught.value.reason == "malformed"


def test_a_cut_off_audit_log_is_found_with_the_head_that_health_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.log"
    with closing(AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes)) as log:
        unit = Reporter(tmp_path, audit_head=lambda: str(log.head()))
        for _ in range(3):
            log.append("started")
        report = verify_health(unit.reporter.build(), unit.unit.key.public, source=SOURCE)
    assert report.audit is not None
    command = ["audit", "verify", "--log", str(path), "--head", report.audit]
    assert main(command) == 0
    assert "without --head" not in capsys.readouterr().out
    whole = path.read_bytes().splitlines(keepends=True)
    for left in (2, 0):
        path.write_bytes(b"".join(whole[:left]))
        assert main(command) == 2
        assert "its end was removed" in capsys.readouterr().err


def test_temperature_is_read_in_whole_degrees(tmp_path: Path) -> None:
    zone = tmp_path / "temp"
    zone.write_text("51540\n")
    assert read_temperature(zone) == 52
    zone.write_text("hot")
    assert read_temperature(zone) is None
    assert read_temperature(tmp_path / "missing") is None


def test_free_storage_is_read(tmp_path: Path) -> None:
    assert read_disk_free(tmp_path) > 0
    assert read_disk_free(tmp_path / "missing") == 0


def test_info_holds_no_secret() -> None:
    key = UnitKey.generate()
    info = Info(
        source=SOURCE,
        name="Front door",
        version="0.1.0",
        board="Raspberry Pi 4",
        runtime="ai-edge-litert 2.1.6",
        profile="production",
        camera=CameraFacts("picamera2", 1280, 720),
        models={"detector": "sha256:" + "0" * 64, "embedder": "sha256:" + "1" * 64},
        config_schema="postern-config-1",
        public_key=key.public_jwk(),  # type: ignore[arg-type]
        kid=key.kid,
        enrolled=3,
        activation="zone",
        liveness="not_checked",
        capabilities=("health", "selftest"),
    )
    document = json.loads(encode_info(info))
    assert set(document["public_key"]) == {"kty", "crv", "x", "y"}
    assert document["enrolled"] == 3
