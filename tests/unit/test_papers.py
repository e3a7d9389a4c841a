# SPDX-License-Identifier: Apache-2.0
"""The notice, the assessment and the consent record say what this unit does, and bind each other."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli import main
from agent.cli.consent import PART_BYTES
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.errors import ConfigError, ConsentError
from agent.gallery.consent import MAX_CONSENT_DAYS, parse_consent
from agent.notices.assessment import make_assessment
from agent.notices.notice import make_notice, notice_id
from tests.simulators import unit_life
from tests.simulators.gallery_life import MODEL, captures

MAX_WIDTH = 160  # of the notice, in characters: it is printed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    unit_life.write_unit(path, tmp_path / "unit")
    return path


def change(file: Path, section: str, **values: object) -> None:
    data = yaml.safe_load(file.read_text())
    target = data[section] if section else data
    for name, value in values.items():
        if value is None:
            target.pop(name)
        else:
            target[name] = value
    file.write_text(yaml.safe_dump(data, allow_unicode=True))


def test_the_notice_says_who_why_how_long_and_what_else_there_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notice", "-c", str(file)]) == 0
    captured = capsys.readouterr()
    config = load_config(file)
    told = (config.purpose, config.unit.name, config.notice.version, config.notice.operator, config.notice.alternative)
    for text in (*told, "365 days", "voluntary", "withdraw", "No picture is stored"):
        assert text in captured.out
    assert all(len(line) < MAX_WIDTH for line in captured.out.splitlines())
    assert notice_id(config).digest in captured.err


def test_production_without_operator_and_alternative_is_refused(file: Path) -> None:
    change(file, "notice", operator=None, alternative=None)
    with pytest.raises(ConfigError, match=r"operator[\s\S]*alternative"):
        load_config(file)
    change(file, "", profile="demo")
    with pytest.raises(ConfigError, match=r"set notice\.operator"):
        make_notice(load_config(file))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("gallery", {"retention_days": 30}),
        ("events", {"presence": True}),
        ("events", {"subject": "sealed", "consumer_key": "consumer.jwk"}),
        ("notice", {"operator": "Somebody Else Ltd, 2 Main Street"}),
        ("notice", {"alternative": "ring the bell beside the door"}),
        ("", {"purpose": "To open the laboratory for its members, who carry samples in both hands."}),
        ("", {"activation": {"kind": "button", "name": "entrance"}}),
    ],
)
def test_whatever_changes_for_people_changes_what_they_agree_to(
    file: Path, section: str, values: dict[str, object]
) -> None:
    before = notice_id(load_config(file))
    change(file, section, **values)
    assert notice_id(load_config(file)).digest != before.digest


def test_units_that_do_the_same_have_the_same_terms(file: Path) -> None:
    before = notice_id(load_config(file))
    change(file, "unit", id="door-4", name="Back entrance")
    assert notice_id(load_config(file)) == before


def test_who_read_another_notice_is_not_enrolled(file: Path) -> None:
    config, clock = load_config(file), SimulatedClock()
    record = unit_life.agreed(config, clock)
    change(file, "gallery", retention_days=1095)
    changed = load_config(file)
    with unit_life.opened(changed, clock) as stores, pytest.raises(ConsentError, match="another notice"):
        stores.gallery.enrol(captures(np.random.default_rng(1)), consent=record, model=MODEL)


def test_the_assessment_knows_the_unit_and_asks_for_the_rest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assessment", "-c", str(file)]) == 0
    text = capsys.readouterr().out
    config = load_config(file)
    for told in (config.purpose, config.notice.operator, config.broker.host, notice_id(config).digest, "365 days"):
        assert told in text
    assert make_notice(config) in text
    for part in ("1. What is done", "2. Necessity", "3. Risks", "4. Rights", "5. Decision"):  # GDPR art. 35(7)
        assert f"## {part}" in text
    assert len(re.findall(r"<[^>]{3,}>", text)) > 15
    assert "{" not in text


def test_the_assessment_of_a_network_camera_says_that_its_picture_can_be_replaced(file: Path) -> None:
    change(file, "", camera={"source": "rtsp", "url": "rtsp://192.0.2.20/stream"})
    assert "can be replaced by whoever controls the network" in make_assessment(load_config(file))


def test_a_consent_record_is_made_of_the_evidence_and_the_configuration(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, "", purpose="Öffnet die Tür für Beschäftigte, die darum gebeten haben.")
    (tmp_path / "form.pdf").write_bytes(b"signed")
    words = ["consent", str(tmp_path / "form.pdf"), "--unit", "door-3", "--unit", "door-4", "--days", "30"]
    assert main([*words, "-o", str(tmp_path / "consent.json"), "-c", str(file)]) == 0
    record = parse_consent((tmp_path / "consent.json").read_bytes())
    config = load_config(file)
    assert (record.notice_version, record.notice_digest) == notice_id(config)
    assert record.units == ("door-3", "door-4")
    assert (record.expires_at - record.given_at).days == 30
    assert record.evidence_digest == "sha256:" + hashlib.sha256(b"signed").hexdigest()
    assert main([*words, "-c", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["site"] == config.unit.site


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--age-class", "under_16"], "a guardian must agree"),
        *((["--days", days], "a consent holds 1 to 1095 days") for days in ("0", "-3", str(MAX_CONSENT_DAYS + 1))),
        (["--days", "99999999999"], "a consent holds 1 to 1095 days"),
        (["--unit", "BAD UNIT"], "name 'BAD UNIT' is not usable"),
        (["--unit", ""], "name '' is not usable"),
        (["--unit", "door-3\n"], "is not usable"),
        ([word for n in range(65) for word in ("--unit", f"door-{n}")], "64 units at most"),
        (["--guardian", "/dev/null"], "/dev/null is empty"),
        (["--guardian", "none.pdf"], "cannot read none.pdf"),
    ],
)
def test_a_consent_that_would_not_hold_is_not_written(
    file: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "form.pdf").write_bytes(b"signed")
    output = tmp_path / "consent.json"
    assert main(["consent", str(tmp_path / "form.pdf"), "-o", str(output), "-c", str(file), *words]) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("left", [b"", bytes(4096), b" \r\n\n", bytes(2 * PART_BYTES)])
def test_an_empty_paper_is_no_evidence(
    file: Path, tmp_path: Path, left: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "form.pdf").write_bytes(left)
    assert main(["consent", str(tmp_path / "form.pdf"), "-c", str(file)]) == 2
    assert "form.pdf is empty, so nobody signed it" in capsys.readouterr().err
