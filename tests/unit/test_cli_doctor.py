# SPDX-License-Identifier: Apache-2.0
"""The installer's checks: each fault is told with what to do, and only faults make the status bad."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from agent.cli import main
from agent.clock import Clock, SimulatedClock, SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.disk.process_lock import ProcessLock
from agent.errors import ConfigError
from agent.keys import UnitKey, load_public_key
from agent.mqtt.credentials import read_ends
from agent.outbox.epoch_keys import save
from agent.protocol.pseudonym import EpochKey, epochs_from
from agent.unit.assemble import credentials_of
from agent.unit.doctor import AUTHORITY_NOTICE, CHECKS, NOTICE, Finding, check_memory, examine
from tests.simulators.broker import RealBroker
from tests.simulators.config import example
from tests.simulators.pki import Authority

MANIFEST = Path(__file__).parents[2] / "models" / "manifest.yaml"
UNIT = "door-3"


@pytest.fixture
def site(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def file(tmp_path: Path, site: Authority) -> Path:
    """The configuration of a unit with keys and certificate, and no broker."""
    folder = tmp_path / "unit"
    folder.mkdir(mode=0o700)
    data = example()
    data["gallery"]["path"], data["outbox"]["path"], data["audit"]["path"] = "gallery.db", "outbox.db", "audit.log"
    data["keys"]["folder"] = "."
    data["broker"] |= {"host": "127.0.0.1", "port": 9}
    UnitKey.generate().save(folder / "unit.key")
    (folder / "site.jwk").write_text(json.dumps(UnitKey.generate().public_jwk()))
    issue(site, folder)
    epochs(folder, count=3)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def issue(site: Authority, folder: Path, name: str = UNIT, **changes: datetime) -> None:
    files = site.issue(name, **changes)
    shutil.copy(files.ca, folder / "ca.crt")
    shutil.copy(files.certificate, folder / "tls.crt")
    shutil.copy(files.key, folder / "tls.key")


def epochs(folder: Path, *, count: int) -> None:
    names = epochs_from(datetime.now(UTC))[:count]
    save(folder / "epoch-keys.json", [EpochKey("hq", "access", name, "A" * 43) for name in names])


def findings(check: str, file: Path, clock: Clock | None = None) -> list[Finding]:
    config: Config = load_config(file)
    return list(examine(check, config, clock or SystemClock()))


def states(check: str, file: Path, clock: Clock | None = None) -> list[str]:
    return [finding.state for finding in findings(check, file, clock)]


def test_private_folders_are_fine_and_open_ones_are_told(file: Path) -> None:
    assert states("folders", file) == ["ok"]
    file.parent.chmod(0o755)
    (finding,) = findings("folders", file)
    assert (finding.state, finding.text) == ("advice", f"{file.parent} is open to other users: chmod 700 {file.parent}")


def test_a_missing_folder_is_a_fault(file: Path) -> None:
    file.write_text(file.read_text().replace("gallery.db", "nowhere/gallery.db"))
    assert states("folders", file) == ["ok", "fault"]


def test_keys_are_named_by_their_thumbprint(file: Path) -> None:
    first, second, third = findings("keys", file)
    assert first.text == f"signing key {UnitKey.load(file.parent / 'unit.key').kid}"
    assert second.text == f"site key {load_public_key(file.parent / 'site.jwk').kid}"
    assert third.text == f"epoch keys for {', '.join(epochs_from(datetime.now(UTC)))}"


def test_epoch_keys_that_run_out_are_told_in_time(file: Path) -> None:
    epochs(file.parent, count=1)
    now, *coming = epochs_from(datetime.now(UTC))
    missing = f"no epoch key for {', '.join(coming)} yet: install the next ones before {now} is over"
    assert findings("keys", file)[2] == Finding("keys", "advice", missing)
    epochs(file.parent, count=0)
    none = f"no epoch key for audience 'access' in {now}: issue keys at the site, install them"
    assert findings("keys", file)[2] == Finding("keys", "fault", none)


def test_a_secret_that_others_can_read_is_a_fault(file: Path) -> None:
    (file.parent / "unit.key").chmod(0o644)
    (finding,) = findings("keys", file)
    assert finding.state == "fault"
    assert "chmod 600" in finding.text


def test_a_certificate_is_told_with_its_end(file: Path, site: Authority) -> None:
    issue(site, file.parent, ends=datetime.now(UTC) + NOTICE + timedelta(days=1))
    (finding,) = findings("certificate", file)
    ends = read_ends(credentials_of(load_config(file)))[0]
    text = f"{UNIT}, valid until {ends:%Y-%m-%d}"
    assert finding == Finding("certificate", "ok", text)
    at_the_bound = SimulatedClock(ends - NOTICE)
    assert findings("certificate", file, at_the_bound)[0] == Finding("certificate", "ok", text)
    at_the_bound.advance(1)
    late = Finding("certificate", "advice", f"{text}: 29 days left, have it renewed")
    assert findings("certificate", file, at_the_bound)[0] == late
    issue(site, file.parent, ends=datetime.now(UTC) + timedelta(days=3, hours=1))
    (finding,) = findings("certificate", file)
    assert finding.state == "advice"
    assert "3 days left, have it renewed" in finding.text


def test_the_end_of_the_sites_authority_is_told_half_a_year_before(file: Path, site: Authority) -> None:
    ends, authority = datetime.now(UTC) + timedelta(days=4000), read_ends(credentials_of(load_config(file)))[1]
    issue(site, file.parent, ends=ends)
    clock = SimulatedClock(authority - AUTHORITY_NOTICE)
    assert states("certificate", file, clock) == ["ok"]
    clock.advance(1)
    what = f"the site's authority ends on {authority:%Y-%m-%d}: make a new site before, every unit joins anew"
    assert findings("certificate", file, clock)[1:] == [Finding("certificate", "advice", what)]


def test_another_units_certificate_is_a_fault(file: Path, site: Authority) -> None:
    issue(site, file.parent, name="door-4")
    (finding,) = findings("certificate", file)
    assert finding.state == "fault"
    assert "'door-4'" in finding.text


def test_an_unsynchronised_clock_is_advice(file: Path) -> None:
    assert states("clock", file, SimulatedClock(state="synced")) == ["ok"]
    assert states("clock", file, SimulatedClock(state="unsynced")) == ["advice"]


@pytest.mark.parametrize(
    ("swaps", "pattern", "told"),
    [
        (["/dev/zram0"], "|/bin/false", ["ok", "ok"]),
        ([], "|/usr/lib/systemd/systemd-coredump %P", ["ok", "advice"]),
        (["/dev/zram0", "/var/swap", "/dev/mmcblk0p3"], "|/bin/false", ["advice", "ok"]),
    ],
)
def test_memory_that_reaches_a_disk_is_told(
    file: Path, tmp_path: Path, swaps: list[str], pattern: str, told: list[str]
) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    rows = [f"{swap}  file  2097148  0  -2\n" for swap in swaps]
    (tmp_path / "swaps").write_text("Filename  Type  Size  Used  Priority\n" + "".join(rows))
    (tmp_path / "sys/kernel/core_pattern").write_text(pattern + "\n")
    found = list(check_memory(load_config(file), SystemClock(), tmp_path))
    assert [state for state, _ in found] == told
    if told[0] == "advice":
        assert found[0][1].startswith("swap on /var/swap, /dev/mmcblk0p3: ")


def test_missing_models_are_a_fault_with_the_setting_to_correct(file: Path) -> None:
    file.write_text(file.read_text().replace("/usr/share/postern/models/manifest.yaml", "none.yaml"))
    for check in ("models", "camera"):
        (finding,) = findings(check, file)
        assert finding.state == "fault"
        assert "models.manifest" in finding.text


def test_an_empty_gallery_is_fine(file: Path) -> None:
    (finding,) = findings("gallery", file)
    assert (finding.state, finding.text) == ("ok", "0 people enrolled")
    lock = ProcessLock(load_config(file).gallery.path)
    assert findings("gallery", file) == [Finding("gallery", "ok", "in use by the running unit")]
    lock.release()


def test_a_broker_that_is_not_there_is_a_fault(file: Path) -> None:
    (finding,) = findings("broker", file)
    assert (finding.state, "nothing listens at 127.0.0.1:9" in finding.text) == ("fault", True)


@pytest.fixture
def broker(tmp_path: Path, site: Authority, file: Path) -> Iterator[RealBroker]:
    real = RealBroker(tmp_path, site)
    real.start()
    file.write_text(file.read_text().replace("port: 9\n", f"port: {real.port}\n"))
    yield real
    real.stop()


@pytest.mark.broker
def test_a_broker_that_takes_the_certificate_is_fine(file: Path, broker: RealBroker) -> None:
    finding, allowed = findings("broker", file)
    assert (finding.state, allowed.state) == ("ok", "ok")
    assert "TLSv1.3" in finding.text


@pytest.mark.broker
def test_a_broker_at_an_address_of_ipv6_is_reached(file: Path, site: Authority, tmp_path: Path) -> None:
    real = RealBroker(tmp_path, site)
    real.write_config(listener=f"{real.port} ::1")
    real.start()
    try:
        text = file.read_text().replace("port: 9\n", f"port: {real.port}\n")
        file.write_text(text.replace("host: 127.0.0.1", "host: '::1'"))
        assert states("broker", file) == ["ok", "ok"]
    finally:
        real.stop()


@pytest.mark.parametrize("host", ["[::1]", "::1]:8883", "fe80::1%eth0"])
def test_an_address_as_it_stands_in_a_url_is_refused(file: Path, host: str) -> None:
    file.write_text(file.read_text().replace("host: 127.0.0.1", f"host: '{host}'"))
    with pytest.raises(ConfigError, match=r"broker\.host"):
        load_config(file)


@pytest.mark.broker
def test_a_broker_that_refuses_the_certificate_is_a_fault(file: Path, broker: RealBroker, site: Authority) -> None:
    files = site.issue(UNIT)
    shutil.copy(files.certificate, file.parent / "tls.crt")
    shutil.copy(files.key, file.parent / "tls.key")
    site.revoke(files)
    broker.renew_crl()
    (finding,) = findings("broker", file)
    assert finding.state == "fault"
    assert "revoked" in finding.text


@pytest.mark.broker
def test_a_broker_of_another_site_is_a_fault(file: Path, broker: RealBroker, tmp_path: Path) -> None:
    issue(Authority(tmp_path / "other", "other site"), file.parent)
    (finding,) = findings("broker", file)
    assert finding.state == "fault"
    assert "not accepted" in finding.text


def test_the_table_ends_with_a_status_that_scripts_can_use(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "folders", "keys", "-c", str(file)]) == 0
    table = capsys.readouterr()
    assert [line.split()[0] for line in table.out.splitlines() if line[0] != " "] == ["ok"] * 4
    assert main(["doctor", "folders", "broker", "--json", "-c", str(file)]) == 1
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["check"], row["state"]) for row in rows] == [("folders", "ok"), ("broker", "fault")]
    assert "1 of the checks failed" in told.err


def test_an_unknown_check_is_refused_with_the_known_ones(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "everything", "-c", str(file)])
    assert ", ".join(CHECKS) in capsys.readouterr().err


class Forbidden(SimulatedClock):
    """A clock of which nobody may ask whether it is right."""

    def refusal(self) -> str:
        return "Operation not permitted"


def test_a_clock_that_nobody_may_ask_about_is_a_fault_and_not_a_clock_that_is_wrong(file: Path) -> None:
    (finding,) = findings("clock", file, Forbidden(state="unsynced"))
    assert finding.state == "fault"
    assert "Operation not permitted" in finding.text
    assert "adjtimex" in finding.text


@pytest.mark.parametrize("source", ["rtsp", "v4l2"])
@pytest.mark.parametrize("runs", [False, True])
def test_a_camera_that_gives_nothing_is_the_running_units_only_where_one_runs_and_holds_it(
    file: Path, source: str, *, runs: bool
) -> None:
    pytest.importorskip("av")
    own = {"rtsp": {"url": "rtsp://127.0.0.1:9/live", "timeout_s": 2}, "v4l2": {"device": "/dev/video-none"}}[source]
    changes = {"camera": {"source": source, **own}, "models": {"manifest": str(MANIFEST)}}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    lock = ProcessLock(load_config(file).gallery.path) if runs else None
    (finding,) = findings("camera", file)
    if lock is not None:
        lock.release()
    assert finding.state == "fault"
    assert "gives no pictures" in finding.text
    assert ("the unit is running" in finding.text) == (runs and source == "v4l2")
