# SPDX-License-Identifier: Apache-2.0
"""A disk whose power fails after any step, made from the record of what a program really did to its files.

``record`` runs a program under ``trace_writes.c``. ``crashes`` walks through the record and yields, for
each step, contents that the folder may have when the power fails there: what was written and not yet
fsynced may be on the disk, or not, or torn in the middle of a write; names that were not made durable by an fsync
of their folder may be the old ones (the order of changes to names is kept, as journalling file systems
do). This is the model of Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, without
reordering of names.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("trace_writes.c")


@dataclass(frozen=True)
class Step:
    """One thing that was done: ``op`` on path ``a`` (relative to the folder)."""

    op: str
    a: str
    b: str
    data: bytes


@dataclass(frozen=True)
class Crash:
    """The power fails after ``step`` steps: what is on the disk then, and what the program had promised by then.

    ``files`` are by name; that of a folder, which may be empty, ends with a slash, and that of a link with an at sign:
    its content is where it leads.
    """

    step: int
    kind: str
    files: dict[str, bytes]
    marks: tuple[str, ...]

    def digest(self) -> bytes:
        """The same for the same files and promises."""
        digest = hashlib.sha256(repr(self.marks).encode())
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.digest()

    def restore(self, folder: Path) -> None:
        """Make ``folder`` hold exactly what is on the disk."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (folder / name).mkdir(exist_ok=True)
                continue
            if name.endswith("@"):
                (folder / name[:-1]).symlink_to(content.decode())
                continue
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)


def record(arguments: list[str], folder: Path, work: Path, *, timeout_s: float = 50) -> list[Step]:
    """Run ``python *arguments`` and return what it did below ``folder``; the test is skipped without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) to record writes")
    library, trace = work / "trace_writes.so", work / "trace"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "POSTERN_TRACE_ROOT": str(folder.resolve()),
        "POSTERN_TRACE_FILE": str(trace),
    }
    subprocess.run([sys.executable, *arguments], check=True, env=environment, timeout=timeout_s)
    return _parse(trace.read_bytes())


def mark(text: str) -> None:
    """In the recorded program: say what has been promised so far. Without a recorder, do nothing."""
    function = getattr(ctypes.CDLL(None), "postern_mark", None)
    if function is not None:
        function(text.encode())


def crashes(
    steps: list[Step],
    *,
    seed: int,
    every: int = 1,
    torn: int = 2,
    machines: tuple[str, ...] = ("",),
    unordered: tuple[str, ...] = (),
) -> Iterator[Crash]:
    """Possible contents of the disk after every ``every``-th step: all kept, all lost, and ``torn`` random mixtures.

    Each once: where nothing waits for an fsync they are all the same, and often they are what was there a step before.
    ``machines`` are those of which each has a disk of its own, for what lies in the folder of its name: the power
    fails at one of them at a time, and of the others everything is kept. Those of ``unordered`` have no journal: of
    names that were changed later some may be kept and earlier ones lost.
    """
    disks = {name: _Disk(ordered=name not in unordered) for name in machines}
    marks: list[str] = []
    rng = random.Random(seed)
    known: set[bytes] = set()
    for number, step in enumerate(steps, start=1):
        if step.op == "mark":
            marks.append(step.data.decode())
            continue
        where = machines[0] if len(machines) == 1 else step.a.partition("/")[0]
        for name, disk in disks.items():
            if name == where or step.op == "sync":
                disk.apply(step)
        if number % every and number != len(steps):
            continue
        promised = tuple(marks)
        for name, disk in disks.items():
            others = {
                path: content
                for other, its in disks.items()
                if other != name
                for path, content in its.after_crash(lambda: 1.0, len(its.renames)).items()
            }
            for crash in _fails(number, disk, others, promised, rng, torn):
                if (digest := crash.digest()) not in known:
                    known.add(digest)
                    yield crash
    assert known, "nothing was written while it was recorded: what is tried here proves nothing"


def _fails(
    number: int,
    disk: _Disk,
    others: dict[str, bytes],
    promised: tuple[str, ...],
    rng: random.Random,
    torn: int,
) -> Iterator[Crash]:
    """What ``disk`` may hold when its power fails now."""
    yield Crash(number, "kept", others | disk.after_crash(lambda: 1.0, len(disk.renames)), promised)
    yield Crash(number, "lost", others | disk.after_crash(lambda: 0.0, 0), promised)
    for _ in range(torn):
        names = rng.randint(0, len(disk.renames))
        chosen = None if disk.ordered else [rng.random() < 0.5 for _ in disk.renames]
        mixture = disk.after_crash(lambda: rng.choice([0.0, 1.0, 1.0, rng.random()]), names, chosen)
        yield Crash(number, "torn", others | mixture, promised)


def _parse(content: bytes) -> list[Step]:
    steps, at = [], 0
    while at < len(content):
        end = content.index(b"\n", at)
        op, a, b, length = content[at:end].decode().split(" ")
        at = end + 1 + int(length)
        steps.append(Step(op, a, b, content[end + 1 : at]))
    return steps


@dataclass
class _Inode:
    durable: bytes = b""
    pending: list[Step] = field(default_factory=list)  # writes and truncations since the last fsync

    def content(self, share: object) -> bytes:
        """Durable content and, of each pending step, as much as ``share()`` says (0 to 1)."""
        content = bytearray(self.durable)
        for step in self.pending:
            kept = share()  # type: ignore[operator]
            if step.op == "truncate":
                if kept >= 0.5:
                    size = int(step.b)
                    content[size:] = bytes(max(size - len(content), 0)) if size > len(content) else b""
                continue
            data, offset = step.data[: round(len(step.data) * kept)], int(step.b)
            if not data:
                continue
            if offset > len(content):
                content += bytes(offset - len(content))
            content[offset : offset + len(data)] = data
        return bytes(content)


class _Disk:
    """Names to inodes as the program sees them, and as they are on the disk plus pending changes of names in order."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self._seen: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self.renames: list[tuple[str, dict[str, _Inode | None]]] = []

    def apply(self, step: Step) -> None:
        if step.op == "create":
            self._rename(step.a, {step.a: _Inode()})
        elif step.op == "mkdir":
            self._rename(step.a, {f"{step.a}/": _Inode()})
        elif step.op == "symlink":
            self._rename(step.a, {f"{step.a}@": _Inode(durable=step.data)})
        elif step.op in ("rmdir", "unlink"):
            self._rename(step.a, {f"{step.a}/" if step.op == "rmdir" else step.a: None})
        elif step.op == "rename":
            self._rename(step.b, {step.a: None, step.b: self._seen[step.a]})
        elif step.op in ("write", "truncate"):
            if step.a in self._seen:  # not an unlinked file that is still open
                self._seen[step.a].pending.append(step)
        elif step.op == "fsync":
            self._fsync(step.a)
        elif step.op == "sync":
            self._sync()

    def after_crash(self, share: object, names: int, chosen: list[bool] | None = None) -> dict[str, bytes]:
        """With the first ``names`` changes of names that are not durable, or those ``chosen``."""
        tree = dict(self._durable)
        kept = chosen if chosen is not None else [True] * names
        for (_, changes), is_kept in zip(self.renames, kept, strict=False):
            if is_kept:
                _change(tree, changes)
        lost = {name for name in self._seen if name.endswith("/")} - tree.keys()  # with all that is in them
        return {
            name: inode.content(share)
            for name, inode in tree.items()
            if not lost.intersection(f"{parent}/" for parent in Path(name).parents)
        }

    def _rename(self, where: str, changes: dict[str, _Inode | None]) -> None:
        self.renames.append((str(Path(where).parent), changes))
        _change(self._seen, changes)

    def _fsync(self, name: str) -> None:
        if name in self._seen:
            inode = self._seen[name]
            inode.durable, inode.pending = inode.content(lambda: 1.0), []
            return
        # A folder: names in it are durable, and where there is a journal so is every change of names before the last.
        last = max((i for i, (folder, _) in enumerate(self.renames) if folder == name), default=-1)
        before, after = self.renames[: last + 1], self.renames[last + 1 :]
        for folder, changes in before:
            if self.ordered or folder == name:
                _change(self._durable, changes)
        self.renames = [] if self.ordered else [one for one in before if one[0] != name]
        self.renames += after

    def _sync(self) -> None:
        """All that was done is durable."""
        for inode in self._seen.values():
            inode.durable, inode.pending = inode.content(lambda: 1.0), []
        self._durable, self.renames = dict(self._seen), []


def _change(tree: dict[str, _Inode], changes: dict[str, _Inode | None]) -> None:
    for name, inode in changes.items():
        if inode is None:
            tree.pop(name, None)
        else:
            tree[name] = inode
