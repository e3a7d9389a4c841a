# SPDX-License-Identifier: Apache-2.0
"""Videos through FFmpeg: true sizes, times and colours; damage gives one clear error or is stepped over."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from agent.camera.av_convert import AvConverter
from agent.camera.av_input import file_input, v4l2_input
from agent.camera.av_source import AvCamera
from agent.camera.av_stream import load_av
from agent.camera.base import LORES_BORDER, Frame
from agent.clock import Clock, SimulatedClock, SystemClock
from agent.config.camera import FileCamera, V4l2Camera
from agent.errors import CameraLostError, ConfigError, RefusedError
from tests.simulators.camera import picture, write_clip

av = pytest.importorskip("av")
LORES = (160, 120)


def camera(path: Path, *, clock: Clock | None = None, **settings: Any) -> AvCamera:
    return AvCamera(file_input(FileCamera(path=path, **settings)), lores_size=LORES, clock=clock or SimulatedClock())


def taken(path: Path, look: Callable[[Frame], Any], **settings: Any) -> list[Any]:
    seen = []
    with camera(path, **settings) as source:
        for frame in source.frames():
            with frame:
                seen.append(look(frame))
    assert seen, "a loop over no frame shows nothing"
    return seen


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_h264_file_gives_every_frame_once_with_its_own_time(clip: Path) -> None:
    seen = taken(clip, lambda frame: (frame.number, frame.timestamp_ns, frame.main.width, frame.main.height))
    assert seen == [(number, number * 40_000_000, 320, 180) for number in range(20)]


def test_info_is_known_once_open(clip: Path) -> None:
    source = camera(clip)
    with pytest.raises(ValueError, match="not open"):
        source.info()
    with source:
        info = source.info()
    assert (info.source, info.width, info.height) == ("file", 320, 180)
    assert info.frames_per_second == pytest.approx(25)
    assert not info.live


def test_both_pictures_show_the_scene_and_lores_keeps_its_shape(clip: Path) -> None:
    def errors(frame: Frame) -> tuple[float, float, bool]:
        truth = picture(frame.number, 320, 180).astype(int)
        main = np.abs(frame.main.window(0, 0, 320, 180) - truth)
        half = truth.reshape(90, 2, 160, 2, 3).mean((1, 3))
        lores = np.abs(frame.lores[:90] - half)
        return float(main.mean()), float(lores.mean()), bool((frame.lores[90:] == LORES_BORDER).all())

    for main, lores, border in taken(clip, errors):
        assert main < 4  # the encoder's loss, and half the chroma lines
        assert lores < 4
        assert border


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("limited601.mkv", {"options": {"colorspace": "smpte170m", "color_range": "tv"}}),
        ("limited709.mkv", {"options": {"colorspace": "bt709", "color_range": "tv"}}),
        ("full601.mkv", {"options": {"colorspace": "smpte170m", "color_range": "pc"}}),
        ("full709.mkv", {"options": {"colorspace": "bt709", "color_range": "pc"}}),
        ("fulltag.mkv", {"codec": "ffv1", "options": {"color_range": "pc"}}),
        ("mjpeg420.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("mjpeg422.avi", {"codec": "mjpeg", "pixels": "yuvj422p"}),
        ("planar444.mkv", {"codec": "ffv1", "pixels": "yuv444p"}),
        ("packed.avi", {"codec": "rawvideo", "pixels": "yuyv422"}),
        ("nv12.nut", {"codec": "rawvideo", "pixels": "nv12"}),
        ("tenbit.mkv", {"codec": "ffv1", "pixels": "yuv420p10le"}),
    ],
)
def test_lores_and_main_agree_in_colour_for_every_kind_of_video(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """A wrong matrix or range shifts colours by 10 to 30 levels in one of the two."""
    path = write_clip(tmp_path / name, frames=2, **options)
    for lores, main in taken(path, lambda frame: (frame.lores[:90].astype(int), frame.main.window(0, 0, 320, 180))):
        half = main.reshape(90, 2, 160, 2, 3).mean((1, 3))
        edge = 4  # chroma is blurred differently along the one hard edge and around the square
        flat = [lores[50:, edge : 80 - edge] - half[50:, edge : 80 - edge], lores[50:, 84:] - half[50:, 84:]]
        assert max(np.abs(part).max() for part in flat) <= 4  # FFmpeg for aarch64 rounds coarsely
        assert np.abs(lores - half).mean() < 3


def test_odd_sizes_are_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "odd.mkv", frames=2, size=(161, 91), codec="ffv1")
    truth = picture(0, 161, 91).astype(int)
    window = taken(path, lambda frame: frame.main.window(-5, -5, 500, 500))[0]
    assert window.shape == (91, 161, 3)
    assert np.abs(window[60:, :70] - truth[60:, :70]).max() <= 3


def test_a_held_frame_keeps_its_picture_and_a_closed_one_shows_nothing(clip: Path) -> None:
    with camera(clip) as source:
        frames = source.frames()
        held = next(frames)
        before = held.main.window(0, 0, 320, 180)
        for frame in frames:
            frame.close()
        assert (held.main.window(0, 0, 320, 180) == before).all()
        main = held.main
        held.close()
        with pytest.raises(ValueError, match="released"):
            main.window(0, 0, 1, 1)
        with pytest.raises(ValueError, match="released"):
            _ = held.lores


def test_looped_file_goes_on_in_time(clip: Path) -> None:
    times = []
    with camera(clip, loop=True) as source:
        for frame in source.frames():
            with frame:
                times.append(frame.timestamp_ns)
            if len(times) == 45:
                break
    assert np.diff(times).tolist() == [40_000_000] * 44


def test_realtime_file_is_played_at_its_own_pace(clip: Path) -> None:
    clock = SimulatedClock()
    clock.advance(1000)
    ages = []
    with camera(clip, clock=clock, realtime=True) as source:
        for frame in source.frames():
            with frame:
                ages.append(clock.monotonic_ns() - frame.timestamp_ns)
    assert clock.monotonic_ns() == 1000_000_000_000 + 19 * 40_000_000
    assert set(ages) == {0}


def damaged(clip: Path, path: Path, damage: Callable[[bytearray], Any]) -> Path:
    content = bytearray(clip.read_bytes())
    damage(content)
    path.write_bytes(content)
    return path


def test_missing_file_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"nowhere\.mp4 cannot be played: it does not exist"),
        camera(tmp_path / "nowhere.mp4"),
    ):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content.clear(), id="empty"),
        pytest.param(lambda content: content.__setitem__(slice(None), b"not a video " * 99), id="text"),
        pytest.param(
            lambda content: content.__delitem__(slice(len(content) // 2, None)), id="mp4 cut before its index"
        ),
        pytest.param(lambda content: content.__setitem__(slice(0, 5000), bytes(5000)), id="zeroed start"),
    ],
)
def test_file_that_is_no_video_is_refused_with_one_sentence(
    clip: Path, tmp_path: Path, damage: Callable[[bytearray], Any]
) -> None:
    path = damaged(clip, tmp_path / "bad.mp4", damage)
    with pytest.raises(RefusedError, match=r"^the video .*bad\.mp4 cannot be played: ") as refused, camera(path):
        pass
    assert refused.value.__context__ is None  # FFmpeg's own text stays out of tracebacks


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError), camera(tmp_path):
        pass


def test_cut_recording_is_played_up_to_the_cut(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", frames=40)
    path = damaged(
        whole, tmp_path / "cut.mkv", lambda content: content.__delitem__(slice(len(content) * 6 // 10, None))
    )
    numbers = taken(path, lambda frame: frame.number)
    assert 10 <= len(numbers) < 40
    assert numbers == list(range(len(numbers)))


def test_damage_in_the_middle_is_stepped_over(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.ts", frames=60, keyframes=10)
    random = np.random.default_rng(3)

    def scratch(content: bytearray) -> None:
        for place in random.integers(len(content) // 3, len(content) // 2, 40):
            content[place] ^= 0xFF

    path = damaged(whole, tmp_path / "scratched.ts", scratch)
    times = taken(path, lambda frame: frame.timestamp_ns)
    assert len(times) > 30
    assert (np.diff(times) > 0).all()


def test_nothing_but_damage_is_given_up_after_a_bounded_count(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", frames=300, size=(64, 64), codec="mjpeg", pixels="yuvj420p")

    def spoil(content: bytearray) -> None:
        place = content.find(
            b"00dc", content.find(b"movi")
        )  # each picture of an AVI file is such a chunk: name, length, bytes
        while (place := content.find(b"00dc", place + 8)) >= 0:
            length = int.from_bytes(content[place + 4 : place + 8], "little")
            content[place + 8 : place + 8 + length] = bytes(length)

    path = damaged(whole, tmp_path / "spoiled.avi", spoil)
    seen = []
    with pytest.raises(RefusedError, match="more than 100 parts in a row are damaged"), camera(path) as source:  # noqa: PT012
        for frame in source.frames():
            seen.append(frame.number)
            frame.close()
    assert seen == [0]


def test_picture_of_absurd_size_is_not_decoded(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", frames=2, size=(64, 64), codec="mjpeg", pixels="yuvj420p")

    def swell(content: bytearray) -> None:
        place = -1
        while (place := content.find(b"\xff\xc0", place + 1)) >= 0:  # start of frame: length, bits, height, width
            content[place + 5 : place + 9] = (16_000).to_bytes(2, "big") * 2

    with pytest.raises(RefusedError, match="cannot be played"), camera(damaged(whole, tmp_path / "huge.avi", swell)):
        pass


def test_unknown_codec_is_refused(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", frames=2, size=(64, 64), codec="mjpeg", pixels="yuvj420p")
    path = damaged(
        whole, tmp_path / "odd.avi", lambda content: content.__setitem__(slice(None), content.replace(b"MJPG", b"ZZZZ"))
    )
    with pytest.raises(RefusedError, match="cannot be played: "), camera(path):
        pass


def test_playlist_cannot_make_the_unit_call_out(tmp_path: Path) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        address = f"http://127.0.0.1:{server.server_port}/segment.ts"
        playlist = tmp_path / "list.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(RefusedError), camera(playlist):
            pass
        server.shutdown()
    assert asked == []


def test_missing_pyav_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="install the package python3-av"), camera(clip):
        pass


def test_usb_camera_is_asked_for_what_the_settings_say() -> None:
    asked = v4l2_input(
        V4l2Camera(device=Path("/dev/video2"), width=640, height=480, frames_per_second=12.5, format="nv12")
    )
    assert (asked.address, asked.demuxer, asked.live, asked.sensor_clock) == ("/dev/video2", "video4linux2", True, True)
    assert dict(asked.options) == {"video_size": "640x480", "framerate": "12.5", "input_format": "nv12"}


def test_unplugged_usb_camera_is_lost_not_refused(tmp_path: Path) -> None:
    settings = V4l2Camera(device=tmp_path / "video9")
    source = AvCamera(v4l2_input(settings), lores_size=LORES, clock=SystemClock())
    with pytest.raises(CameraLostError, match=r"video9 gives no pictures: it does not exist"), source:
        pass


def test_what_is_no_camera_device_is_lost(clip: Path) -> None:
    source = AvCamera(v4l2_input(V4l2Camera(device=clip)), lores_size=LORES, clock=SystemClock())
    with pytest.raises(CameraLostError), source:
        pass


def corner(frame: Frame) -> str:
    """Which half of the frame is red: the clip's left one, unless it was turned."""
    width, height = frame.main.width, frame.main.height
    picture = frame.main.window(0, 0, width, height).astype(int)
    halves = {
        "left": picture[:, : width // 2],
        "right": picture[:, width // 2 :],
        "top": picture[: height // 2],
        "bottom": picture[height // 2 :],
    }
    redness = {name: float((half[..., 0] - half[..., 2]).mean()) for name, half in halves.items()}
    return max(redness, key=lambda name: redness[name])


@pytest.mark.parametrize(("turn", "red"), [(0, "left"), (90, "top"), (180, "right"), (270, "bottom")])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuvj420p"])
def test_a_turned_camera_shows_its_picture_upright(tmp_path: Path, turn: int, red: str, pixels: str) -> None:
    codec = "mjpeg" if pixels == "yuvj420p" else "libx264"
    path = write_clip(tmp_path / "clip.mkv", frames=3, pixels=pixels, codec=codec)

    def look(frame: Frame) -> tuple[str, int, int]:
        main, lores = frame.main, frame.lores
        scale = min(LORES[0] / main.width, LORES[1] / main.height)
        shown = lores[: round(main.height * scale), : round(main.width * scale)]
        whole = main.window(0, 0, main.width, main.height)
        assert abs(whole.astype(int).mean((0, 1)) - shown.astype(int).mean((0, 1))).max() < 8  # both are turned alike
        assert (lores[round(main.height * scale) + 1 :] == LORES_BORDER).all()
        return corner(frame), main.width, main.height

    size = (320, 180) if turn % 180 == 0 else (180, 320)
    assert taken(path, look, rotate=turn) == [(red, *size)] * 3
    with camera(path, rotate=turn) as source:
        assert (source.info().width, source.info().height) == size


def test_a_recording_that_is_marked_as_turned_is_turned(tmp_path: Path) -> None:
    """The display matrix that phones write; FFmpeg's program puts one in without encoding anew."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed")
    flat, marked = write_clip(tmp_path / "flat.mp4", frames=3), tmp_path / "marked.mp4"
    command = [ffmpeg, "-v", "error", "-display_rotation:v:0", "-90", "-i", str(flat), "-c", "copy", str(marked)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this ffmpeg cannot mark a recording as turned")
    assert taken(marked, corner) == ["top"] * 3
    assert taken(marked, corner, rotate=270) == ["left"] * 3


@pytest.mark.parametrize("pixels", ["gray", "gray16le", "uyvy422", "rgb24", "bgr24", "yuyv422", "nv12", "yuv422p"])
def test_each_format_that_can_be_asked_for_is_read(pixels: str) -> None:
    """What a V4L2 camera of that format gives, through the converter, in true brightness."""
    assert V4l2Camera(device=Path("/dev/video0"), format=pixels)  # type: ignore[arg-type]
    grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 120, np.uint8), format="rgb24").reformat(format=pixels)
    shown = AvConverter(av, (32, 24)).convert(grey, 90)
    lores, main = shown.lores(), shown.main()
    assert (main.width, main.height) == (48, 64)
    assert abs(int(main.window(0, 0, 48, 64).mean()) - 120) <= 3
    assert abs(int(lores[:20, :10].mean()) - 120) <= 3
    shown.release()
    for gone in (shown.lores, shown.main, lambda: main.width):
        with pytest.raises(ValueError, match="was released"):
            gone()


def test_a_picture_that_nobody_asks_for_is_not_converted_and_gives_its_buffer_back() -> None:
    class Untouched:
        """Any look at it fails."""

    seen = Untouched()
    left = weakref.ref(seen)
    shown = AvConverter(av, (32, 24)).convert(seen)
    del seen
    frame = Frame(0, 0, shown.lores, shown.main, shown.release)
    assert left() is not None
    frame.close()
    assert left() is None
    with pytest.raises(ValueError, match="was released"):
        shown.main()


def test_a_library_that_is_there_and_does_not_load_is_told_apart_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text("raise AttributeError('_ARRAY_API not found')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "av"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"is installed but cannot be loaded \(AttributeError: _ARRAY_API"):
        load_av()
