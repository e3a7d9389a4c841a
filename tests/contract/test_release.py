# SPDX-License-Identifier: Apache-2.0
"""What a release consists of: an archive that anybody builds again byte for byte, and a list of all that is in it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import agent
from tools.lib.release.__main__ import SUMS, compare, main, sums, why_no_release
from tools.lib.release.archive import commit_time, git, make_archive, unpack
from tools.lib.release.bom import PINS, make_bom
from tools.lib.release.changelog import (
    ROOT,
    UNRELEASED,
    ChangelogError,
    Entry,
    disagreements,
    package_version,
    read_changelog,
)

VERSION = agent.__version__
CHANGELOG = (ROOT / "deploy/debian/changelog").read_text()
COMMIT = "0" * 40

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


@pytest.fixture(scope="module")
def archive() -> bytes:
    return make_archive(ROOT, VERSION)


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(make_bom(ROOT, version=VERSION, commit=COMMIT, time=0))
    return found


def test_the_source_archive_is_the_same_bytes_each_time(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "tar.umask")  # somebody's own settings
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0077")
    assert make_archive(ROOT, VERSION) == archive


def test_the_source_archive_holds_the_commit_and_nothing_of_whoever_built_it(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
    files = [member.name for member in members if not member.isdir()]
    committed = git(ROOT, "ls-tree", "-r", "--name-only", "-z", "HEAD").decode().split("\0")[:-1]
    assert files == [f"postern-{VERSION}/{name}" for name in committed]
    assert {member.mtime for member in members} == {commit_time(ROOT)}
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "root", "root")}
    assert {member.mode for member in members} <= {0o644, 0o755}


def test_another_commit_is_another_archive(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    git(tmp_path, "init", "--quiet", str(folder))
    made = []
    for text in ("one", "two"):
        (folder / "file").write_text(text)
        git(folder, "add", "file")
        git(folder, *identity, "commit", "--quiet", "--message", text)
        made.append(make_archive(folder, "1.0.0"))
    (folder / "file").write_text("not committed")
    assert made[0] != made[1] == make_archive(folder, "1.0.0")
    assert (unpack(made[1], tmp_path / "unpacked") / "file").read_text() == "two"


def test_the_bill_of_materials_is_valid_and_the_same_each_time() -> None:
    # Importing them takes a second, and only one of the processes that collect this file runs this test.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    once, again = (make_bom(ROOT, version=VERSION, commit=COMMIT, time=1_764_158_400) for _ in range(2))
    assert once == again
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(once) is None
    assert json.loads(once)["metadata"]["timestamp"].startswith("2025-11-26T12:00:00")


def test_the_bill_of_materials_lists_every_dependency_with_version_and_licence(bom: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["rtsp"]]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted}
    listed = {component["name"]: component for component in bom["components"]}
    assert names <= set(listed)
    libraries = [component for component in bom["components"] if component["type"] == "library"]
    assert all(component["version"] and component["purl"] and licences_of(component) for component in libraries)
    assert {name for name in names if listed[name]["scope"] == "required"} == names - {"av"}


def test_the_bill_of_materials_tells_what_the_debian_package_brings_along(bom: dict[str, Any]) -> None:
    listed = {component["name"]: component["version"] for component in bom["components"] if "version" in component}
    for name in PINS:
        for library, version in re.findall(r"^([a-z0-9-]+)==([0-9.]+) ", (ROOT / name).read_text(), re.MULTILINE):
            assert listed[library] == version


def test_the_bill_of_materials_lists_every_model_with_its_digest(bom: dict[str, Any]) -> None:
    models = {component["name"]: component for component in bom["components"] if component["type"].startswith("mach")}
    manifest = yaml.safe_load((ROOT / "models/manifest.yaml").read_text())["models"]
    assert len(models) == len(manifest)
    for model in manifest:
        (digest,) = models[model["file"]]["hashes"]
        assert digest == {
            "alg": "SHA-256",
            "content": hashlib.sha256((ROOT / "models" / model["file"]).read_bytes()).hexdigest(),
        }
        assert licences_of(models[model["file"]]) == [model["licence"]]


def licences_of(component: dict[str, Any]) -> list[str]:
    """Expressions, SPDX names and, where a library has only that, what it calls its licence."""
    entries = [entry.get("license", entry) for entry in component["licenses"]]
    return [entry.get("expression") or entry.get("id") or entry["name"] for entry in entries]


def test_a_trial_writes_files_that_their_sums_confirm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trial", "--source-only", "--twice", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"postern-{VERSION}.tar.gz",
        f"postern-{VERSION}.cdx.json",
        SUMS,
    }
    subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, check=True, capture_output=True, timeout=30
    )
    assert "built twice, the same bytes" in capsys.readouterr().out


def test_a_commit_without_its_tag_is_no_release(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "deploy/debian").mkdir(parents=True)
    (tmp_path / "agent/__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "deploy/debian/changelog").write_text(CHANGELOG.replace(VERSION, "1.2.3").replace(UNRELEASED, "stable"))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "release")
    assert why_no_release(tmp_path) == ["this commit carries no tag v1.2.3: tag it, or say --trial"]
    git(tmp_path, "tag", "v1.2.3")
    assert why_no_release(tmp_path) == []
    git(tmp_path, "tag", "v1.2.4")
    assert why_no_release(tmp_path) == ["this commit is tagged v1.2.4, agent/__init__.py says 1.2.3"]


def test_a_second_build_that_differs_is_told() -> None:
    assert compare({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3"}) == ["b"]
    assert compare({"a": b"1"}, {}) == ["a"]
    assert sums({"b": b"", "a": b""}).decode().split()[1::2] == ["a", "b"]


def test_the_changelog_says_the_version_of_the_package() -> None:
    assert read_changelog(CHANGELOG)[0].version == package_version(ROOT) == VERSION


@pytest.mark.skipif(shutil.which("dpkg-parsechangelog") is None, reason="needs dpkg-dev")
def test_debians_own_tool_reads_the_changelog_without_a_warning() -> None:
    command = ["dpkg-parsechangelog", "--file", ROOT / "deploy/debian/changelog", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    assert f"Version: {VERSION}\n" in done.stdout


@pytest.mark.parametrize(
    ("newest", "tags", "sentence"),
    [
        (Entry("0.2.0", "stable"), (), "changelog begins with 0.2.0"),
        (Entry("0.1.0", "stable"), ("v0.2.0",), "tagged v0.2.0"),
        (Entry("0.1.0", UNRELEASED), ("v0.1.0",), "still says UNRELEASED"),
    ],
)
def test_versions_that_disagree_are_told(newest: Entry, tags: tuple[str, ...], sentence: str) -> None:
    (found,) = disagreements("0.1.0", newest, tags)
    assert sentence in found


def test_versions_that_agree_are_not() -> None:
    assert disagreements("0.1.0", Entry("0.1.0", UNRELEASED), ()) == []
    assert disagreements("0.1.0", Entry("0.1.0", "stable"), ("v0.1.0",)) == []


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("postern (", "postern(", "line 1"),
        ("  [ Added ]", "  [ Wishes ]", "sections are"),
        ("  * A unit", " * A unit", "line 4"),
        (" -- The", "-- The", "line"),
        ("+0000", "UTC", "line"),
    ],
)
def test_a_changelog_that_debian_could_not_read_is_refused(before: str, after: str, what: str) -> None:
    with pytest.raises(ChangelogError, match=what):
        read_changelog(CHANGELOG.replace(before, after, 1))
