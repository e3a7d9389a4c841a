# SPDX-License-Identifier: Apache-2.0
"""Somebody else's network is fetched, checked and measured at one command; whatever is wrong leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from PIL import Image

from agent.errors import KeyStoreError, ModelError, RefusedError, RetryError
from agent.inference.manifest import load_manifest
from agent.match.policy import parse_policy
from tests.conftest import shared_folder
from tests.simulators.publisher import Publisher, endless, moved, slow, truncated, whole
from tools.lib.convert import fetch, pack
from tools.lib.convert.__main__ import main
from tools.lib.convert.packs import PACKS
from tools.lib.manifest import DEFAULT_MANIFEST

FILE = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(FILE).hexdigest()
OTHER = FILE[:-1] + b"?"
SHIPPED = sorted(PACKS.glob("*.yaml"))
EXTRA = ("tensorflow", "onnx", "onnxruntime")


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    made = Publisher(tmp_path_factory.mktemp("publisher"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def trusted(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine trusts this publisher, as it trusts a real one's authority; and temporary files can be counted."""
    publisher.answers.clear()
    publisher.asked.clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(publisher.authority.ca))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def take(publisher: Publisher, target: Path, **how: Any) -> None:
    fetch.fetch(f"{publisher.url}/file", target, size=len(FILE), sha256=SHA256, **how)


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_the_file_of_the_right_digest_is_fetched_also_where_it_moved_to(publisher: Publisher, tmp_path: Path) -> None:
    publisher.answers |= {"/file": moved(f"{publisher.url}/there"), "/there": whole(FILE)}
    take(publisher, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == FILE
    assert publisher.asked == ["/file", "/there"]


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (whole(OTHER), ModelError, "was replaced or altered, and nothing of it was read"),
        (whole(FILE + b"!"), ModelError, "sends 256001 bytes and the pack names 256000: nothing was read"),
        (endless, ModelError, "more than the 256000 bytes that the pack names"),
        (truncated(FILE, 1000), RetryError, "ended after 1000 of 256000 bytes: fetch it again"),
        (whole(b""), RetryError, "ended after 0 of 256000 bytes"),
        (moved("http://127.0.0.1:9/file"), ModelError, "which is not https"),
        (moved("file:///etc/passwd"), RetryError, "answers 302"),
        (moved("/file"), RetryError, "answers 302"),
    ],
    ids=["another file", "too large", "endless", "truncated", "empty", "to http", "to a file", "in a circle"],
)
def test_another_file_than_the_packs_is_not_kept(
    answer: Any, kind: type[Exception], said: str, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.answers["/file"] = answer
    with pytest.raises(kind, match=said):
        take(publisher, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_server_that_is_not_there_or_knows_nothing_is_told_with_another_way(
    publisher: Publisher, tmp_path: Path
) -> None:
    with pytest.raises(RetryError, match=r"127\.0\.0\.1 answers 404 Not Found\. Or fetch https://.* --model FILE"):
        take(publisher, tmp_path / "a")
    with pytest.raises(RetryError, match=r"cannot be read \(.*refused\): check the network\. Or fetch"):
        fetch.fetch("https://127.0.0.1:9/file", tmp_path / "a", size=1, sha256=SHA256)


def test_a_server_that_says_nothing_more_is_left_in_time(publisher: Publisher, tmp_path: Path) -> None:
    over = threading.Event()
    publisher.answers["/file"] = slow(over)
    with pytest.raises(RetryError, match=r"did not send the file within 0\.3 s"):
        take(publisher, tmp_path / "a", deadline_s=0.3)
    over.set()


def test_a_server_that_this_machine_does_not_trust_is_not_read(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    publisher.answers["/file"] = whole(FILE)
    with pytest.raises(KeyStoreError, match="does not trust"):
        take(publisher, tmp_path / "a")
    assert publisher.asked == []


# --- packs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_pack_is_complete_and_of_a_free_licence(path: Path) -> None:
    read = pack.read_pack(path.stem)
    assert read.name == path.stem
    assert read.licence == "Apache-2.0"
    assert read.name not in {entry.name for entry in load_manifest(DEFAULT_MANIFEST).entries}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "file"), [("mobilefacenet", "MobileFaceNet.onnx"), ("yunet", "yunet_n_dynamic.onnx")])
def test_the_digest_of_a_shipped_pack_is_that_of_the_network(name: str, file: str, tmp_path: Path) -> None:
    read = pack.read_pack(name)
    source = shared_folder() / "models" / "teacher" / file
    fetch.copy(source, tmp_path / "a", size=read.size, sha256=read.sha256)
    assert (tmp_path / "a").read_bytes() == source.read_bytes()


def plain(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(pack.read_pack("mobilefacenet"))
    return {key: value for key, value in (told | changes).items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "http://example.org/a.onnx"},
        {"address": "file:///etc/passwd"},
        {"sha256": "b7120c"},
        {"size": 10**12},
        {"name": "../embedder"},
        {"decoder": "age"},
        {"licence": None},
        {"run": "rm"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_pack_that_says_too_little_or_too_much_is_refused(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(plain(**changes)))
    assert main(["--pack", str(tmp_path / "a.yaml"), "--pictures", str(tmp_path)]) == 2
    assert "a.yaml is not an acceptable pack: " in one_sentence(capsys)


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    told = err.splitlines()[-1]
    assert told.startswith(("tools/convert: ", "Type ")), told
    assert "Traceback" not in err
    return told


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Pictures of as many people as a policy takes at least. Nobody is on them: whatever reads them is not reached."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    for person in range(pack.MIN_PEOPLE):
        folder = tmp_path / "faces" / f"p{person:02}"
        folder.mkdir(parents=True)
        for picture in range(pack.CAPTURES):
            (folder / f"{picture}.png").write_bytes(content.getvalue())
    return tmp_path / "faces"


@pytest.fixture
def command(publisher: Publisher, tmp_path: Path, faces: Path) -> Callable[..., int]:
    def run(*more: str, **changes: Any) -> int:
        described = plain(name="made", address=f"{publisher.url}/file", size=len(FILE), sha256=SHA256) | changes
        (tmp_path / "made.yaml").write_text(yaml.safe_dump(described))
        words = ["--pack", str(tmp_path / "made.yaml"), "--manifest", str(tmp_path / "out" / "manifest.yaml"), *more]
        status = main(words if "--pictures" in more else [*words, "--pictures", str(faces)])
        if status:
            assert not (tmp_path / "out").exists()
            assert list((tmp_path / "temporary").glob("convert-*")) == []
        return status

    return run


@pytest.mark.parametrize("answer", ["", "yes\n", "MIT\n", "Apache\n"], ids=["nobody", "yes", "another", "half"])
def test_without_its_licence_accepted_nothing_is_fetched(
    answer: str,
    command: Callable[..., int],
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publisher.answers["/file"] = whole(FILE)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert command() == 2
    out, err = capsys.readouterr()
    assert "learned from refined MS-Celeb-1M" in err
    assert err.count("LICENSE") == 2
    assert "the licence of made was not accepted, and nothing was fetched: read https://" in err.splitlines()[-1]
    assert out == ""
    assert command("--accept-licence", "MIT") == 2
    assert publisher.asked == []


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (whole(OTHER), 2, "replaced or altered"),
        (truncated(FILE, 1000), 75, "ended after 1000"),
        (endless, 2, "more than the 256000 bytes"),
        (None, 75, "answers 404"),
    ],
    ids=["wrong digest", "truncated", "huge", "gone"],
)
def test_what_is_wrong_with_the_file_is_one_sentence_and_nothing_is_written(
    answer: Any,
    status: int,
    said: str,
    command: Callable[..., int],
    publisher: Publisher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if answer is not None:
        publisher.answers["/file"] = answer
    assert command("--accept-licence", "Apache-2.0") == status
    assert said in one_sentence(capsys)


def test_a_file_fetched_by_other_means_is_checked_as_well(
    command: Callable[..., int], tmp_path: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(OTHER)
    assert command("--accept-licence", "Apache-2.0", "--model", str(tmp_path / "file")) == 2
    assert "replaced or altered" in one_sentence(capsys)
    assert publisher.asked == []


def test_pictures_are_asked_for_before_anything_is_fetched(
    command: Callable[..., int], faces: Path, tmp_path: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    read = pack.read_pack("mobilefacenet")
    with pytest.raises(
        RefusedError, match="mobilefacenet needs pictures of faces like those of your cameras: give --p"
    ):
        pack.check_material(read, None, None)
    few = tmp_path / "few"
    few.mkdir()
    assert command("--pictures", str(tmp_path / "absent")) == 2
    assert "there is no folder" in one_sentence(capsys)
    assert command("--pictures", str(few)) == 2
    assert "few holds 0 pictures; at least 20, better some hundred" in one_sentence(capsys)
    for picture in faces.rglob("0.png"):
        (few / f"{picture.parent.name}.png").write_bytes(picture.read_bytes())
    assert command("--people", str(few)) == 2
    assert "few holds 1 people with 3 pictures or more; the policy is measured on 36" in one_sentence(capsys)
    assert publisher.asked == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mean", "1"], "the pack says --mean itself"),
        (["--licence", "MIT"], "the pack says --licence itself"),
        (["--aligned"], "leave --aligned out"),
    ],
)
def test_what_the_pack_says_is_not_said_otherwise(
    words: list[str], said: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert said in one_sentence(capsys)


def test_without_a_pack_the_model_has_to_be_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "give --pack NAME, or --model" in one_sentence(capsys)
    assert main(["--pack", "nobody"]) == 2
    assert "there is no pack 'nobody'; there are mobilefacenet, sface, yunet" in one_sentence(capsys)


# --- with the extra ---------------------------------------------------------------------------------------------------


def need_extra() -> None:
    for module in EXTRA:
        pytest.importorskip(module, reason="needs the extra convert")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)  # loading TensorFlow takes its time
def test_a_network_of_other_operators_is_refused_by_their_names(
    command: Callable[..., int], publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    need_extra()
    import onnx  # noqa: PLC0415 - only with the extra

    picture = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 112, 112))
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 3, 112, 112))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Softsign", ["x"], ["y"])], "g", [picture], [answer])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    for content, said in ((model.SerializeToString(), "made.onnx uses Softsign"), (FILE, "is not an ONNX model")):
        publisher.answers["/file"] = whole(content)
        digest = hashlib.sha256(content).hexdigest()
        assert command("--accept-licence", "Apache-2.0", size=len(content), sha256=digest) == 2
        assert said in one_sentence(capsys)


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)  # a whole conversion, and the pictures of all people through the stages
def test_a_network_is_fetched_converted_measured_and_listed_with_its_policy(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_extra()
    shared = shared_folder()
    publisher.answers["/file"] = whole((shared / "models" / "teacher" / "MobileFaceNet.onnx").read_bytes())
    (tmp_path / "mobilefacenet.yaml").write_text(yaml.safe_dump(plain(address=f"{publisher.url}/file")))
    out = tmp_path / "out" / "manifest.yaml"
    words = ["--pack", str(tmp_path / "mobilefacenet.yaml"), "--manifest", str(out), "--limit", "60"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Apache-2.0\n"))
    assert main([*words, "--pictures", str(shared / "data" / "lfw_dev")]) == 0, capsys.readouterr().err
    (entry,) = load_manifest(out).entries
    policy = parse_policy(out.with_name("policy-mobilefacenet.json").read_bytes())
    assert (entry.name, entry.licence, entry.training_data) == ("mobilefacenet", "Apache-2.0", "refined MS-Celeb-1M")
    assert policy.model == entry.digest
    assert policy.single.people > 500
    assert "postern site policy" in capsys.readouterr().out
    assert list((tmp_path / "temporary").glob("convert-*")) == []
