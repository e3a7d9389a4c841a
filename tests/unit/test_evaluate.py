# SPDX-License-Identifier: Apache-2.0
"""tools/evaluate from the command line, on drawn people whom the small test models tell apart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from agent.errors import PolicyError
from agent.inference.manifest import load_manifest
from agent.keys import SigningKey
from agent.match.policy import parse_policy, verify_policy
from tests.conftest import shared_folder
from tools.lib.evaluate.__main__ import main

MANIFEST = Path(__file__).parents[1] / "assets" / "models" / "manifest.yaml"
MODELS = ["--models", str(MANIFEST), "--detector-name", "toy-detector", "--embedder-name", "toy-embedder"]
WIDTH, HEIGHT = 160, 96


def person(identity: int, take: int, *, face: bool = True) -> Image.Image:
    """A grey pattern that is the person, a blue square that makes it a face, a little noise that is the picture."""
    rng = np.random.default_rng([identity])
    grey = rng.integers(0, 256, (HEIGHT // 12, WIDTH // 16), dtype=np.uint8).repeat(12, 0).repeat(16, 1)
    noise = np.random.default_rng([identity, take]).integers(0, 12, grey.shape)
    picture = (grey * 0.9 + noise).astype(np.uint8)[..., None].repeat(3, 2)
    if face:
        picture[32:64, 64:96] = (0, 0, 255)
    return Image.fromarray(picture)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for identity in range(8):
        folder = tmp_path / "people" / f"person{identity}"
        folder.mkdir(parents=True)
        for take in range(4):
            person(identity, take).save(folder / f"{take}.png", compress_level=0)
    return tmp_path / "people"


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def write_pairs(people: Path, *, without: int = 0) -> Path:
    pairs = [(f"person{i}/0.png", f"person{i}/{k}.png", 1) for i in range(8) for k in (1, 2, 3)]
    pairs += [(f"person{i}/0.png", f"person{(i + d) % 8}/1.png", 0) for i in range(8) for d in (1, 2, 3)]
    path = people.parent / "pairs.csv"
    path.write_text("a,b,same\n" + "".join(f"{a},{b},{same}\n" for a, b, same in pairs))
    for take in range(without):
        person(0, take + 1, face=False).save(people / "person0" / f"{take + 1}.png", compress_level=0)
    return path


def test_verification_tells_people_apart(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys, "verification", "--images", people, "--pairs", write_pairs(people), *MODELS)
    assert (report["pairs"], report["mated_pairs"], report["failed_to_detect"]) == (48, 24, 0)
    assert report["accuracy"] > 0.95
    assert report["equal_error_rate"] < 0.05
    assert report["tar_at_far"]["0.01"] > 0.9
    low, high = report["tar_at_far_95"]["0.01"]
    assert low < report["tar_at_far"]["0.01"] <= high
    assert report["accuracy_95"][0] < report["accuracy"] <= report["accuracy_95"][1]
    assert set(report["cpu_milliseconds"]) == {"decode", "detect", "align", "embed"}
    assert report["models"]["detector"].startswith("toy-detector sha256:")


def test_failure_to_detect_counts_as_a_non_match(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(people, without=3)
    report = evaluate(capsys, "verification", "--images", people, "--pairs", pairs, *MODELS)
    assert report["failed_to_detect"] == 3
    assert report["tar_at_far"]["0.01"] <= 21 / 24
    assert "non-matches" in report["note"]


def test_table_says_the_same_as_json(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(people)
    assert main(["verification", "--images", str(people), "--pairs", str(pairs), *MODELS]) == 0
    captured = capsys.readouterr()
    assert "equal_error_rate" in captured.out
    assert "pictures" in captured.err
    assert "pictures," not in captured.out


def test_detection_counts_faces_and_false_faces(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for take in range(4):
        person(20, take, face=take == 0).save(empty / f"{take}.png")
    arguments = ["--images", people, "--empty", empty, *MODELS[:4]]
    report = evaluate(capsys, "detection", *arguments)
    assert (report["images"], report["share_with_a_face"], report["faces_per_image"]) == (32, 1, 1)
    assert (report["empty_images"], report["false_faces_per_image"]) == (4, 0.25)
    assert report["share_with_a_face_low"] == pytest.approx(0.893, abs=1e-3)  # Wilson of 32 in 32
    assert (report["share_with_a_false_face_low"], report["share_with_a_false_face_high"]) == pytest.approx(
        (0.0456, 0.6994), abs=1e-3
    )


def shard(path: Path, pictures: list[Image.Image], **rows: Any) -> None:
    """Write pictures as a shard: JPEG files end to end."""
    files = []
    for picture in pictures:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=95)
        files.append(np.frombuffer(out.getvalue(), np.uint8))
    np.savez(path, jpeg=np.concatenate(files), start=np.cumsum([0, *map(len, files)]), **rows)


def test_detection_counts_who_is_missed_by_group_and_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frontal = [[70, 40], [90, 40], [80, 50], [72, 58], [88, 58]]
    profile = [[70, 40], [90, 40], [95, 50], [72, 58], [88, 58]]
    labels = {
        "label": np.array([b"north"] * 6 + [b"south"] * 6),
        "box": np.tile(np.float32([64, 32, 96, 64]), (12, 1)),
        "landmarks": np.float32([profile if k % 6 == 5 else frontal for k in range(12)]),
    }
    labels["landmarks"][11] = np.nan
    shard(tmp_path / "faces-000.npz", [person(k, 0, face=False) for k in range(12)], **labels)
    shard(tmp_path / "faces-001.npz", [person(k, 0, face=k not in (0, 5)) for k in range(12)], **labels)
    shard(
        tmp_path / "negatives-x-000.npz",
        [person(k, 1, face=k == 5) for k in range(7)],
        source=np.array([f"s{k}".encode() for k in range(7)]),
        kind=np.array([b"door"] * 6 + [b"statue"]),
    )
    out = tmp_path / "found.npz"
    arguments = ["--shards", tmp_path, "--last", 1, "--empty", tmp_path, "--held-out", "--out", out, *MODELS[:4]]
    report = evaluate(capsys, "detection", *arguments)
    turns = report["shards"]["by_turn"]
    assert {name: (row["pictures"], round(row["nobody_found"] * row["pictures"])) for name, row in turns.items()} == {
        "all": (12, 2),
        "near-frontal": (10, 1),
        "profile": (1, 1),
        "unknown": (1, 0),
    }
    north = report["shards"]["near_frontal_by_group"]["north"]
    assert north == {
        "pictures": 5,
        "nobody_found": 0.2,
        "nobody_found_low": pytest.approx(0.0362, abs=1e-3),
        "nobody_found_high": pytest.approx(0.6245, abs=1e-3),
    }
    assert report["shards"]["worst_group_of_the_near_frontal"] == "north"
    assert {key: report["shards"][f"its_{key}"] for key in north} == north
    assert (report["empty_images"], report["false_faces_per_image"]) == (2, 0.5)  # the first and the sixth
    with np.load(out) as rows:
        assert rows["names"].tolist()[:2] == ["faces-001/0", "faces-001/1"]
        assert rows["found"].tolist() == [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1]
        assert rows["boxes"].shape == (14, 4)
        assert np.isnan(rows["scores"]).tolist() == (rows["found"] == 0).tolist()


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """Enough people for a policy, with six pictures each."""
    for identity in range(44):
        folder = tmp_path / "crowd" / f"person{identity}"
        folder.mkdir(parents=True)
        for take in range(6):
            person(identity, take).save(folder / f"{take}.png", compress_level=0)
    return tmp_path / "crowd"


@pytest.mark.timeout(240)  # it calibrates twice
def test_calibration_writes_a_policy_that_only_the_sites_key_makes_valid(
    crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = SigningKey.generate()
    site.save(tmp_path / "site.key")
    plain, signed, vectors = tmp_path / "policy.json", tmp_path / "policy.jws", tmp_path / "vectors.npz"
    common = ["--images", crowd, "--vectors", vectors, "--refuse", 0, *MODELS]
    report = evaluate(capsys, "calibrate", *common, "--out", plain)
    evaluate(capsys, "calibrate", *common, "--out", signed, "--site-key", tmp_path / "site.key")
    policy = parse_policy(plain.read_bytes())
    assert (report["people"], policy.decision(3).impostors.pairs) == (44, 44 * 43 // 2)
    assert set(report["decisions"]) == {"1/1", "1/3", "3/1", "3/3", "5/3"}
    assert verify_policy(signed.read_text(), site.public, model=policy.model) == policy
    with pytest.raises(PolicyError):
        verify_policy(plain.read_text(), site.public, model=policy.model)

    found = evaluate(capsys, "identification", "--policy", plain, "--target-fpir", 0.01, *common)
    assert (found["mated_people"], found["non_mated_people"], found["target_fpir"]) == (44, 44, 0.01)
    assert set(found["galleries"]) == {"1", "10"}, "no larger gallery than there are people"
    for gallery in found["galleries"].values():
        for rate, low, high in (gallery["fnir"], gallery["fpir"]):
            assert 0 <= low <= rate <= high <= 1
    behind = msgspec.structs.replace(policy, detectors=("sha256:" + "0" * 64,))
    (tmp_path / "behind.json").write_bytes(behind.canonical())
    assert main(["identification", "--policy", str(tmp_path / "behind.json"), *map(str, common)]) == 2
    assert "other detectors" in capsys.readouterr().err
    other = [word if word != "toy-embedder" else "toy-detector" for word in map(str, common)]
    assert main(["identification", "--policy", str(plain), *other]) != 0
    (crowd / "person0" / "0.png").unlink()
    assert main(["identification", "--policy", str(plain), *map(str, common)]) == 2
    assert "other pictures or models" in capsys.readouterr().err


def test_verification_writes_names_and_vectors_with_nan_where_nobody_was_found(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, file = write_pairs(people, without=2), tmp_path / "out.npz"
    evaluate(capsys, "verification", "--images", people, "--pairs", pairs, "--vectors", file, *MODELS)
    with np.load(file) as written:
        names, vectors = written["names"], written["vectors"]
    assert vectors.shape == (len(names), 128)
    lost = {str(name) for name, vector in zip(names, vectors, strict=True) if np.isnan(vector).all()}
    assert lost == {"person0/1.png", "person0/2.png"}
    assert np.allclose(np.linalg.norm(vectors[~np.isnan(vectors).any(1)], axis=1), 1, atol=1e-5)


def test_fairness_measures_within_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for identity in range(12):
        label = "a_north" if identity < 6 else "a_south"
        # the people of the north look alike, the others do not
        person(0 if identity < 6 else identity, identity).save(tmp_path / f"{label}_{identity}.png")
    report = evaluate(capsys, "fairness", "--images", tmp_path, "--threshold", 0.9, *MODELS)
    assert report["groups"]["a_north"]["comparisons"] == 15
    assert report["groups"]["a_north"]["fmr"] == 1
    assert report["groups"]["a_south"]["fmr"] < 0.2
    assert report["worst_fmr"] == 1
    worst = report["worst_to_geometric_mean"]["by label"]
    assert worst["worst"] == "a_north"
    assert worst["ratio"] == pytest.approx(max(report["groups"]["a_south"]["fmr"], 0.5 / 15) ** -0.5)
    assert worst["low"] <= worst["ratio"] <= worst["high"]
    measured = evaluate(capsys, "fairness", "--images", tmp_path, "--far", 0.1, *MODELS)
    assert measured["over_all"]["fmr"] <= 0.1


def test_fairness_of_shards_is_told_by_race_and_among_one_gender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["north_female", "north_male", "south_female", "south_male"] * 4
    faces = [person(0 if k < 8 else k, k) for k in range(16)]
    nowhere = np.full((16, 4), np.nan), np.full((16, 10), np.nan)
    shard(tmp_path / "faces-000.npz", faces, label=np.array(labels, "S"), box=nowhere[0], landmarks=nowhere[1])
    report = evaluate(capsys, "fairness", "--shards", tmp_path, "--threshold", 0.9, *MODELS)
    assert set(report["races"]) == {"north", "south"}
    assert report["races"]["north"]["comparisons"] == 28
    assert report["groups"]["north_male"]["images"] == 4
    assert set(report["worst_to_geometric_mean"]) == {"by label", "by race", "by race, of one gender"}
    with pytest.raises(SystemExit):
        evaluate(capsys, "fairness", "--shards", tmp_path, "--images", tmp_path, *MODELS)


@pytest.mark.timeout(240)  # it calibrates twice
def test_a_card_says_what_the_file_is_and_each_figure_with_its_interval(
    crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.csv"
    rows = [f"person{k}/0.png,person{k}/1.png,1\nperson{k}/0.png,person{k + 1}/0.png,0\n" for k in range(40)]
    pairs.write_text("a,b,same\n" + "".join(rows))
    (tmp_path / "shards").mkdir()
    nowhere = {"box": np.full((16, 4), np.nan), "landmarks": np.full((16, 10), np.nan)}
    labels = np.array(["north_female", "north_male", "south_female", "south_male"] * 4, "S")
    shard(tmp_path / "shards" / "faces-000.npz", [person(k, 1) for k in range(16)], label=labels, **nowhere)
    out, policy = tmp_path / "cards" / "toy.md", tmp_path / "policy.json"
    words = ["--images", crowd, "--pairs", pairs, "--shards", tmp_path / "shards", "--out", out, "--policy", policy]
    report = evaluate(capsys, "card", *words, "--vectors-in", tmp_path / "kept", *MODELS)
    text = out.read_text()
    entry = load_manifest(MANIFEST).entry("toy-embedder")
    assert parse_policy(policy.read_bytes().strip()).model == entry.digest
    for said in (
        entry.digest,
        str(entry.training_data),
        entry.licence,
        f"{report['decisions']['people']} people in 264 pictures",
        "80 pairs",
        "16 labelled pictures",
    ):
        assert said in text
    figures = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| ")}
    low, high = report["pairs"]["accuracy_95"]
    accuracy = report["pairs"]["accuracy"]
    assert figures["| accuracy on balanced pairs"].endswith(f"| {accuracy:.4g} | {low:.4g} to {high:.4g} |")
    single = report["single"]["fnmr_at_fmr"]["0.001"]
    assert figures["| one picture against one, FNMR at FMR 0.001"].endswith(
        f"| {single[0]:.4g} | {single[1]:.4g} to {single[2]:.4g} |"
    )
    assert {
        "| FNIR of the decision, means of 3 and 3, FPIR 0.001 in 1",
        "| worst group's FMR to the geometric mean, by race",
    } <= set(figures)
    assert all(" to " in row for name, row in figures.items() if name != "| measure")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detection", "--images", "{people}", "--models", "absent.yaml"], "cannot read the model manifest"),
        (["detection", "--images", "{people}", "--models", str(MANIFEST)], "no model 'detector-320x240'"),
        (["identification", "--images", "{people}", *MODELS], "measured for another model"),
        (["calibrate", "--images", "{people}", "--out", "{people}/p.json", *MODELS], "too few pictures"),
        (["detection", "--images", "{people}/none", *MODELS[:4]], "no pictures below"),
        (["detection", "--images", "{people}", "--detector", "absent.onnx"], "there is no file absent.onnx"),
        (["detection", "--shards", "{people}", "--last", "0", *MODELS[:4]], "'0' is no whole number from 1 on"),
        (["detection", "--images", "{people}", "--limit", "-1", *MODELS[:4]], "'-1' is no whole number from 1 on"),
        (["identification", "--images", "{people}", "--galleries", "1", "0", *MODELS], "is no whole number from 1 on"),
        (["detection", "--images", "{people}", "--out", "{people}", *MODELS[:4]], "is a folder: name a file in it"),
        (["detection", "--images", "{people}", "--out", "{people}/no/f.npz", *MODELS[:4]], "there is no folder"),
    ],
)
def test_wrong_use_is_one_sentence(
    people: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        status: object = main([argument.format(people=people) for argument in arguments])
    except SystemExit as error:
        status = error.code
    said = f"{status} {capsys.readouterr().err}"
    assert message in said
    assert status != 0


def test_broken_picture_is_named(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (people / "person0" / "0.png").write_bytes(b"no picture")
    assert main(["detection", "--images", str(people), *MODELS[:4]]) == 2
    assert "0.png" in capsys.readouterr().err


@pytest.mark.shared
def test_peers_reach_their_published_order_of_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    data, teachers = shared_folder() / "data", shared_folder() / "models" / "teacher"
    report = evaluate(
        capsys, "verification", "--images", data / "lfw_dev", "--pairs", data / "lfw_dev_pairs.csv", "--limit", 40,
        "--detector", teachers / "yunet_n_dynamic.onnx", "--embedder", teachers / "MobileFaceNet.onnx",
    )  # fmt: skip
    assert report["accuracy"] > 0.9
    assert report["mean_score"]["mated"] > 0.5 > 0.2 > report["mean_score"]["non_mated"]
