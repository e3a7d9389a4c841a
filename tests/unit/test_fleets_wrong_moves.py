# SPDX-License-Identifier: Apache-2.0
"""Wrong moves with invitations, lists, settings and the site's console: each one sentence that says what to do."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.cli import main
from agent.console.server import listen
from agent.errors import PosternError, RefusedError
from tests.simulators.broker import wait_until
from tests.simulators.config import CARD
from tests.simulators.full_disk import LIMITS, no_file_grows_beyond
from tests.simulators.ports import free_port
from tests.simulators.typed import typed

pytestmark = pytest.mark.timeout(300)

ADVISES = re.compile(r": |--|'postern|postern site|choose|give|run |make |set ")
PERSON = re.compile(r"^postern: [^\n]+$")


class Desk:
    """A person at the site's machine, in a folder with two sites and a card."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def site(self, name: str = "hq") -> Path:
        return self.folder / name

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as ended:  # argparse
            status = int(str(ended.code))
        out, err = self._capsys.readouterr()
        return status, out, err

    def does(self, *words: str | Path) -> str:
        status, out, err = self.run(*words)
        assert status == 0, err
        return out + err

    def is_told(self, *words: str | Path) -> str:
        """The one sentence."""
        status, _, err = self.run(*words)
        assert status in {2, 70, 75, 78}, (words, status, err)
        lines = [line for line in err.splitlines() if not line.startswith("usage:") and not line.startswith("  ")]
        assert "Traceback" not in err
        assert len(lines) == 1, err
        assert ADVISES.search(lines[0]), lines[0]
        return lines[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as each test finds it: made once, and copied."""
    folder = tmp_path_factory.mktemp("made")
    nobodys = str(free_port())  # a machine on which these are run may have a broker at the usual one
    for name in ("hq", "other"):
        typed("site", "create", "-f", folder / name, name)
        typed("site", "broker", "-f", folder / name, "127.0.0.1", "--port", nobodys)
        typed("site", "invite", "-f", folder / name, "door-7", "-o", folder / f"{name}.invite")
    (folder / "card.yaml").write_text(CARD)
    return folder


@pytest.fixture
def desk(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


def test_an_invitation_made_twice_says_that_the_first_is_worth_nothing(desk: Desk) -> None:
    said = desk.does("site", "invite", "-f", desk.site(), "door-7", "-o", desk.folder / "again")
    assert "the invitation that door-7 had before is worth nothing now" in said
    assert "before" not in desk.does("site", "invite", "-f", desk.site(), "door-8", "-o", desk.folder / "x")


@pytest.mark.parametrize(
    "words",
    [
        ("invite", "Door 7"),
        ("invite", "door-9", "-o", "nowhere/x"),
        ("invite", "door-9", "-o", "."),
        ("invite", "door-9", "-o", "-"),
        ("invite", "door-9", "-o", "/dev/stdout"),
        ("invite", "door-9", "-o", "pipe"),
        ("invite", "door-9", "--png", "/dev/null"),
        ("invite", "door-9", "--png", "nowhere/x.png"),
        ("invite", "door-9", "--hours", "0"),
        ("invite", "door-9", "--hours", "100000"),
        ("accept", "door-7"),
        ("accept", "../x"),
        ("revoke", "door-8"),
        ("units", "--page", "nowhere/x.html"),
        ("units", "--page", "."),
        ("config", "check", "nofile"),
        ("config", "apply", "hq.invite"),
        ("config", "sign", "door-7"),
        ("root-away", "hq"),
        ("serve", "--page", "nowhere/x.html"),
        ("serve", "--broker", "broker.example.org:1883"),
        ("broker", "broker.example.org:1883"),
        ("console", "--page", "none.html", "--address", "127.0.0.1"),
        ("console", "--page", ".", "--address", "127.0.0.1"),
        ("console", "--page", "hq/site.key", "--address", "127.0.0.1"),
        ("console", "--page", "u.html", "--address", "0.0.0.0"),
        ("console", "--page", "u.html", "--address", "8.8.8.8"),
        ("console", "--page", "u.html", "--address", "broker.example.org"),
        ("console", "--page", "u.html", "--address", "10.99.99.99"),
        ("console", "--page", "u.html", "--address", "127.0.0.1", "--minutes", "0"),
        ("console", "--page", "u.html", "--address", "127.0.0.1", "--port", "99999"),
    ],
    ids=" ".join,
)
def test_a_wrong_word_at_the_site_is_one_sentence_and_leaves_the_invitation_that_was_made(
    desk: Desk, words: tuple[str, ...]
) -> None:
    desk.does("site", "units", "-f", desk.site(), "--page", "u.html")
    os.mkfifo(desk.folder / "pipe")
    before = (desk.site() / "tokens.json").read_bytes()
    act, *rest = words
    folder = ("-f", str(desk.site()))
    desk.is_told("site", act, *((rest[0], *folder, *rest[1:]) if act == "config" else (*folder, *rest)))
    assert (desk.site() / "tokens.json").read_bytes() == before


def test_another_folder_is_no_site(desk: Desk) -> None:
    for act in (
        ["units"],
        ["serve"],
        ["invite", "door-1"],
        ["accept", "door-1"],
        ["delegate"],
        ["config", "check", "x"],
    ):
        words = [act[0], act[1], "-f", "card.yaml", *act[2:]] if act[0] == "config" else [act[0], "-f", ".", *act[1:]]
        desk.is_told("site", *words)


def broken(content: bytes) -> dict[str, bytes]:
    text = content.decode()
    return {
        "cut": content[:100],
        "empty": b"",
        "a letter changed": text[:200].encode() + (b"X" if text[200] != "X" else b"Y") + text[201:].encode(),
        "noise": bytes(range(256)) * 8,
        "a configuration": CARD.encode(),
        "twice": content + content,
    }


@pytest.mark.parametrize("how", ["cut", "empty", "a letter changed", "noise", "a configuration", "twice"])
def test_a_broken_invitation_is_refused_at_the_unit_and_nothing_is_written(desk: Desk, how: str) -> None:
    (desk.folder / "b.invite").write_bytes(broken((desk.folder / "hq.invite").read_bytes())[how])
    desk.is_told("unit", "join", "b.invite", "--keys", "k", "--wait", "0.1")
    desk.is_told("unit", "configure", "card.yaml", "--invitation", "b.invite", "-c", "c.yaml")
    assert not (desk.folder / "c.yaml").exists()
    assert not (desk.folder / "k").exists()


@pytest.mark.parametrize("editor", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\r\n", "\n\n"])
def test_an_editor_on_any_system_breaks_neither_invitation_nor_card(desk: Desk, editor: str, ending: str) -> None:
    for name in ("hq.invite", "card.yaml"):
        file = desk.folder / name
        file.write_bytes((file.read_text().replace("\n", ending) + ending).encode(editor))
    desk.does("unit", "configure", "card.yaml", "--invitation", "hq.invite", "-c", "c.yaml")


def test_capitals_that_a_scanner_made_are_an_invitation(desk: Desk) -> None:
    (desk.folder / "b.invite").write_text((desk.folder / "hq.invite").read_text().upper())
    desk.does("unit", "configure", "card.yaml", "--invitation", "b.invite", "-c", "c.yaml")


def test_the_card_in_the_place_of_the_sites_file_is_told_line_by_line(desk: Desk) -> None:
    status, _, err = desk.run("site", "config", "check", "-f", desk.site(), "card.yaml")
    assert status == 2
    assert all(
        re.match(r"postern: card\.yaml:\d+: .*(nearest valid key|is missing)", line) for line in err.splitlines()
    )


def test_a_folder_or_no_file_in_the_place_of_one_is_told(desk: Desk) -> None:
    for words in (
        ("configure", ".", "--invitation", "hq.invite", "-c", "c.yaml"),
        ("configure", "card.yaml", "--invitation", ".", "-c", "c.yaml"),
        ("configure", "card.yaml", "--invitation", "none", "-c", "c.yaml"),
        ("configure", "card.yaml", "--invitation", "hq.invite", "-c", "nowhere/c.yaml"),
        ("configure", "card.yaml", "--invitation", "hq.invite", "-c", "."),
        ("join", ".", "--keys", "k", "--wait", "0.1"),
        ("join", "none", "--keys", "k", "--wait", "0.1"),
    ):
        desk.is_told("unit", *words)


def test_a_broker_that_is_away_lets_a_unit_wait_and_says_what_for(desk: Desk) -> None:
    said = desk.is_told("unit", "join", "hq.invite", "--keys", "k", "--wait", "0.1")
    assert "nothing listens at 127.0.0.1" in said


@contextmanager
def terminal(encoding: str) -> Iterator[None]:
    before = sys.stdout
    with open(os.devnull, "w", encoding=encoding) as sys.stdout:  # noqa: PTH123
        try:
            yield
        finally:
            sys.stdout = before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso8859-15"])
def test_a_terminal_that_shows_no_code_is_told_so_before_an_invitation_is_made(desk: Desk, encoding: str) -> None:
    before = (desk.site() / "tokens.json").read_bytes()
    with terminal(encoding):
        said = desk.is_told("site", "invite", "-f", desk.site(), "door-7", "--qr", "-o", "y")
    assert "--png FILE" in said
    assert (desk.site() / "tokens.json").read_bytes() == before
    with terminal("utf-8"):
        desk.does("site", "invite", "-f", desk.site(), "door-7", "--qr", "-o", "y")


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_is_one_sentence_and_the_same_act_goes_on_with_room(desk: Desk, limit: int) -> None:
    acts: dict[str, Callable[[], tuple[str | Path, ...]]] = {
        "invite": lambda: ("site", "invite", "-f", desk.site(), "door-9", "-o", "y"),
        "delegate": lambda: ("site", "delegate", "-f", desk.site()),
        "units": lambda: ("site", "units", "-f", desk.site(), "--page", "u.html"),
        "configure": lambda: ("unit", "configure", "card.yaml", "--invitation", "hq.invite", "-c", "c.yaml"),
    }
    for words in acts.values():
        with no_file_grows_beyond(limit):
            status, _, err = desk.run(*words())
        assert status == 0 or PERSON.match(err.splitlines()[-1]), err
        assert "Traceback" not in err
        desk.does(*words())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount")
def test_a_folder_that_is_read_only_is_one_sentence_that_can_be_read(desk: Desk) -> None:
    acts = "invite door-9 -o y", "add-program a1", "delegate", "root-away stick"
    python = f"{sys.executable} -m agent site"
    lines = "; ".join(f"{python} {act.split()[0]} -f hq {' '.join(act.split()[1:])}" for act in acts)
    script = f"mount --bind hq hq && mount -o remount,bind,ro hq || exit 77; {lines}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode == 77:
        pytest.skip("this machine lets nobody mount")
    told = done.stderr.splitlines()
    assert len(told) == len(acts), done.stderr
    for line in told:
        assert PERSON.match(line)
        assert "Read-only file system" in line
        assert "writable for whoever runs this" in line or "make the folder writable" in line


# Root without its rights is as any other user, and can read this program wherever it lies.
AS_ANOTHER = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv")
def test_another_users_site_is_one_sentence_and_its_page_is_shown_without_it(desk: Desk) -> None:
    desk.does("site", "units", "-f", desk.site(), "--page", "u.html")
    for path in (desk.site(), *desk.site().rglob("*")):
        os.chown(path, 12345, 12345)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    python = [*AS_ANOTHER, sys.executable, "-m", "agent", "site"]
    for words in (["units"], ["log"], ["invite", "door-1"], ["accept", "door-7"], ["serve"], ["delegate"]):
        done = subprocess.run(
            [*python, words[0], "-f", "hq", *words[1:]], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == PosternError.exit_status or done.returncode in {2, 78}, done.stderr
        assert PERSON.match(done.stderr), done.stderr
        assert "run this as that user (sudo -u '#12345' postern" in done.stderr
    words = ["console", "-f", "hq", "--page", "u.html", "--address", "127.0.0.1", "--port", str(free_port())]
    with subprocess.Popen([*python, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as shown:
        assert shown.stdout is not None
        assert shown.stdout.readline().startswith(b"https://127.0.0.1:")
        shown.terminate()
        shown.communicate(timeout=60)


def test_a_port_that_is_taken_is_told_before_a_code_is(desk: Desk) -> None:
    desk.does("site", "units", "-f", desk.site(), "--page", "u.html")
    port = free_port()
    with listen("127.0.0.1", port, advice="x"), pytest.raises(RefusedError, match="x"):
        listen("127.0.0.1", port, advice="x")
    with listen("127.0.0.1", port, advice="x"):
        status, out, err = desk.run(
            "site", "console", "--page", "u.html", "--address", "127.0.0.1", "--port", str(port)
        )
    assert (status, out) == (PosternError.exit_status if status == 1 else 2, "")
    assert "code" not in err
    assert "a free port as --port" in err


def test_a_service_that_runs_already_is_told_to_whoever_starts_another(desk: Desk) -> None:
    """Before, each put the other out at the broker, for ever, and the journal said to look at the broker's log."""
    words = [sys.executable, "-m", "agent", "site", "serve", "-f", str(desk.site()), "--broker", "127.0.0.1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr is not None
            assert "127.0.0.1:" in first.stderr.readline()
            told = desk.is_told("site", "serve", "-f", desk.site())
            assert "the site's service runs already: stop it first" in told
            desk.does("site", "units", "-f", desk.site())
        finally:
            first.kill()


def test_two_people_who_invite_at_once_both_get_what_they_asked_for(desk: Desk) -> None:
    python = [sys.executable, "-m", "agent", "site", "invite", "-f", str(desk.site())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen([*python, name, "-o", f"{name}.{n}"], stderr=subprocess.PIPE, text=True, env=environment)
        for n, name in enumerate(("hall-1", "hall-2", "same", "same"))
    ]
    for one in running:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    units = desk.does("site", "units", "-f", desk.site())
    assert all(name in units for name in ("hall-1", "hall-2", "same"))


def sleeps(process: int) -> bool:
    """Whether a process waits in a system call, also a moment later: Python handles a signal that comes just before
    a read only once that has ended."""
    looks = []
    for _ in range(3):
        looks.append(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.02)
    return set(looks) == {"S"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["site", "serve", "-f", "hq"], "nothing listens at 127.0.0.1"),
        (["unit", "request", "-c", "c.yaml"], "enrolment token of this unit: "),
    ],
    ids=["service", "prompt"],
)
def test_ctrl_c_at_a_prompt_or_while_it_waits_ends_it_without_a_word(
    desk: Desk, words: list[str], shown: str, number: int
) -> None:
    desk.does("unit", "configure", "card.yaml", "--invitation", "hq.invite", "-c", "c.yaml")
    ours, its = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "agent", *words]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        try:
            os.close(its)
            told = b""
            while shown.encode() not in told:
                told += os.read(ours, 4096)
            wait_until(lambda: sleeps(process.pid))
            process.send_signal(number)
            with contextlib.suppress(OSError):  # the terminal is gone with its program
                while more := os.read(ours, 4096):
                    told += more
            assert process.wait(60) == 128 + number
        finally:
            process.kill()
    os.close(ours)
    assert len(told.splitlines()) == 1, told
