# SPDX-License-Identifier: Apache-2.0
"""One command trains the embedder on what there is, goes on where it stopped, and ends with what a unit loads."""

from __future__ import annotations

import argparse
import csv
import importlib
import shutil
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import RefusedError
from agent.inference.manifest import load_manifest
from agent.match.policy import parse_policy
from tests.conftest import shared_folder

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]  # TensorFlow's own imports warn

for extra in ("torch", "tensorflow", "cv2", "onnx", "onnxruntime"):
    pytest.importorskip(extra, reason="needs the extra train")
torch = importlib.import_module("torch")
centre = importlib.import_module("tools.lib.train.centre")
checkpoints = importlib.import_module("tools.lib.train.checkpoints")
embedder = importlib.import_module("tools.lib.train.embedder")
loop = importlib.import_module("tools.lib.train.loop")
precision = importlib.import_module("tools.lib.train.precision")
program = importlib.import_module("tools.lib.train.__main__")

MODELS = Path(__file__).parents[2] / "models"
SMALL = (1, 1, 1)  # blocks
PEOPLE, EACH = 50, 6  # of LFW: what a policy needs at least
CROPS = 64  # in a shard


def batch(count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (count, 112, 112, 3), dtype=np.uint8),
        rng.normal(size=(count, 128)).astype(np.float16),
        rng.integers(-90, 90, (count, 14, 14, 128), dtype=np.int8),
        rng.integers(-90, 90, (count, 7, 7, 128), dtype=np.int8),
    )


def pool_in(folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        for name, array in zip(("image", "embedding", "map14", "map7"), batch(CROPS, number), strict=True):
            np.save(folder / f"{name}-{number:04d}.npy", array)
    return folder


def options(run: Path, steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loop.add_options(parser, steps=steps, batch=1)
    return argparse.Namespace(**vars(parser.parse_args([])), run=run)


# --- where and how often ----------------------------------------------------------------------------------------------


def test_a_gpu_is_taken_where_there_is_one_and_the_processor_else() -> None:
    assert precision.best_device(gpu=True).type == "cuda"
    assert precision.best_device(gpu=False).type == "cpu"
    assert precision.best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_turn_computes_everything_on_the_device_of_the_student() -> None:
    """Without a GPU at hand: the device of tensors without contents refuses to be mixed with another as a GPU does."""
    away = torch.device("meta")
    student = embedder.Student(embedder.EmbedderNet(depths=SMALL), 128, 192).to(away)
    now = loop.Turn(0, 0.0, np.random.default_rng(0), torch.Generator())
    terms, loss = embedder.cost(student, batch(4), now, 1.0, away)
    assert (terms.device, loss.device) == (away, away)
    loss.backward()


def test_a_checkpoint_is_written_every_few_minutes_however_slow_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = torch.nn.Linear(2, 2)
    args = options(tmp_path, steps=50)

    def turn(now: Any) -> Any:
        if now.step == 7:
            raise KeyboardInterrupt
        loss = net(torch.ones(1, 2)).square().mean()
        return loss[None], loss

    def train(**how: Any) -> None:
        loop.train(net, args, turn, lambda _: "", decay=0.9, every=1000, **how)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not (tmp_path / "last.pt").exists()  # seven steps of no time
    with pytest.raises(KeyboardInterrupt):
        train(save_s=0.0)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 7
    with pytest.raises(KeyboardInterrupt):
        train()
    assert "from step 7" in capsys.readouterr().out.splitlines()[-1]


# --- one command from weights to card ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A part of LFW and of FairFace, small enough to be measured in a test."""
    folder, shared = tmp_path_factory.mktemp("data"), shared_folder() / "data"
    dev = folder / "dev"
    known = ((one, sorted(one.glob("*.jpg"))) for one in sorted((shared / "lfw_dev").iterdir()))
    for person, photos in islice(((p, photos) for p, photos in known if len(photos) >= EACH), PEOPLE):
        (dev / person.name).mkdir(parents=True)
        for photo in photos[:EACH]:
            (dev / person.name / photo.name).symlink_to(photo)
    with (shared / "lfw_dev_pairs.csv").open() as read, (folder / "pairs.csv").open("w", newline="") as write:
        rows = csv.DictReader(read)
        kept = csv.DictWriter(write, ["a", "b", "same"])
        kept.writeheader()
        kept.writerows(row for row in rows if all((dev / row[side]).exists() for side in "ab"))
        people = sorted(dev.iterdir())
        kept.writerows(
            {"a": str(first), "b": str(second), "same": same}
            for one, other in pairwise(people)
            for first, second, same in (
                (*(p.relative_to(dev) for p in sorted(one.iterdir())[:2]), 1),
                (*(min(p.iterdir()).relative_to(dev) for p in (one, other)), 0),
            )
        )
    (folder / "fairface").mkdir()
    with np.load(max((shared / "fairface").glob("faces-*.npz"))) as shard:
        first = {key: shard[key][:40] for key in ("label", "box", "landmarks")}
        np.savez(folder / "fairface" / "faces-000.npz", **first, start=shard["start"][:41], jpeg=shard["jpeg"])
    return {"dev": dev, "pairs": folder / "pairs.csv", "shards": folder / "fairface"}


@pytest.mark.shared
def test_one_command_goes_on_from_the_shipped_weights_and_ends_with_what_a_unit_loads(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for file in (path for path in MODELS.iterdir() if path.is_file()):
        shutil.copy(file, models)
    before = load_manifest(models / "manifest.yaml").entry("embedder")
    command = ["embedder", pool_in(tmp_path / "pool"), tmp_path / "run", "--batch", 8, "--rate", 1e-7]
    command += ["--dev", data["dev"], "--shards", data["shards"], "--teachers", shared_folder() / "models" / "teacher"]
    assert program.main([str(word) for word in (*command, "--steps", 1)]) == 0
    told = capsys.readouterr().out
    cosines = dict(zip(words := told.split("cosine ")[1].split()[:8], words[1:], strict=False))
    assert set(cosines) >= {"seen", "unseen", "dev", "fairface"}
    assert float(cosines["dev"]) > 0.8  # it began with the shipped weights: random ones reach 0.1
    assert float(cosines["fairface"]) > 0.75

    shipping = ["--steps", 2, "--ship", data["pairs"], "--manifest", models / "manifest.yaml"]
    assert program.main([str(word) for word in (*command, *shipping)]) == 0
    assert "from step 1" in capsys.readouterr().out
    entry = load_manifest(models / "manifest.yaml").entry("embedder")
    assert entry.sha256 != before.sha256
    assert (entry.training_data, entry.teacher) == (before.training_data, before.teacher)
    assert parse_policy((models / "policy.json").read_bytes().strip()).model == entry.digest
    card = (models / "cards" / "embedder.md").read_text()
    assert entry.digest in card
    assert "| one picture against one, FNMR at FMR 0.001 | 0" in card
    kept = models / "train" / "embedder.pt"
    assert kept.stat().st_size <= 4_000_000
    assert set(checkpoints.opened(kept)["average"]) == set(checkpoints.opened(tmp_path / "run" / "last.pt")["average"])


def test_a_start_is_kept_in_four_megabytes_and_computes_what_the_training_did(tmp_path: Path) -> None:
    images = embedder.to_input(batch(8)[0])
    for depths, least in ((SMALL, 0.99999), ((1, 4, 2), 0.998)):  # the deeper one would have 5.3 MB as float16
        torch.manual_seed(1)
        student = embedder.Student(embedder.EmbedderNet(depths=depths), 128, 192)
        checkpoints.keep(tmp_path / "kept.pt", student)
        assert (tmp_path / "kept.pt").stat().st_size <= 4_000_000
        again = embedder.Student(embedder.EmbedderNet(depths=depths), 128, 192)
        checkpoints.begin_from(tmp_path / "kept.pt", again)
        like = embedder.Student.like(checkpoints.opened(tmp_path / "kept.pt")["average"])
        with torch.no_grad():
            wanted = student.eval().net(images)
            for net in (again, like):
                found = torch.nn.functional.cosine_similarity(net.eval().net(images), wanted)
                assert found.min() > least


def test_what_could_not_be_shipped_after_hours_is_refused_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,same\n")
    words = ["embedder", str(tmp_path), str(tmp_path / "run"), "--ship", str(tmp_path / "pairs.csv")]
    assert program.main(words) == 2
    assert "give --dev and --shards too" in capsys.readouterr().err
    assert program.main([*words, "--dev", str(tmp_path), "--shards", str(tmp_path), "--name", "nobody"]) != 0
    assert "nobody" in capsys.readouterr().err
    measured = ["--dev", str(tmp_path), "--shards", str(tmp_path)]
    assert program.main([*words, *measured, "--centre", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- regions ----------------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int, around: np.ndarray | None = None) -> np.ndarray:
    """Unit vectors (count, 128), anywhere or near one."""
    found = np.random.default_rng(seed).normal(size=(count, 128))
    found = found if around is None else around + 0.02 * found
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def test_each_person_counts_once_and_a_mean_of_few_is_not_kept() -> None:
    people = drawn(300, 1)
    album = drawn(40, 2, around=people[7])  # forty photos of one of them
    assert len(centre.one_each(np.concatenate([people, album]))) == 300
    crowd, pair = drawn(50, 3, around=people[0]), drawn(3, 4, around=people[1])
    means = centre.means_of(np.concatenate([crowd, drawn(50, 5, around=people[2]), pair]), 3)
    assert len(means) == 2
    assert np.allclose(np.linalg.norm(means, axis=1), 1, atol=1e-5)
    assert (means @ people[[0, 2]].T).max(0).min() > 0.95
    assert (means @ people[1]).max() < 0.5
    assert np.array_equal(means, centre.means_of(np.concatenate([crowd, drawn(50, 5, around=people[2]), pair]), 3))


@pytest.mark.shared
def test_too_few_people_make_no_regions(data: dict[str, Path]) -> None:
    with pytest.raises(RefusedError, match="256 means need 2560 or more"):
        centre.vectors(MODELS / "manifest.yaml", "embedder-synthetic", data["shards"], 0, [data["dev"]])
