# SPDX-License-Identifier: Apache-2.0
"""Health says how the unit does, signed, without floats, and without a trace of who stood there."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agent.audit.log import AuditLog
from agent.cli import main
from agent.clock import SimulatedClock
from agent.errors import VerificationError
from agent.keys import PublicKey, UnitKey
from agent.parse import strict_json
from agent.protocol.health import SIGNATURE_TYPE
from agent.uplink.health import HealthReporter, read_disk_free, read_temperature
from agent.uplink.info import CameraFacts, DetectionFacts, Expected, Info, encode_info
from tests.simulators.signing_unit import SigningUnit

SOURCE = "/postern/hq/door-3"
MAX_BYTES = 8192  # a document has about 900


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
    assert strict_json.loads(unit.reporter.build(), limit=MAX_BYTES)  # which refuses floats


def test_frame_rate_is_of_the_time_since_the_last_report(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    unit.frames = 100
    unit.clock.advance(10)
    unit.build()
    unit.clock.advance(10)
    assert unit.build()["fps_milli"] == 0


def verified(payload: bytes, key: PublicKey) -> dict[str, Any]:
    """What a document says, once its signature over everything but itself holds."""
    members = strict_json.loads(payload, limit=MAX_BYTES)
    key.verify_detached(members.pop("sig"), rfc8785.dumps(members), typ=SIGNATURE_TYPE)
    return members


def test_signature_holds_and_any_change_breaks_it(tmp_path: Path) -> None:
    unit = Reporter(tmp_path)
    payload = unit.reporter.build()
    assert verified(payload, unit.unit.key.public)["clock"] == "synced"
    changed = payload.replace(b'"temperature_c":51', b'"temperature_c":15')
    for content, key, reason in [
        (changed, unit.unit.key, "bad_signature"),
        (payload, UnitKey.generate(), "wrong_key"),
        (unit.unit.say().payload, unit.unit.key, "wrong_type"),  # an event's signature does not pass for health
    ]:
        with pytest.raises(VerificationError) as caught:
            verified(content, key.public)
        assert caught.value.reason == reason


def test_a_cut_off_audit_log_is_found_with_the_head_that_health_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.log"
    with closing(AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes)) as log:
        unit = Reporter(tmp_path, audit_head=lambda: str(log.head()))
        for _ in range(3):
            log.append("started")
        report = unit.build()
    command = ["audit", "verify", "--log", str(path), "--head", report["audit"]]
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
        policy="sha256:" + "1" * 64,
        detection=DetectionFacts("picture", "changes"),
        config_schema="postern-config-1",
        public_key=key.public_jwk(),  # type: ignore[arg-type]
        kid=key.kid,
        enrolled=3,
        expected=Expected(
            fpir_ppm=1000,
            threshold="extrapolated",
            gallery=10,
            fnir_ppm=5200,
            fnir_low_ppm=0,
            fnir_high_ppm=12500,
        ),
        activation="zone",
        liveness="not_checked",
        capabilities=("health", "selftest"),
    )
    document = json.loads(encode_info(info))
    assert set(document["public_key"]) == {"kty", "crv", "x", "y"}
    assert document["enrolled"] == 3
