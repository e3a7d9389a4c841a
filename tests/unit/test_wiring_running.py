# SPDX-License-Identifier: Apache-2.0
"""One unit from start to stop: which signal does what, what is asked of whom at each frame, and what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.camera.base import Frame, RgbPicture
from agent.camera.source import Source
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import CameraLostError, KeyStoreError
from agent.unit.running import run_unit
from tests.simulators.dark_unit import Dark, dark_world
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START
from tests.unit.test_wiring import kinds

ENDLESS = 50


class Grey(Dark):
    """A camera that sees grey, frame after frame, and ends long after every test did."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    def frames(self) -> Iterator[Frame]:
        grey = np.full((240, 320, 3), 128, np.uint8)
        for number in range(ENDLESS):
            self._clock.advance(0.1)
            yield Frame(number, self._clock.monotonic_ns(), grey, RgbPicture(grey))


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Premises:
    return Premises(tmp_path_factory.mktemp("running"))


@pytest.fixture
def config(premises: Premises) -> Config:
    premises.restore()
    return msgspec.structs.replace(load_config(premises.config), profile="production")


def run(config: Config, on_frame: Callable[[int], None], **options: Callable[[], Config]) -> tuple[int, int]:
    """The status, and how often the watchdog was told."""
    clock, told = SimulatedClock(START), [0]
    world = msgspec.structs.replace(dark_world(clock), open_source=lambda *_, **__: Source(Grey(clock)))

    def count() -> None:
        told[0] += 1
        on_frame(told[0])

    return run_unit(config, world=world, on_frame=count, **options), told[0]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_frame_in_hand_and_the_handlers_of_before_come_back(
    config: Config, number: signal.Signals
) -> None:
    before = handlers()
    seen: list[list[object]] = []

    def on_frame(told: int) -> None:
        seen.append(handlers())
        if told == 3:
            os.kill(os.getpid(), number)

    assert run(config, on_frame) == (0, 3)
    assert handlers() == before
    assert not any(one in before for one in seen[0])
    assert [one for one in kinds(config) if one in ("started", "stopped")] == ["started", "stopped"]


def test_to_read_the_configuration_again_is_another_run_on_the_same_file_where_nobody_gives_a_new_one(
    config: Config,
) -> None:
    status, told = run(config, lambda told: os.kill(os.getpid(), signal.SIGHUP) if told == 2 else None)
    assert (status, told) == (0, 2 + ENDLESS)
    assert [one for one in kinds(config) if one in ("started", "stopped")] == ["started", "stopped"] * 2


def test_what_a_first_start_lacks_is_raised_and_a_second_goes_back_to_the_file_of_before(
    config: Config, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    before = handlers()
    lost = msgspec.structs.replace(config, keys=msgspec.structs.replace(config.keys, folder=tmp_path))
    with pytest.raises(KeyStoreError):
        run(lost, lambda _: None)
    assert handlers() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "gallery.db").write_bytes(b"this is no gallery at all" * 100)
    gallery = msgspec.structs.replace(config.gallery, path=other / "gallery.db")
    caplog.clear()
    status, told = run(
        config,
        lambda told: os.kill(os.getpid(), signal.SIGHUP) if told == 1 else None,
        reread=lambda: msgspec.structs.replace(config, gallery=gallery),
    )
    assert (status, told) == (0, 1 + ENDLESS)
    (text,) = (one.getMessage() for one in caplog.records if one.levelname == "ERROR")
    assert text == (
        f"the new configuration does not start, the old one begins again: the gallery {gallery.path} is damaged: delete"
        " the file and enrol anew, there is no other copy of a reference by design"
    )


def test_a_camera_that_is_lost_during_a_run_ends_it_with_its_reason(config: Config) -> None:
    def on_frame(told: int) -> None:
        if told == 2:
            raise CameraLostError("the cable was pulled: look at it")

    before = handlers()
    with pytest.raises(CameraLostError, match="the cable was pulled"):
        run(config, on_frame)
    assert handlers() == before
    assert kinds(config)[-1] in ("stopped", "generation")
