# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on: markers that say why a test cannot run here."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.simulators.broker import RealBroker

MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 << 30  # all that the tests keep at a time is a tenth of it


def _in_memory() -> bool:
    """Whether there is a folder in memory, with room, whose files may be run."""
    try:
        status = os.statvfs(MEMORY)
    except OSError:
        return False
    roomy = status.f_bavail * status.f_frsize >= ROOM_BYTES
    return roomy and os.access(MEMORY, os.W_OK) and not status.f_flag & os.ST_NOEXEC


# Half of a run's time went into fsyncs to a real disk, which prove nothing more here: what a power cut leaves is
# simulated, write by write. tools/test measures times on the disk: TMPDIR is given there.
if "TMPDIR" not in os.environ and _in_memory():
    os.environ["TMPDIR"] = str(MEMORY)  # of this process, of pytest's workers and of every program that a test starts
    tempfile.tempdir = None

# argparse asks for each of its words in the language of whoever runs the tests, and looked for a file each time: of six
# commands of a site 0.19 s of a processor are left of 0.27.
os.environ["LANGUAGE"] = "C"

# One thread, as the program has it (agent.cli): in each of pytest's workers there was one for each core, and a third of
# the time of whatever multiplies matrices went into threads that wait for each other. It is read at the import alone;
# programs that tests start are told nothing, as they see to it themselves.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("OPENBLAS_NUM_THREADS", "1")
    import numpy as np  # noqa: F401

# The same examples in each run, however busy the machine is: a run says something about the change, and nothing about
# its luck. Others are drawn, and more, where somebody has the time to look into what they find.
_DRAWN_ANEW = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
settings.register_profile(
    "postern",
    derandomize=not _DRAWN_ANEW,
    max_examples=1000 if _DRAWN_ANEW else 60,  # where a test says no number of its own
    deadline=None,
    print_blob=True,  # how to see again what was found
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("postern")

# Debian installs brokers where a user's PATH does not look.
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("broker") and shutil.which("mosquitto", path=_SEARCH) is None:
        message = "the broker is not installed: apt-get install mosquitto"
        if os.environ.get("POSTERN_REQUIRE_BROKER") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    if item.get_closest_marker("shared") and not shared_folder().is_dir():
        pytest.skip(f"needs the training data folder {shared_folder()} (or set POSTERN_SHARED)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each process begin with some of the files that ask for time of their own: what ends a run is short then."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    takes_long = {file for file, own in files.items() if any(one.get_closest_marker("timeout") for one in own)}
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    rest = [item for file, own in files.items() if file not in takes_long for item in own]
    ordered: list[pytest.Item] = []
    for number in range(processes):  # each is handed the next of as many equal parts (pytest-xdist, worksteal)
        for file in sorted(takes_long)[number::processes]:
            ordered += files[file]
        room = max(0, len(items) * (number + 1) // processes - len(ordered))
        ordered += rest[:room]
        del rest[:room]
    items[:] = ordered + rest


def pytest_collection_finish() -> None:
    """What was imported stays until the end: nobody has to look through it each time for what can go."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """A file answers for what its tests forgot to close: found later, it fails whichever test runs by then."""
    yield
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """What a test that failed could not close is nobody else's failure."""
    failed_before = item.session.testsfailed
    outcome = yield
    if item.session.testsfailed > failed_before:
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):  # they hold its frames
            vars(sys).pop(name, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    return outcome


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder that is gone after the test, also where ``tmp_path`` is kept to be looked into."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """A Mosquitto of a site of its own, for the tests of one file; its log and its list of revoked certificates too."""
    # Only where a broker is asked for: few tests need what these import.
    from tests.simulators.broker import RealBroker  # noqa: PLC0415
    from tests.simulators.pki import Authority  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("site")
    made = RealBroker(folder, Authority(folder / "pki"))
    made.start()
    yield made
    made.stop()


def shared_folder() -> Path:
    """Pictures to train and measure with; beside the checkout, never in it."""
    return Path(os.environ.get("POSTERN_SHARED") or Path(__file__).parents[2] / "shared")
