# SPDX-License-Identifier: Apache-2.0
"""Streams as cameras make them: pictures out of order, ten bits, grey, a size that changes; openings that fail."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from agent.camera.av_input import file_input
from agent.camera.av_source import AvCamera
from agent.clock import SimulatedClock
from agent.config.camera import FileCamera
from agent.errors import PosternError
from tests.simulators.camera import picture, write_clip

av = pytest.importorskip("av")
LORES = (160, 120)
FRAMES = 12


def camera(path: Path) -> AvCamera:
    return AvCamera(file_input(FileCamera(path=path)), lores_size=LORES, clock=SimulatedClock())


@pytest.mark.parametrize(
    ("codec", "pixels", "options"),
    [
        ("libx264", "yuv420p", {"preset": "medium", "x264-params": "bframes=4:b-pyramid=normal:b-adapt=0"}),
        (
            "libx265",
            "yuv420p10le",
            {"preset": "ultrafast", "x265-params": "bframes=3:b-adapt=0:log-level=none:pools=1"},
        ),
    ],
    ids=["H.264 with a pyramid", "HEVC Main 10"],
)
def test_pictures_that_are_sent_out_of_order_are_shown_in_order(
    tmp_path: Path, codec: str, pixels: str, options: dict[str, str]
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames=FRAMES, codec=codec, pixels=pixels, keyframes=50, options=options)
    with av.open(str(clip)) as container:
        sent = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert any(later < earlier for earlier, later in pairwise(sent)), "nothing is out of order: this proves nothing"
    truth, shown = [picture(number, 320, 180)[::4, ::2].astype(int) for number in range(FRAMES)], []
    with camera(clip) as source:
        for frame in source.frames():
            with frame:
                seen = frame.main.window(0, 0, 320, 180)[::4, ::2]
                errors = [np.abs(one - seen).mean() for one in truth]
                shown.append((int(np.argmin(errors)), frame.timestamp_ns))
    assert [number for number, _ in shown] == list(range(FRAMES))
    assert all(earlier < later for (_, earlier), (_, later) in pairwise(shown))


@pytest.mark.parametrize(
    ("codec", "pixels"), [("mjpeg", "yuvj420p"), ("libx264", "gray"), ("libx264", "gray10le"), ("ffv1", "gray")]
)
def test_a_grey_level_is_what_the_camera_saw(tmp_path: Path, codec: str, pixels: str) -> None:
    """Infra-red pictures of a night: full range, often without colour."""
    clip = tmp_path / "grey.mkv"
    level = 200
    with av.open(str(clip), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"color_range": "pc"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
        stream.codec_context.color_range = 2  # full
        stream.codec_context.thread_count = 1
        ten = pixels.endswith("10le")
        plane = np.full((64, 64), level * 4 if ten else level, np.uint16 if ten else np.uint8)
        name = "gray10le" if ten else "gray"
        frame = av.VideoFrame.from_ndarray(plane, format=name)
        frame.color_range = 2
        if pixels.startswith("yuvj"):
            frame = av.VideoFrame.from_ndarray(np.vstack([plane, np.full((32, 64), 128, np.uint8)]), format="yuvj420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with camera(clip) as source:
        (one,) = list(source.frames())
        with one:
            assert np.abs(one.main.window(0, 0, 64, 64).astype(int) - level).max() <= 1
            assert np.abs(one.lores[:120, :120].astype(int) - level).max() <= 1


def test_a_stream_that_changes_its_size_is_shown_as_what_it_is(tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{size[0]}.ts", frames=5, size=size) for size in ((160, 90), (320, 180))]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    shown = []
    with camera(both) as source:
        for frame in source.frames():
            with frame:
                shown.append((frame.main.width, frame.main.height, frame.lores.shape, int(frame.lores[5, 10, 0])))
    assert {one[:2] for one in shown} == {(160, 90), (320, 180)}
    assert len(shown) >= 8
    assert all(lores == (120, 160, 3) and abs(red - 200) <= 6 for _, _, lores, red in shown)


def openings(tmp_path: Path) -> dict[str, Path]:
    """What is no video, and what opens and then gives no picture."""
    (tmp_path / "text.mp4").write_bytes(b"not a video " * 99)
    content = bytearray(write_clip(tmp_path / "whole.mp4", frames=2, size=(64, 64)).read_bytes())
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    pictures, index = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[pictures:index] = bytes(index - pictures)
    (tmp_path / "zeros.mp4").write_bytes(content)
    return {name: tmp_path / f"{name}.mp4" for name in ("missing", "text", "cut", "zeros")}


def test_openings_that_fail_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with pytest.raises(PosternError), camera(path) as source:
            next(iter(source.frames()))

    def held() -> list[int]:
        return [len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task")]  # FFmpeg's threads too

    ways = openings(tmp_path)
    for path in ways.values():
        fail(path)  # what is loaded once is loaded now
    before = held()
    for _ in range(20):
        for path in ways.values():
            fail(path)
    assert held() == before


def test_a_recording_whose_times_begin_again_goes_on_in_time(tmp_path: Path) -> None:
    """Two recordings in one file: before, time stood still in the second, no dwell ended and nobody was matched."""
    whole = write_clip(tmp_path / "whole.ts", frames=FRAMES, keyframes=FRAMES)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(whole.read_bytes() * 2)
    times = []
    with camera(twice) as source:
        for frame in source.frames():
            with frame:
                times.append(frame.timestamp_ns)
    assert len(times) == 2 * FRAMES
    assert set(np.diff(times)) == {40_000_000}
