# SPDX-License-Identifier: Apache-2.0
"""The shape of the source: what a reader relies on when they trust a folder's name, checked on the syntax tree."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agent.inference.heads import HEADS

pytestmark = pytest.mark.timeout(300)  # it parses the whole source, on a machine that may be busy

ROOT = Path(__file__).parents[2]
MAX_LINES = 400  # one screen-and-a-half of attention; a longer module has two reasons to change

TOP_LEVEL = {
    ".ci", ".gitignore", "LICENSE", "README.md", "agent", "deploy", "models", "pyproject.toml", "tests", "tools",
}  # fmt: skip

# Ways to the world, and the only places that may use them.
IO_MODULES = {
    "asyncio": ("uplink", "subscribe"),
    "av": ("camera",),
    "gi": ("camera",),
    "http": (),
    "libcamera": ("camera",),
    "multiprocessing": (),
    "paho": ("uplink", "subscribe", "cli"),
    "pickle": (),
    "picamera2": ("camera",),
    "requests": (),
    "socket": ("uplink", "subscribe", "cli", "notify", "run"),
    "sqlite3": ("gallery", "outbox", "audit", "cli"),
    "ssl": ("uplink", "subscribe", "cli"),
    "subprocess": (),
    "urllib.request": (),
    "yaml": ("config", "config_yaml", "camera"),
}

# What a folder may know of the others: nothing that comes after it, and matching and what follows it never see a
# picture. What makes and sends events never sees a reference either.
FORBIDDEN = {
    "camera": ("detect", "embed", "gallery", "match", "outbox", "uplink", "site"),
    "detect": ("embed", "gallery", "match", "outbox", "uplink", "site"),
    "embed": ("gallery", "match", "outbox", "uplink", "site"),
    "gallery": ("outbox", "uplink", "site"),
    "match": ("camera", "gallery", "outbox", "uplink", "site", "inference"),
    "outbox": ("camera", "detect", "embed", "gallery", "uplink", "inference"),
    "uplink": ("camera", "detect", "embed", "gallery", "match", "inference"),
    "inference": ("detect", "embed", "gallery", "match", "outbox", "uplink", "site"),
    "site": ("camera", "detect", "embed", "gallery", "uplink", "inference"),
}

# Who may read the configuration: the command line, and the assembly that turns it into plain arguments.
READS_CONFIGURATION = {"cli", "run", "reload", "assemble", "config", "config_check", "config_schema", "papers"}

# Words of things that this program never does. One use is allowed: the age class of a consent record says which
# guardian must agree; it is told by people and never worked out from a face.
PROHIBITED_WORDS = {
    "gender", "sex", "emotion", "emotions", "mood", "ethnicity", "ethnic", "race", "religion",
    "watchlist", "blacklist", "blocklist", "stranger", "strangers", "scrape", "scraper", "sentiment",
}  # fmt: skip
PROHIBITED_NAMES = {"age_estimate", "estimated_age", "watch_list", "unknown_person", "import_photos"}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def part(path: Path) -> str:
    """The folder of the data path that a module belongs to, or the module's own name."""
    first = path.relative_to(ROOT / "agent").parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every imported module, also inside functions; not what is imported for annotations alone."""
    skipped = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def identifiers(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def tracked() -> list[str]:
    try:
        listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return listing.stdout.splitlines()


@pytest.mark.parametrize("path", modules("agent", "tools", "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_is_short_and_licensed(path: Path) -> None:
    lines = path.read_text().splitlines()
    if not lines:
        return
    assert len(lines) <= MAX_LINES, f"{len(lines)} lines: split it by reason to change"
    head = lines[1] if lines[0].startswith("#!") else lines[0]
    assert head == "# SPDX-License-Identifier: Apache-2.0"


def test_each_script_and_deployed_file_is_licensed() -> None:
    suffixes = {"", ".sh", ".service", ".conf", ".yaml", ".yml", ".rules", ".example"}
    for name in tracked():
        path = ROOT / name
        top = name.split("/")[0]
        if top not in {".ci", "deploy", "tools"} or path.suffix not in suffixes or not path.is_file():
            continue
        head = path.read_text().splitlines()[:3]
        assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head), name


def test_the_top_level_is_the_one_of_the_design() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


def test_every_part_of_the_agent_that_does_io_is_known() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules("agent")
        for module in imports(path)
        for package, allowed in IO_MODULES.items()
        if within(module, package) and part(path) not in allowed
    ]
    assert not wrong


def test_stages_know_nothing_of_what_comes_after_them() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules("agent")
        for module in imports(path)
        for other in FORBIDDEN.get(part(path), ())
        if within(module, f"agent.{other}")
    ]
    assert not wrong


def test_only_the_shell_reads_configuration() -> None:
    wrong = []
    for path in modules("agent"):
        if part(path) in READS_CONFIGURATION:
            continue
        # config_yaml is no configuration: it reads any strict YAML, the scripts of scenes too
        found = [m for m in imports(path) if m.startswith("agent.config") and not within(m, "agent.config_yaml")]
        wrong += [f"{path.relative_to(ROOT)}: {m}" for m in found]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in identifiers(path) if name in ("environ", "getenv")]
    assert not wrong


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("agent")
        if part(path) not in {"cli", "subscribe"}
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_no_code_for_what_is_never_built() -> None:
    wrong = []
    for path in modules("agent"):
        for name in set(identifiers(path)):
            lowered = name.lower().strip("_")
            about_people = part(path) in {"camera", "detect", "embed", "inference", "match"} and lowered == "age"
            if about_people or lowered in PROHIBITED_NAMES or PROHIBITED_WORDS & set(lowered.split("_")):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_a_model_may_only_have_the_allowed_outputs() -> None:
    assert {task for task, _ in HEADS} == {"detector", "landmarks", "embedder", "pad"}
    assert HEADS["embedder", "embedding"] == {"embedding"}
    assert HEADS["landmarks", "landmarks"] == {"score", "landmarks"}
    detector_heads = {head.split("_")[0] for (task, _), heads in HEADS.items() if task == "detector" for head in heads}
    assert detector_heads == {"score", "scores", "geometry", "cls", "obj", "bbox", "kps", "regressors"}


def test_absolute_imports_only() -> None:
    relative = [
        str(path.relative_to(ROOT))
        for path in modules("agent", "tools", "tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_nothing_unfinished_is_kept() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")
    wrong = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in modules("agent", "tools", "tests")
        for mark in marks
        if mark in path.read_text()
    ]
    assert not wrong
