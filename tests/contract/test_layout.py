# SPDX-License-Identifier: Apache-2.0
"""The shape of the source: what a reader relies on when they trust a folder's name, checked on the syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agent.inference.heads import HEADS

pytestmark = pytest.mark.timeout(300)  # it parses the whole source, on a machine that may be busy

ROOT = Path(__file__).parents[2]
MAX_LINES = 400  # one screen-and-a-half of attention; a longer module has two reasons to change

TOP_LEVEL = {
    ".ci", ".github", ".gitignore", "LICENSE", "README.md", "agent", "deploy", "models", "pyproject.toml", "tests",
    "tools",
}  # fmt: skip

# Ways to the world, and the only places that may use them: rooms, or single files where a room would be too much.
IO_MODULES = {
    "asyncio": ("mqtt", "subscribe"),
    "av": ("camera",),
    "evdev": ("door.keys",),
    "gi": ("camera",),
    "gpiod": ("door.gpio",),
    "http": ("bridge.post",),
    "libcamera": ("camera",),
    "multiprocessing": (),
    "osdp": ("door.osdp",),
    "osdp_sys": ("door.osdp",),
    "paho": ("mqtt",),
    "pickle": (),
    "picamera2": ("camera",),
    "requests": (),
    "socket": (
        "camera.rtsp.session", "mqtt", "uplink.mailbox", "unit.notify", "unit.broker_check", "unit.desk",
        "bridge.metrics", "bridge.post", "bridge.syslog", "console.link", "console.server",
    ),
    "sqlite3": ("disk.put_back", "disk.sqlite", "door.rights", "gallery", "outbox", "subscribe", "bridge.store"),
    "ssl": ("mqtt", "unit.broker_check", "bridge.post", "bridge.syslog"),
    "subprocess": (),
    "urllib.request": (),
    "yaml": ("parse.strict_yaml",),
    "zxingcpp": ("door.codes",),
}  # fmt: skip

# The floors of the house. A room may know lower floors, and on the data path the rooms to its left.
FLOORS = {
    "disk": 0, "parse": 0,
    "protocol": 1,
    "config": 2,
    "mqtt": 3, "audit": 3, "inference": 3, "camera": 3, "camera.scene": 3, "notices": 3,
    "detect": 4, "embed": 4, "gallery": 4, "match": 4, "door": 4, "outbox": 4,
    "uplink": 5, "subscribe": 5, "site": 5, "console": 5,
    "pipeline": 6, "unit": 6, "bridge": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
DATA_PATH = ("camera", "detect", "embed", "gallery", "match", "door", "outbox", "uplink")

# Who knows whom: rooms (or single files of them) and the only rooms (or files) that they may import. Floor 0 is
# for everybody, and ``unit`` knows everything but the command line. A permission that nobody uses goes.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "config": ("protocol.names",),
    "camera": ("config.camera",),
    "camera.scene": ("camera.base",),
    "audit": ("protocol.names", "protocol.subject"),
    "notices": ("config.camera", "config.door", "config.schema", "protocol.names"),
    "detect": ("camera.base", "inference.engine", "inference.manifest"),
    "embed": ("camera.base", "detect.face", "inference.engine", "inference.manifest"),
    "gallery": ("audit.ageing", "embed.records", "protocol.names", "protocol.receipt", "protocol.subject"),
    "match": ("detect.track", "embed.records", "gallery.references", "protocol.names", "protocol.subject"),
    "door": (
        "camera.base", "detect.pose", "detect.track", "gallery.references", "match.records", "protocol.subject",
        "protocol.token",
    ),
    "outbox": ("match.records", "protocol.event", "protocol.names", "protocol.pseudonym"),
    "pipeline": ("camera.base", "detect", "door.liveness", "embed", "gallery.references", "match"),
    "uplink": ("mqtt", "outbox.queue", "protocol"),
    "bridge": ("mqtt.connection", "mqtt.credentials", "mqtt.lasting", "mqtt.records", "protocol", "subscribe"),
    "bridge.settings": ("config.check",),
    "console": ("protocol.names",),
    "subscribe": ("mqtt.connection", "mqtt.credentials", "mqtt.lasting", "mqtt.records", "mqtt.refusals", "protocol"),
    "site": ("audit", "match.policy", "protocol"),
    "site.configuration": ("config.check", "config.drawn", "config.site_settings"),
    "site.delegation": ("mqtt.credentials", "mqtt.records"),
    "site.fleet": ("mqtt.credentials",),
    "site.operator": ("mqtt.connection", "mqtt.credentials", "mqtt.records"),
    "site.retire": ("mqtt.connection", "mqtt.credentials", "mqtt.records"),
    "site.service": ("mqtt.connection", "mqtt.lasting", "mqtt.records", "mqtt.refusals"),
    # The command line has no logic: beside what it calls it knows records that it reads or prints.
    "cli": (
        "unit", "site", "subscribe", "bridge", "console", "notices", "protocol", "config", "audit.chain",
        "gallery.consent", "gallery.records", "match.policy", "mqtt.credentials", "mqtt.records",
    ),
    "cli.audit": ("gallery.database",),
    "__main__": ("cli",),
}  # fmt: skip

# What these rooms never load, not even by way of others: a subscriber and a site need no camera, model or gallery.
NEVER_LOADED = {
    "subscribe": ("numpy", "agent.camera", "agent.gallery", "agent.inference"),
    "bridge": ("numpy", "agent.camera", "agent.gallery", "agent.inference"),
    "site": ("numpy", "agent.camera", "agent.gallery", "agent.inference"),
    "console": ("numpy", "PIL", "agent.camera", "agent.detect", "agent.gallery", "agent.inference", "agent.unit"),
    "cli.console": ("numpy", "PIL", "agent.camera", "agent.detect", "agent.gallery", "agent.inference"),
    "unit.examiner": ("numpy", "PIL", "agent.camera", "agent.detect", "agent.inference"),
}

# Who may read the configuration: the command line, and the assembly that turns it into plain arguments. Camera settings
# are plain arguments themselves.
# The site's own file is of what its units' files say.
READS_CONFIGURATION = ("cli", "unit", "config", "notices", "bridge.settings", "site.configuration")

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


def module(path: Path) -> str:
    """The name of a file below ``agent``: ``camera.base``; a package's own file has the package's."""
    parts = path.relative_to(ROOT / "agent").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The room of a module of ``agent``, or the module's own name when it lies loose."""
    return "camera.scene" if within(name, "camera.scene") else name.split(".", maxsplit=1)[0]


def imports(path: Path, *, annotations: bool = False) -> Iterator[str]:
    """Every imported module, also inside functions; what is imported for annotations alone if wanted."""
    skipped = (
        set()
        if annotations or "TYPE_CHECKING" not in path.read_text()
        else {
            id(inner)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
    )
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
        if path.name in {"changelog", "raspi-extra-cmdline"}:  # they take no comment; the project's licence counts
            continue
        head = path.read_text().splitlines()[:3]
        assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head), name


def test_the_top_level_is_the_one_of_the_design() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


def test_every_part_of_the_agent_that_does_io_is_known() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {imported}"
        for path in modules("agent")
        for imported in imports(path)
        for package, allowed in IO_MODULES.items()
        if within(imported, package) and not any(within(module(path), place) for place in allowed)
    ]
    assert not wrong


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Importing and imported module of each import between two rooms, a loose file counted as one."""
    known = {module(path) for path in modules("agent")}
    found = set()
    for path in modules("agent"):
        names = {
            name.removeprefix("agent.") for name in imports(path, annotations=True) if within(name, "agent")
        } & known
        packages = {name.rpartition(".")[0] for name in names}  # of ``from package import module``: the module is meant
        importer = module(path)
        found |= {(importer, name) for name in names - packages if room(name) != room(importer)}
    return frozenset(found)


def allowed(importer: str) -> Iterator[tuple[str, str]]:
    """Permissions that a module has, each with the place that it was given to."""
    for place, permissions in MAY_IMPORT.items():
        if within(importer, place) and not (place == "camera" and within(importer, "camera.scene")):
            yield from ((place, permission) for permission in permissions)


def where_instead(importer: str, imported: str) -> str:
    """The lowest rooms that may know both ends of a forbidden arrow."""
    both = [
        place
        for place in MAY_IMPORT
        if any(within(imported, one) for _, one in allowed(place))
        and any(within(importer, one) for _, one in allowed(place))
    ]
    homes = [
        f"agent/{place.replace('.', '/')}"
        for place in sorted(both, key=lambda one: FLOORS[room(one)])
        if place != "cli"
    ]
    return f"what needs both belongs into {' or '.join(homes or ['agent/unit'])}"


def test_each_room_knows_only_what_the_plan_lets_it_know() -> None:
    wrong = [
        f"agent/{importer.replace('.', '/')}.py imports agent.{imported}: {where_instead(importer, imported)}"
        for importer, imported in sorted(arrows())
        if not (room(importer) == "unit" and room(imported) not in {"cli", "__main__"})
        and FLOORS.get(room(imported), 0) > 0
        and not any(within(imported, permission) for _, permission in allowed(importer))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_permission_is_kept_that_nobody_uses() -> None:
    used = {
        (place, permission)
        for importer, imported in arrows()
        for place, permission in allowed(importer)
        if within(imported, permission)
    }
    unused = {(place, permission) for place, all_of in MAY_IMPORT.items() for permission in all_of} - used
    assert not unused


def test_no_permission_climbs_a_floor() -> None:
    climbing = [
        f"{place} may import {permission}"
        for place, permissions in MAY_IMPORT.items()
        for permission in permissions
        if FLOORS[room(permission)] >= FLOORS[room(place)]
        and not (room(place) == "camera.scene" and room(permission) == "camera")
        and not (
            {room(place), room(permission)} <= set(DATA_PATH)
            and DATA_PATH.index(room(permission)) < DATA_PATH.index(room(place))
        )
    ]
    assert not climbing


def test_every_room_stands_in_the_plan_and_only_a_few_files_lie_loose() -> None:
    folders = {room(module(path)) for path in modules("agent") if path.parent != ROOT / "agent"}
    loose = [path.stem for path in (ROOT / "agent").glob("*.py")]
    assert folders <= set(FLOORS), f"new rooms need a floor: {sorted(folders - set(FLOORS))}"
    assert len(loose) <= 14, f"{sorted(loose)}: which room is each of them of?"
    assert len(folders) + len(loose) <= 34
    assert len({(room(importer), room(name)) for importer, name in arrows()}) <= 170, "few rooms may know each other"


@pytest.mark.parametrize("name", NEVER_LOADED)
def test_what_a_subscriber_and_a_site_need_not_is_never_loaded(name: str) -> None:
    files = [path for path in modules("agent") if within(module(path), name)]
    code = "import sys\n" + "".join(f"import agent.{module(path)}\n" for path in files)
    code += f"print([one for one in {NEVER_LOADED[name]!r} if one in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_only_the_shell_reads_configuration() -> None:
    wrong = []
    for path in modules("agent"):
        if any(within(module(path), place) for place in READS_CONFIGURATION):
            continue
        found = [m for m in imports(path) if within(m, "agent.config") and not within(m, "agent.config.camera")]
        wrong += [f"{path.relative_to(ROOT)}: {m}" for m in found if m != "agent.config"]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in identifiers(path) if name in ("environ", "getenv")]
    assert not wrong


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("agent")
        if room(module(path)) not in {"cli", "subscribe"}
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_no_code_for_what_is_never_built() -> None:
    wrong = []
    for path in modules("agent"):
        for name in set(identifiers(path)):
            lowered = name.lower().strip("_")
            about_people = (
                room(module(path)) in {"camera", "detect", "embed", "inference", "match"} and lowered == "age"
            )
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
    assert not [
        str(path.relative_to(ROOT))
        for path in modules("agent", "tools", "tests")
        if "from ." in path.read_text()  # as the formatter spells it: few have to be parsed
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_nothing_unfinished_is_kept() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")
    wrong = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in modules("agent", "tools", "tests")
        for mark in marks
        if mark in path.read_text()
    ]
    assert not wrong


def test_there_is_one_way_to_erase_a_person() -> None:
    """The gallery is told to erase by ``unit.forget`` alone, which makes everybody else forget as well."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("agent")
        if not within(module(path), "gallery") and module(path) != "unit.forget"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"erase", "erase_all", "sweep"}
        and ast.unparse(node.func.value).endswith(("gallery", "outbox"))
    ]
    assert not wrong
