# SPDX-License-Identifier: Apache-2.0
"""The statistics and tables of the benches: a wrong ratio would be a false promise."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.match.presence import PresenceChange
from agent.match.records import Match
from agent.outbox.queue import Outbox
from agent.protocol.subject import SubjectId
from agent.unit.recorder import Recorder
from tools.lib.bench.arithmetic import has_dot_product, instruction_sets
from tools.lib.bench.clip import VISIT_S, VISITORS
from tools.lib.bench.effort import Effort
from tools.lib.bench.installed import BY_PIP, DEBIAN, closure, size_of
from tools.lib.bench.markdown import markdown
from tools.lib.bench.networks import FAILURE, MATCH, NEARLY, PEAK, STAY, embedder_section, peak_section
from tools.lib.bench.peak import SHAPES, Shape, layer, macs_of, peak_case
from tools.lib.bench.playing import share
from tools.lib.bench.probe import Stopwatch
from tools.lib.bench.report import NOT_MEASURED, Bar, Section, as_json, number, table
from tools.lib.bench.running import IDLE_RAW, MAX_IDLE_PERCENT, PLAYING, Beside, PeerRun, service_section
from tools.lib.bench.service import Run, compile_program, run_service
from tools.lib.bench.timing import Timing, alternate, percentile, ratio, spread
from tools.lib.demo.site import CommandError

ROOT = Path(__file__).parents[2]
FACTS = {
    "command": "tools/bench --markdown",
    "date": "2026-11-24T12:00:00+00:00",
    "processor": "A processor",
    "instructions": "x86_64: avx2",
    "cores": "2",
    "python": "3.11.7",
    "packages": "numpy 2",
    "load_before": "0.1 0.1 0.1",
    "load_after": "1.0 0.5 0.2",
}
TIMES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30)


@settings(max_examples=50)
@given(TIMES)
def test_the_spread_is_in_order_and_within_what_was_measured(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found.p10 <= found.median <= found.p90 <= max(values)
    assert found.count == len(values)


def test_percentiles_are_interpolated_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([7.0], 0.9) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_round_that_was_slow_for_both_does_not_change_the_ratio() -> None:
    assert ratio([30, 300, 30], [10, 100, 10]).median == 3
    assert ratio([30, 300, 30], [10, 100, 10]).p90 == 3


def test_every_case_runs_in_every_round_and_takes_its_turn_at_going_first() -> None:
    calls: list[str] = []

    def case(name: str) -> None:
        calls.append(name)
        end = time.process_time() + 0.002
        while time.process_time() < end:
            pass

    timings = alternate({"a": lambda: case("a"), "b": lambda: case("b")}, rounds=4, round_s=0.0)
    assert calls[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    for timing in timings.values():
        assert len(timing.cpu_ms) == 4
        assert timing.cpu.median == pytest.approx(2, rel=0.5)
        assert all(wall >= cpu * 0.9 for wall, cpu in zip(timing.wall_ms, timing.cpu_ms, strict=True))


def test_what_was_not_measured_says_so_and_keeps_no_bar() -> None:
    section = Section("detector", bars=[Bar("three times as fast", "peer / ours", ">=", 3)])
    section.timing("peer", None)
    section.values("peer / ours", "times", [])
    text = "\n".join(table(section))
    assert text.count(NOT_MEASURED) == 3
    content = as_json([section], {})["sections"]["detector"]
    assert content["bars"] == {"three times as fast": None}
    assert content["figures"]["peer"] == {"unit": "ms", "median": None}


@pytest.mark.parametrize(("value", "holds"), [(2.99, False), (3.0, True), (3.4, True)])
def test_a_bar_is_judged_by_the_median(value: float, holds: bool) -> None:
    section = Section("detector", bars=[Bar("three times as fast", "ratio", ">=", 3)])
    section.values("ratio", "times", [0.1, value, 99.0])
    assert section.bars[0].holds(section.figures) is holds
    assert ("DOES NOT HOLD" in "\n".join(table(section))) is not holds


def test_the_tables_of_the_readme_show_what_was_measured_what_missed_and_what_was_not() -> None:
    section = Section("embedder", bars=[Bar("three times", "MobileFaceNet, ONNX Runtime / ours", ">=", 3)])
    section.timing("ours", Timing((1.0, 2.0, 3.0), (1.0, 2.0, 3.0)))
    section.timing("MobileFaceNet, ONNX Runtime", Timing((5.0, 5.0, 5.0), (5.0, 5.0, 5.0)))
    section.values("MobileFaceNet, ONNX Runtime / ours", "times", [2.5, 2.5, 2.5])
    gallery = Section("gallery", bars=[Bar("quick", "compare() with 10000 references", "<=", 0.5)])
    gallery.values("compare() with 10000 references", "ms", [0.25])
    weight = Section("install", bars=[Bar("small", BY_PIP, "<=", 60), Bar("small", DEBIAN, "<=", 60)])
    weight.single(BY_PIP, "MB", 118)
    weight.single(DEBIAN, "MB", 45.2)
    weight.notes.append("largest: something")
    lines = markdown([section, gallery, weight], FACTS)
    peer = "MobileFaceNet, ONNX Runtime: 5.00 ms (5.00 to 5.00)"
    assert f"| embedder | 2.00 ms (1.20 to 2.80) | {peer} | **2.50** (2.50 to 2.50) | ≥ 3 times |" in lines
    assert "|  |  | MobileFaceNet, OpenCV dnn: not measured | not measured |  |" in lines
    assert "| comparison with 10 000 references | 0.25 ms | ≤ 0.5 ms |" in lines
    assert "| installed by pip, without numpy | **118** MB | ≤ 60 MB |" in lines
    assert "| Debian package, installed | 45.2 MB | ≤ 60 MB |" in lines
    assert lines[-1] == "- largest: something"


def test_the_tables_say_by_which_command_on_which_machine_and_how_busy_it_was() -> None:
    head = "\n".join(markdown([], FACTS)[:4])
    for value in FACTS.values():
        assert value[:10] in head


def test_memory_and_start_up_stand_beside_the_peers() -> None:
    ours = Run(100, 0.5, 0.6, 1, 1, 100, 50, 3, 12)
    peers = PeerRun(frames=100, faces=9, start_s=0.9, start_cpu_s=0.8, cpu_s=2, wall_s=2, resident_mib=150)
    lines = markdown([service_section([ours], [peers], ours, [], {IDLE_RAW: [ours]})], FACTS)
    loop = "YuNet at 320x240 + MobileFaceNet"
    (memory,) = (line for line in lines if line.startswith("| resident memory"))
    (start,) = (line for line in lines if line.startswith("| start"))
    assert f"{loop}: 150 MiB | 1.50 | ≤ 110 MiB |" in memory
    assert f"**0.60** s | {loop}: 0.90 s | 1.50 | ≤ 0.5 s |" in start
    (alone,) = (
        line for line in markdown([service_section([ours], [], ours, [], {})], FACTS) if line.startswith("| start")
    )
    assert alone.count(NOT_MEASURED) == 2
    (idle,) = (line for line in lines if line.startswith("| the same, empty door, uncompressed"))
    assert "**100** %" in idle
    assert f"≤ {MAX_IDLE_PERCENT:g} %" in idle


def test_beside_a_busy_process_the_same_bars_hold() -> None:
    quiet = Run(100, 0.3, 0.4, 0.001, 1, 100, 50, 3, 12)
    slow = Run(100, 0.5, 0.6, 0.1, 1, 111, 50, 3, 12)
    delays = [{"frame_ms": 70.0, "append_ms": 5.0}]
    busy = Beside([slow], slow, delays, [slow])
    lines = markdown([service_section([quiet], [], quiet, delays, {IDLE_RAW: [quiet]}, busy)], FACTS)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    assert "| **0.60** s | ≤ 0.5 s |" in rows["beside a busy process: start → first frame processed"]
    assert "| **70.0** ms | ≤ 60 ms |" in rows["beside a busy process: frame → PUBACK, p95"]
    assert "| **111** MiB (111 to 111) | ≤ 110 MiB |" in rows["beside a busy process: resident memory"]
    assert "| **10.0** % |" in rows["beside a busy process: empty door, uncompressed pictures"]


def test_a_visit_costs_as_many_runs_of_the_embedder_as_the_policy_says() -> None:
    effort = Effort(rounds=1, round_s=0, passes=0, clip_s=0, visits_s=0, idle_s=0, commits=0, events=0)
    section = embedder_section(np.zeros((112, 112, 3), np.uint8), None, effort)
    medians = {figure.name: figure.value.median for figure in section.figures if figure.value is not None}
    assert medians[MATCH] == pytest.approx(6 * medians["ours"])
    assert medians[FAILURE] == pytest.approx(6 * medians["ours"])
    assert medians[NEARLY] == pytest.approx(10 * medians["ours"])
    assert medians[STAY] == pytest.approx(medians["ours"])


def test_what_playing_a_recording_takes_is_told_beside_the_empty_door(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    clip = tmp_path / "idle.nut"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("rawvideo", rate=50)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
    alone, run = share(clip, 0.3), Run(100, 0.5, 0.6, 1, 1, 100, 50, 3, 12)
    assert 0 < alone <= 100
    lines = markdown([service_section([run], [], run, [], {IDLE_RAW: [run]}, playing=[alone])], FACTS)
    assert any(line.startswith(f"| {PLAYING} | ") and "%" in line for line in lines)


def test_the_program_is_compiled_before_its_start_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    compile_program()
    assert list(tmp_path.rglob("agent/pipeline.*.pyc"))
    assert list(tmp_path.rglob("bench/peers.*.pyc"))


def test_json_has_median_spread_and_wall_time() -> None:
    section = Section("detector")
    section.timing("ours", Timing((1.0, 2.0, 3.0), (10.0, 20.0, 30.0)))
    figure = json.loads(json.dumps(as_json([section], {"cores": 2})))["sections"]["detector"]["figures"]["ours"]
    assert (figure["median"], figure["count"], figure["wall"]["median"]) == (2.0, 3, 20.0)


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (99.96, "100.0"), (3.456, "3.46"), (0.0236, "0.0236")])
def test_numbers_have_as_many_digits_as_help(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_layer_of_the_peak_runs_and_its_work_is_that_of_its_file(shape: Shape) -> None:
    peak_case(shape)()
    assert macs_of(layer(shape)) == shape.macs


def test_the_peak_is_that_of_the_fastest_layer_and_no_other() -> None:
    section = peak_section(Effort(rounds=1, round_s=0, passes=0, clip_s=0, visits_s=0, idle_s=0, commits=0, events=0))
    medians = {figure.name: figure.value.median for figure in section.figures if figure.value is not None}
    assert medians[PEAK] == max(medians[str(shape)] for shape in SHAPES)
    share = 100 * medians["embedder, rate"] / medians[PEAK]
    assert medians["embedder, share of the fastest layer"] == pytest.approx(share)


def test_an_installation_counts_all_that_is_needed_once() -> None:
    needed = closure("postern")
    assert {"postern", "numpy", "cryptography", "msgspec"} <= needed
    assert not needed & {"pytest", "hypothesis", "onnxruntime"}  # extras are not what a unit needs
    assert size_of("numpy") > 1_000_000
    assert size_of("no-such-package") == 0


def test_work_is_counted_from_the_model_file() -> None:
    assert 20e6 < macs_of((ROOT / "models" / "detector-320x240.tflite").read_bytes()) < 400e6


def test_visitors_come_back_only_after_their_visit_has_ended() -> None:
    assert (VISITORS - 1) * VISIT_S > 10  # else the second round would make no events


def test_a_service_that_cannot_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="did not start"):
        run_service(tmp_path / "missing.yaml")


def test_the_stopwatch_passes_on_what_the_service_says_and_notes_matches_alone(tmp_path: Path) -> None:
    told: list[tuple[object, ...]] = []

    class Told(Outbox):
        def __init__(self) -> None: ...

        def append(self, *_: object, **__: object) -> int:
            return len(told)

        def acked(self, *seqs: int) -> None:
            told.append(seqs)

    class Telling(Recorder):
        def __init__(self) -> None: ...

        def outcome(self, what: object, granted: Sequence[str] = ()) -> None:
            told.append((what, granted))
            outbox.append(SimpleNamespace(kind="match" if isinstance(what, Match) else "presence"))

    Stopwatch(tmp_path / "times.jsonl").attach(Telling, Told)
    match, left = (
        Match(SubjectId(bytes(16)), "door", time.monotonic_ns()),
        PresenceChange(SubjectId(bytes(16)), "left", "door", 1),
    )
    outbox, recorder = Told(), Telling()
    recorder.outcome(match, ("door",))
    recorder.outcome(left)
    outbox.acked(1, 2)
    assert told == [(match, ("door",)), (left, ()), (1, 2)]
    (line,) = (tmp_path / "times.jsonl").read_text().splitlines()
    assert json.loads(line)["frame_ms"] >= json.loads(line)["append_ms"] >= 0


def test_an_unknown_section_is_refused() -> None:
    command = [sys.executable, "-m", "tools.lib.bench", "colour"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no section colour" in done.stderr


@pytest.mark.parametrize(
    ("cpuinfo", "words", "dot"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", ["avx2", "avx512_vnni", "no matrix unit"], True),
        ("flags\t\t: fpu avx2 amx_int8\n", ["no 8-bit dot product", "amx_int8"], False),
        ("Features\t: fp asimd evtstrm\n", ["asimd", "no 8-bit dot product"], False),
        ("", ["no 8-bit dot product", "no matrix unit"], False),
    ],
)
def test_the_bench_says_which_instructions_decide(cpuinfo: str, words: list[str], *, dot: bool) -> None:
    said = instruction_sets(cpuinfo)
    assert all(word in said for word in words)
    assert has_dot_product(cpuinfo) is dot
