# SPDX-License-Identifier: Apache-2.0
"""An order to pause outlives every restart, and no reload ends in a unit that stands still or runs twice."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from agent.camera.base import Frame
from agent.camera.source import Source
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.config.site_settings import ModelsChange, Settings, digest_of_settings
from agent.config.told import Chosen, Told, read_told, write_told
from agent.door.outputs import Outputs
from agent.errors import ConfigError, RetryError, StorageError
from agent.protocol.health import read_health
from agent.unit.configuring import Configuring
from agent.unit.housekeeping import Housekeeping
from agent.unit.pause import Pause
from agent.unit.reload import Reload, check
from agent.unit.running import run_unit
from agent.uplink.session import Uplink
from tests.simulators.dark_unit import OneFrame, assembled, dark_world, no_threads, one_frame, references
from tests.simulators.full_disk import no_file_grows_beyond
from tests.simulators.power import crashes, record
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Premises:
    return Premises(tmp_path_factory.mktemp("premises"))


@pytest.fixture
def config(template: Premises) -> Config:
    template.restore()
    return msgspec.structs.replace(load_config(template.config), profile="production")


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(START)


# -- pause ------------------------------------------------------------------------------------------------------------


def test_a_pause_survives_restart_and_reload_until_it_is_ended(config: Config, clock: SimulatedClock) -> None:
    with assembled(config, clock) as service:
        assert references(service) == 1
        service._paused.set()
        assert references(service) == 0
    for _ in range(2):
        with assembled(config, clock) as service:
            assert references(service) == 0
            assert service._uplink.health is not None
            assert read_health(service._uplink.health())[1].recognition == "paused"
    with assembled(config, clock) as service:
        service._paused.clear()
        assert references(service) == 1
    with assembled(config, clock) as service:
        assert references(service) == 1


def test_a_pause_that_was_answered_survives_a_power_cut_at_any_write(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    program = (
        "import sys; from pathlib import Path;"
        "from agent.unit.pause import Pause; from tests.simulators.power import mark;"
        "pause = Pause(Path(sys.argv[1]) / 'paused');"
        "mark('begin'); pause.set(); mark('paused'); mark('end'); pause.clear(); mark('running')"
    )
    for crash in crashes(record(["-c", program, str(living)], living, work), seed=1):
        crash.restore(living)
        paused = Pause(living / "paused").is_set()
        match crash.marks[-1] if crash.marks else "":
            case "paused":
                assert paused, crash
            case "running" | "":
                assert not paused, crash


def test_on_a_full_disk_it_pauses_all_the_same(tmp_path: Path) -> None:
    pause = Pause(tmp_path / "paused")
    with no_file_grows_beyond(0), pytest.raises(StorageError):
        pause.set()
    assert pause.is_set()


# -- reload -----------------------------------------------------------------------------------------------------------


def damage(kind: str, config: Config, folder: Path) -> Config:
    keys = config.keys.folder
    match kind:
        case "no certificate":
            (keys / "tls.crt").unlink()
        case "another unit's certificate":
            unit = msgspec.structs.replace(config.unit, id="door-9")
            return msgspec.structs.replace(config, unit=unit)
        case "damaged epoch keys":
            (keys / "epoch-keys.json").write_bytes(b"{}")
        case "no consumer key":
            events = msgspec.structs.replace(config.events, subject="sealed", consumer_key=folder / "none.jwk")
            return msgspec.structs.replace(config, events=events)
        case "a consumer key that is none":
            (folder / "consumer.jwk").write_text("{")
            events = msgspec.structs.replace(config.events, subject="sealed", consumer_key=folder / "consumer.jwk")
            return msgspec.structs.replace(config, events=events)
        case "no folder":
            outbox = msgspec.structs.replace(config.outbox, path=folder / "nowhere" / "outbox.db")
            return msgspec.structs.replace(config, outbox=outbox)
        case "no policy":
            match_ = msgspec.structs.replace(config.match, policy=folder / "none.jws")
            return msgspec.structs.replace(config, match=match_)
    return config


@pytest.mark.parametrize(
    "kind",
    [
        "no certificate",
        "another unit's certificate",
        "damaged epoch keys",
        "no consumer key",
        "a consumer key that is none",
        "no folder",
        "no policy",
    ],
)
def test_what_a_start_needs_is_tried_before_the_running_unit_stops(
    config: Config, clock: SimulatedClock, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(config, clock)
    reload = Reload(Configuring(config, clock), lambda: damage(kind, config, tmp_path), clock)
    reload.asked.set()
    with caplog.at_level(logging.WARNING, "postern"):
        assert not reload.is_due()
    assert reload.take() is None
    assert "the old one stays" in caplog.text


def test_a_reload_without_the_memory_to_try_it_leaves_the_running_unit_alone(
    config: Config, clock: SimulatedClock, caplog: pytest.LogCaptureFixture
) -> None:
    def reread() -> Config:
        raise MemoryError

    reload = Reload(Configuring(config, clock), reread, clock)
    reload.asked.set()
    with caplog.at_level(logging.WARNING, "postern"):
        assert not reload.is_due()
    assert "restart the service" in caplog.text


def run(config: Config, clock: SimulatedClock, reread: Callable[[], Config], **world: object) -> int:
    """A unit that gets SIGHUP at its first start and ends by itself at its next."""
    asked = iter([signal.SIGHUP])

    @contextmanager
    def background(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
        with no_threads(uplink, housekeeping, outputs):
            if (number := next(asked, None)) is not None:
                os.kill(os.getpid(), number)
            yield

    made = replace(dark_world(clock), **{"background": background, **world})  # type: ignore[arg-type]
    return run_unit(config, world=made, reread=reread)


def test_where_the_new_configuration_does_not_start_the_old_one_goes_on(
    config: Config, clock: SimulatedClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What only the start itself can find: here another unit's gallery."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "gallery.db").write_bytes(b"this is no gallery at all" * 100)
    gallery = msgspec.structs.replace(config.gallery, path=other / "gallery.db")
    reload = Reload(Configuring(config, clock), lambda: msgspec.structs.replace(config, gallery=gallery), clock)
    reload.asked.set()
    assert reload.is_due(), "nothing that can be tried beside the running unit tells"
    starts: list[Path] = []

    def reread() -> Config:
        starts.append(other)
        return msgspec.structs.replace(config, gallery=gallery)

    with caplog.at_level(logging.ERROR, "postern"):
        assert run_with_frames(config, clock, reread) == 0
    assert starts == [other]
    assert "the old one begins again" in caplog.text


def run_with_frames(config: Config, clock: SimulatedClock, reread: Callable[[], Config]) -> int:
    """The pipeline asks once a frame whether to go on: a view that lasts one frame lets it ask."""
    return run(config, clock, reread, open_source=lambda *_, **__: one_frame(clock))


class Unable(OneFrame):
    """A camera that says only when it is opened that it cannot do what it is asked for."""

    def frames(self) -> Iterator[Frame]:
        raise ConfigError("CSI camera 0 gives nothing: choose another width and height")


def test_a_camera_that_cannot_do_what_the_site_set_ends_the_trial_and_not_the_unit(
    config: Config, clock: SimulatedClock
) -> None:
    """By its exit status nothing would start the unit again before somebody came."""
    settings = Settings(models=ModelsChange(threads=2))
    chosen = Chosen(1, digest_of_settings(settings), settings, "site.yaml", {})
    write_told(config, Told(v=1, serial=1, digest=chosen.digest, mandate=1, state="trying", force=chosen, starts=3))
    cameras = [Source(Unable(clock)), one_frame(clock)]
    world = replace(dark_world(clock), open_source=lambda *_, **__: cameras.pop(0))
    assert run_unit(config, world=world) == 0
    assert cameras == []
    told = read_told(config)
    assert told is not None
    assert (told.state, told.force) == ("rolled_back", None)
    assert "choose another width" in str(told.why)
    cameras = [Source(Unable(clock))]
    with pytest.raises(ConfigError):  # what its own file says, a person corrects
        run_unit(config, world=world)


def test_a_thread_that_hangs_is_not_followed_by_a_second_unit(config: Config, clock: SimulatedClock) -> None:
    release = threading.Event()

    @contextmanager
    def background(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
        uplink.thread = threading.Thread(target=release.wait, name="postern-uplink", daemon=True)
        uplink.thread.start()
        os.kill(os.getpid(), signal.SIGHUP)
        yield
        assert not uplink.stop(0.01)
        uplink._close_mailbox()

    try:
        with pytest.raises(RetryError, match="postern-uplink did not end in time"):
            run(config, clock, lambda: config, background=background, open_source=lambda *_, **__: one_frame(clock))
    finally:
        release.set()
