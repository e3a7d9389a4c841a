# SPDX-License-Identifier: Apache-2.0
"""The signed repository of releases with Debian's own apt: what it takes, what it refuses, who gets what first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.lib.release.__main__ import main
from tools.lib.release.repository import ARCHITECTURES, NEEDS, RepositoryError, publish

UPDATES = Path(__file__).parents[2] / "deploy" / "updates"

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in (*NEEDS, "apt-get")), reason="needs apt, apt-utils and gpg"
    ),
]


class Maintainer:
    """Who has the signing key, and packages that stand for releases."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, folder / "apt"
        home = folder / "gnupg"
        home.mkdir(mode=0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        self.key = self.make_key("releases@example.org")
        self.ring = self.export(self.key)

    def make_key(self, name: str) -> str:
        gpg("--quick-gen-key", "--passphrase", "", "--pinentry-mode", "loopback", name, "ed25519", "sign", "never")
        lines = gpg("--list-keys", "--with-colons", name).splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr"))

    def export(self, key: str) -> Path:
        ring = self.folder / f"{key}.gpg"
        gpg("--output", str(ring), "--export", key)
        return ring

    def package(self, version: str, arch: str | None = None, text: str = "") -> list[Path]:
        made = []
        for architecture in ARCHITECTURES if arch is None else (arch,):
            tree = self.folder / "tree"
            shutil.rmtree(tree, ignore_errors=True)
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "usr/lib/postern").mkdir(parents=True)
            (tree / "usr/lib/postern/version").write_text(version + text)
            (tree / "DEBIAN/control").write_text(
                f"Package: postern\nVersion: {version}\nArchitecture: {architecture}\n"
                "Maintainer: Nobody <nobody@example.org>\nDescription: stands for a release\n"
            )
            out = self.folder / f"postern_{version}_{architecture}.deb"
            words = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(out)]
            subprocess.run(words, check=True, capture_output=True)
            made.append(out)
        return made


class Unit:
    """A machine with the repository in its sources; apt works below ``root`` alone."""

    config: Path | None

    def __init__(self, folder: Path, repository: Path, ring: Path, suite: str = "stable") -> None:
        self.root, self.config = folder, None
        for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg/info"):
            (folder / name).mkdir(parents=True)
        for name in ("var/cache/apt/archives/partial", "var/log/apt", "var/lib/dpkg/updates", "etc/apt/keyrings"):
            (folder / name).mkdir(parents=True)
        (folder / "var/lib/dpkg/status").touch()
        source = folder / "etc/apt/sources.list"
        source.write_text(f"deb [signed-by={ring} arch=amd64] file:{repository} {suite} main\n")
        self.options = {
            "Dir": str(folder),
            "Dir::State::status": str(folder / "var/lib/dpkg/status"),
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "Dpkg::Options::": f"--root={folder}",
            "Dpkg::Use-Pty": "false",
        }

    def ship(self) -> None:
        """Put the files of ``deploy/updates`` in their places, as its README says."""
        source = (UPDATES / "postern.sources").read_text()
        line = (self.root / "etc/apt/sources.list").read_text()
        ring, repository = line.split("signed-by=")[1].split()[0], line.split("file:")[1].split()[0]
        folder = self.root / "etc/apt/sources.list.d"
        folder.mkdir()
        source = source.replace("https://packages.example.org/postern", f"file:{repository}")
        (folder / "postern.sources").write_text(source.replace("/etc/apt/keyrings/postern.gpg", ring))
        (self.root / "etc/apt/sources.list").write_text("")
        self.options["Dir::Etc::sourceparts"] = str(folder)
        kept = (UPDATES / "60postern-keep").read_text().replace("/usr/lib/postern/upgrade", str(UPDATES / "upgrade"))
        self.config = self.root / "apt.conf"
        self.config.write_text(kept + (UPDATES / "60postern-unattended").read_text())

    def apt(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        options = [word for name, text in self.options.items() for word in ("-o", f"{name}={text}")]
        return subprocess.run(
            [program, *options, *words],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "LC_ALL": "C",
                "DEBIAN_FRONTEND": "noninteractive",
                "POSTERN_ROOT": str(self.root),
                **({"APT_CONFIG": str(self.config)} if self.config else {}),
            },
        )

    def update(self) -> str:
        done = self.apt("apt-get", "update", "--error-on=any")
        return "" if done.returncode == 0 else done.stderr

    def candidate(self) -> str:
        lines = self.apt("apt-cache", "policy", "postern").stdout.splitlines()
        return next((line.split()[-1] for line in lines if "Candidate" in line), "none")

    def install(self, *words: str) -> None:
        done = self.apt("apt-get", "install", "-y", *words)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def installed(self) -> str:
        return (self.root / "usr/lib/postern/version").read_text()


def gpg(*words: str) -> str:
    return subprocess.run(["gpg", "--batch", "--quiet", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def maintainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maintainer:
    return Maintainer(tmp_path, monkeypatch)


def test_one_unit_goes_first_the_others_follow_what_was_promoted_and_any_can_go_back(
    maintainer: Maintainer, tmp_path: Path
) -> None:
    for version in ("0.1.0", "0.2.0"):
        publish(maintainer.root, maintainer.key, maintainer.package(version))
    publish(maintainer.root, maintainer.key, promote="0.1.0")
    first = Unit(tmp_path / "first", maintainer.root, maintainer.ring, "first")
    other = Unit(tmp_path / "other", maintainer.root, maintainer.ring)
    assert first.update() == other.update() == ""
    assert (first.candidate(), other.candidate()) == ("0.2.0", "0.1.0")
    first.install("postern")
    other.install("postern")
    assert (first.installed, other.installed) == ("0.2.0", "0.1.0")
    assert publish(maintainer.root, maintainer.key, promote="0.2.0") == ["0.1.0", "0.2.0"]
    assert other.update() == ""
    other.install("postern")
    assert other.installed == "0.2.0"
    other.install("--allow-downgrades", "postern=0.1.0")
    assert other.installed == "0.1.0"


def test_a_package_an_index_or_a_signature_that_somebody_changed_is_refused(
    maintainer: Maintainer, tmp_path: Path
) -> None:
    publish(maintainer.root, maintainer.key, maintainer.package("0.1.0"), promote="0.1.0")
    stranger = maintainer.export(maintainer.make_key("somebody@example.org"))
    assert "NO_PUBKEY" in Unit(tmp_path / "a", maintainer.root, stranger).update()
    index = maintainer.root / "dists/stable/main/binary-amd64/Packages"
    whole = index.read_text()
    index.write_text(whole.replace("0.1.0", "9.9.9"))
    assert Unit(tmp_path / "b", maintainer.root, maintainer.ring).update()
    index.write_text(whole)
    unit = Unit(tmp_path / "c", maintainer.root, maintainer.ring)
    assert unit.update() == ""
    package = maintainer.root / "pool/postern_0.1.0_amd64.deb"
    package.write_bytes(package.read_bytes() + b"\0")
    assert unit.apt("apt-get", "install", "-y", "postern").returncode != 0
    signed = maintainer.root / "dists/stable/InRelease"
    signed.write_text(signed.read_text().replace("Suite: stable", "Suite: first"))
    assert Unit(tmp_path / "d", maintainer.root, maintainer.ring).update()


def test_wrong_moves_are_answered_in_one_sentence_and_change_nothing(
    maintainer: Maintainer, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(maintainer.root, maintainer.key, maintainer.package("0.1.0"))
    before = (maintainer.root / "dists/first/InRelease").read_bytes()
    with pytest.raises(RepositoryError, match="never replaced"):
        publish(maintainer.root, maintainer.key, maintainer.package("0.1.0", "amd64", "other"))
    with pytest.raises(RepositoryError, match=r"no release 9\.9\.9 to promote; there are: 0\.1\.0"):
        publish(maintainer.root, maintainer.key, promote="9.9.9")
    with pytest.raises(RepositoryError, match="no package of a release"):
        publish(maintainer.root, maintainer.key, [maintainer.ring])
    with pytest.raises(RepositoryError, match="gpg failed"):
        publish(maintainer.root, "0" * 40, maintainer.package("0.2.0"))
    assert (maintainer.root / "dists/first/InRelease").read_bytes() == before
    empty = maintainer.folder / "empty"
    for words in (["--repository", str(maintainer.root)], ["--promote", "0.1.0"]):
        assert main(words) == 2
    assert main([str(empty), "--repository", str(maintainer.root), "--key", maintainer.key]) == 2
    assert all(line.startswith("tools/release: ") for line in capsys.readouterr().err.splitlines())


def test_with_the_shipped_files_apt_keeps_what_it_installs_and_opens_a_trial(
    maintainer: Maintainer, tmp_path: Path
) -> None:
    publish(maintainer.root, maintainer.key, maintainer.package("0.1.0"), promote="0.1.0")
    unit = Unit(tmp_path / "unit", maintainer.root, maintainer.ring)
    unit.ship()
    assert unit.update() == ""
    unit.install("postern")
    publish(maintainer.root, maintainer.key, maintainer.package("0.2.0"), promote="0.2.0")
    assert unit.update() == ""
    unit.install("postern")
    state = unit.root / "var/lib/postern-upgrade"
    assert {path.name for path in (state / "packages").iterdir()} == {"postern_0.1.0.deb", "postern_0.2.0.deb"}
    assert (state / "trial").read_text().split()[:2] == ["0.1.0", "0.2.0"]
    dump = unit.apt("apt-config", "dump").stdout
    assert 'Unattended-Upgrade::Origins-Pattern:: "origin=Postern";' in dump
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dump
    release = (maintainer.root / "dists/stable/Release").read_text()
    assert "Origin: Postern\n" in release
