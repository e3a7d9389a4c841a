# SPDX-License-Identifier: Apache-2.0
"""What ``postern doctor`` looks at. A check yields findings; an error that it raises is a finding, too."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from agent.audit.ageing import Ageing, read_kept
from agent.camera.base import CameraInfo
from agent.camera.open import open_camera
from agent.clock import Clock
from agent.config.camera import RtspCamera
from agent.config.door import CommandInput
from agent.config.schema import Config
from agent.console.link import can_listen
from agent.console.opening import host_of, read_opening
from agent.detect.change import ChangeTest
from agent.door.acts import Request
from agent.door.codes import QrCodes
from agent.door.feedback import TEXTS, write_text
from agent.door.gpio import GpiodLines
from agent.door.lines import Lines
from agent.door.osdp import OsdpPanels, Panels
from agent.errors import CameraLostError, InUseError, PosternError, StorageError, in_one_sentence, printable
from agent.gallery.database import count_others, count_references
from agent.match.measured_range import shortfall
from agent.match.policy import MILLION, Policy
from agent.mqtt.credentials import load_identity, read_ends
from agent.protocol.pseudonym import epochs_from
from agent.protocol.token import cbor
from agent.unit.assemble import credentials_of, load_key, load_policy, load_site_key
from agent.unit.at_the_door import lights, make_input, panels, pulses, reads_tokens, switch_off
from agent.unit.broker_check import check_broker
from agent.unit.confirm import tell_ageing
from agent.unit.endings import AUTHORITY_NOTICE, NOTICE
from agent.unit.epochs import load_epoch_keys
from agent.unit.generation import read_known
from agent.unit.held import is_held
from agent.unit.key_files import KeptFiles, UnitFiles
from agent.unit.liveness import make_passive
from agent.unit.looking import make_change_test, resolution
from agent.unit.models import load_models
from agent.unit.start_log import UNASKED_CLOCK, damaged, of_other_models
from agent.unit.stores import open_gallery
from agent.unit.tokens import load_token_list, shortcomings
from agent.unit.wiring import all_buttons
from agent.uplink.health import read_disk_free

LOW_DISK_BYTES = 256 * 1024 * 1024  # four times what the unit itself calls low: an installer can still choose
SLOW_FIRST_S = 4.0  # seconds to the first picture; with a key interval of two seconds it is there by then
CAMERA_FRAMES = 30  # enough for a steady figure: about a second
CALM = 0.5  # of the frames: a scene in which more of them changed is not at rest
PRESS_S = 15.0  # for a person to walk to the button
PANEL_S = 8.0  # for a controller to find a reader and set up the secure channel
PRESS_LOOK_S = 0.05
PROC = Path("/proc")
SLOW_CAMERA = 0.7  # of the frame rate that was asked for


class Finding(msgspec.Struct, frozen=True):
    """One line of the table; ``text`` says what is, and what to do unless all is well."""

    check: str
    state: Literal["ok", "advice", "fault"]
    text: str


Found = Iterator[tuple[Literal["ok", "advice", "fault"], str]]
Check = Callable[[Config, Clock], Found]


def examine(name: str, config: Config, clock: Clock, *, checks: Mapping[str, Check] | None = None) -> Iterator[Finding]:
    """Do the check ``name``, of ``CHECKS`` by default; an error, whatever it is, ends it and is its last finding."""
    try:
        for state, text in (CHECKS if checks is None else checks)[name](config, clock):
            yield Finding(name, state, text)
    except PosternError as error:
        yield Finding(name, "fault", str(error))
    except Exception as error:  # noqa: BLE001 - a check that fails in an unforeseen way must not end the others
        yield Finding(name, "fault", in_one_sentence(error)[0])


def check_folders(config: Config, _: Clock) -> Found:
    """Places that are written must be writable, and by nobody else."""
    folders = {config.gallery.path.parent, config.outbox.path.parent, config.audit.path.parent, config.keys.folder}
    for folder in sorted(folders):
        if not folder.is_dir():
            yield "fault", f"{folder} does not exist: create it for the service (mode 0700)"
        elif not os.access(folder, os.W_OK):
            yield "fault", f"{folder} is not writable for this user: run as the service's user, or correct its owner"
        elif folder.stat().st_mode & 0o077:
            yield "advice", f"{folder} is open to other users: chmod 700 {folder}"
        else:
            yield "ok", f"{folder} is private and writable"


def check_disk(config: Config, _: Clock) -> Found:
    """Events wait on the disk while the broker is away."""
    free = read_disk_free(config.outbox.path.parent)
    text = f"{free / 2**20:.0f} MiB are free beside {config.outbox.path}"
    if free < LOW_DISK_BYTES:
        yield "advice", f"{text}: make room, events wait there while the broker is away"
    else:
        yield "ok", text


def check_keys(config: Config, clock: Clock) -> Found:
    """Signing key, site key and epoch keys."""
    yield "ok", f"signing key {load_key(config).kid}"
    yield "ok", f"site key {load_site_key(config).kid}"
    held = load_epoch_keys(config).epochs(config.events.audience)
    now, *coming = epochs_from(clock.now())
    if now not in held:
        audience = config.events.audience
        yield "fault", f"no epoch key for audience '{audience}' in {now}: issue keys at the site, install them"
    elif missing := [epoch for epoch in coming if epoch not in held]:
        yield "advice", f"no epoch key for {', '.join(missing)} yet: install the next ones before {now} is over"
    else:
        yield "ok", f"epoch keys for {', '.join(held)}"


def check_certificate(config: Config, clock: Clock) -> Found:
    """Show the TLS identity, and how long it lasts."""
    identity = load_identity(credentials_of(config), clock, common_name=config.unit.id)
    left = identity.expires - clock.now()
    text = f"{identity.common_name}, valid until {identity.expires:%Y-%m-%d}"
    if left < NOTICE:
        yield "advice", f"{text}: {left.days} days left, have it renewed"
    else:
        yield "ok", text
    _, authority = read_ends(credentials_of(config))
    if authority - clock.now() < AUTHORITY_NOTICE:
        yield (
            "advice",
            f"the site's authority ends on {authority:%Y-%m-%d}: make a new site before, every unit joins anew",
        )


def check_clock(_: Config, clock: Clock) -> Found:
    """Order never depends on the clock, but certificates, epochs and consents do."""
    if clock.state() == "synced":
        yield "ok", f"{clock.now():%Y-%m-%d %H:%M:%S} UTC, synchronised"
    elif (refusal := clock.refusal()) is not None:
        yield "fault", UNASKED_CLOCK.format(refusal)
    else:
        text = "not known to be right: let systemd-timesyncd reach a time server; until then events say 'unsynced'"
        yield "advice", f"{clock.now():%Y-%m-%d %H:%M:%S} UTC, {text}"


def check_state(config: Config, clock: Clock) -> Found:
    """What the unit has to be told: whether its clock is right, and whether files that were put back may count."""
    files = KeptFiles(config.outbox.path)
    known = read_known(files.generation)
    if known is not None and known.doubt is not None:
        yield "fault", known.doubt
    else:
        yield "ok", "no file was put back to an older state" if known else "nothing was kept yet"
    if read_kept(files.time) is None:
        yield "ok", "a new unit: nothing is destroyed for its age before a day of running"
        return
    ageing = Ageing(clock, files.time, look_only=True)
    if ageing.asks():
        yield "advice", tell_ageing(ageing)
    elif ageing.settled() is None:
        yield "ok", "nothing is destroyed for its age before a day of running with the right time"
    else:
        yield "ok", "the clock agrees with what this unit knows"


def check_memory(_config: Config, _clock: Clock, proc: Path = PROC) -> Found:
    """See that references, which are in memory, reach no disk; ``proc`` is where the kernel says so (proc(5))."""
    swaps = [line.split()[0] for line in _lines(proc / "swaps")[1:]]
    plain = [swap for swap in swaps if not Path(swap).name.startswith("zram")]
    if plain:
        yield "advice", f"swap on {', '.join(plain)}: switch it off; the service does not swap, this command may"
    else:
        yield "ok", "no swap on a disk"
    handler = "".join(_lines(proc / "sys/kernel/core_pattern"))
    limited = resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    if (limited and not handler.startswith("|")) or handler.endswith("/bin/false"):
        yield "ok", "no core dumps"
    else:
        yield "advice", "a crash would write memory to disk: install deploy/sysctl.conf, or run under the service"


def check_models(config: Config, _: Clock) -> Found:
    """Digests, outputs, and the golden answer of this machine; then the policy for this embedder."""
    models = load_models(config)
    width, height = models.detector.input_size
    yield "ok", f"detector {config.models.detector}, {width}x{height}, answers as listed"
    yield "ok", f"embedder {config.models.embedder}, answers as listed"
    if models.pad is not None:
        make_passive(models.pad)
        yield "ok", f"liveness network {config.models.pad}, answers as listed"
    policy = load_policy(config, models)
    yield from tell_policy(policy, count_references(config.gallery.path, policy.model, policy.formerly))
    if (others := count_others(config.gallery.path, policy.model, policy.formerly)) > 0:
        yield "advice", of_other_models(others)


def tell_policy(policy: Policy, size: int) -> Found:
    """What a policy promises for a gallery of ``size`` references, and which part of it was measured."""
    promise = f"FPIR at most {policy.target_fpir:g} an attempt with up to {policy.covered_references} people"
    yield (
        "ok",
        f"policy {policy.digest[:19]}…, {promise}, measured up to {policy.measured_references}, then extrapolated",
    )
    if (misses := policy.misses(size)) is not None:
        low, high = misses.low_ppm / MILLION, misses.high_ppm / MILLION
        by = "measured" if policy.threshold(misses.gallery, policy.probe.first).state == "measured" else "extrapolated"
        missed = f"{misses.fnir_ppm / MILLION:.2%} are missed at first look (FNIR, 95 %: {low:.2%} to {high:.2%})"
        yield "ok", f"of people who are enrolled {missed}, in a gallery of {misses.gallery} at {by} thresholds"
    if (problem := shortfall(policy, size)) is not None:
        yield "advice", problem


def check_gallery(config: Config, clock: Clock) -> Found:
    """Open every reference with this unit's key."""
    try:
        gallery = open_gallery(config, load_key(config), clock, look_only=True)
    except InUseError:
        yield "ok", "in use by the running unit"
        return
    with gallery:
        held, unreadable = len(gallery), gallery.unreadable()
    if unreadable:
        yield "fault", damaged(unreadable, held)
    else:
        yield "ok", f"{held} people enrolled"


def check_camera(config: Config, clock: Clock) -> Found:
    """Real frames, and their rate."""
    size, change = load_models(config).detector.input_size, make_change_test(config, hold_ns=0)
    began_ns = clock.monotonic_ns()
    try:
        with open_camera(config.camera, lores_size=size, clock=clock) as camera:
            info, waited_ns = camera.info(), 0
            stamps: list[int] = []
            for frame in islice(camera.frames(), CAMERA_FRAMES):
                with frame:
                    stamps.append(frame.timestamp_ns)
                    change.is_due(frame, busy=False)
                    waited_ns = waited_ns or clock.monotonic_ns() - began_ns
    except CameraLostError as error:
        if isinstance(config.camera, RtspCamera) or not is_held(config):  # many may watch a network camera
            raise
        raise CameraLostError(f"{error} (the unit is running and holds the camera: systemctl stop postern)") from error
    if len(stamps) < 2:
        yield "fault", f"{info.source} gave {len(stamps)} frames: it must give a steady stream"
        return
    rate = (len(stamps) - 1) * 1e9 / max(stamps[-1] - stamps[0], 1)
    text = f"{info.source}, {info.width}x{info.height}, {rate:.1f} frames/s"
    if info.live and waited_ns > SLOW_FIRST_S * 1e9:
        advice = "and so does each recovery: set the camera's key interval (GOP) to one or two seconds"
        yield "advice", f"the first picture took {waited_ns / 1e9:.0f} s, {advice}"
    if info.live and rate < SLOW_CAMERA * info.frames_per_second:
        yield "advice", f"{text} instead of {info.frames_per_second:g}: more light, or less resolution"
    else:
        yield "ok", text
    yield from tell_looking(config, change, info, size)


def tell_looking(config: Config, change: ChangeTest, camera: CameraInfo, input_size: tuple[int, int]) -> Found:
    """How much of an empty scene the detector has to see, and whether it sees the smallest faces there."""
    seen = f"the detector had to look at {change.looked} of {change.looked + change.skipped} frames"
    if config.detection.look == "every_frame" or change.looked <= CALM * (change.looked + change.skipped):
        yield "ok", seen
    else:
        what = "if nobody was there, the light flickers or something moves where people act"
        yield "advice", f"{seen}: {what}; the unit then works all day as if somebody were there"
    pixels, advice = resolution(config, (camera.width, camera.height), input_size)
    if advice is None:
        yield "ok", f"the smallest accepted face has {pixels:.0f} pixels in the detector's input"
    else:
        yield "advice", advice


def check_inputs(config: Config, clock: Clock, lines: Lines | None = None) -> Found:
    """Each button is there, free, and heard when somebody presses it; ``lines`` are the board's, of a rig another's."""
    wanted = [(name, one) for name, one in all_buttons(config) if not isinstance(one, CommandInput)]
    if not wanted:
        yield "ok", "no button; who enrols turns their head as the unit asks"
    for name, one in wanted:
        opened = make_input(config, one, lines or GpiodLines(), clock, Request())
        try:
            yield "advice", f"{name}: press it now, within {PRESS_S:.0f} s"
            end_ns = clock.monotonic_ns() + round(PRESS_S * 1e9)
            while not (pressed := opened.pressed()) and clock.monotonic_ns() < end_ns:
                clock.sleep(PRESS_LOOK_S)
        finally:
            opened.close()
        if pressed:
            yield "ok", f"{name}: pressed, and heard"
        else:
            yield "fault", f"{name}: nothing was heard: look at the wiring, bias and active_low, or the key's name"


def check_tokens(config: Config, clock: Clock) -> Found:
    """What people may hold up is read and taken."""
    if not reads_tokens(config):
        yield "ok", "no tokens are taken here"
        return
    QrCodes()
    cbor()
    problems = shortcomings(config, clock)
    yield from (("fault", problem) for problem in problems)
    if not problems:
        ends = load_token_list(UnitFiles(config.keys.folder), site=config.unit.site).expires_at
        yield "ok", f"tokens are taken; the list of void ones counts until {ends}, renew it before"


def check_outputs(config: Config, clock: Clock, lines: Lines | None = None, to_panels: Panels | None = None) -> Found:
    """Each line is there and free; taking it switches it off, and nothing opens. The display can be written.

    ``lines`` and ``to_panels`` are the board's, of a rig others.
    """
    count = len(pulses(config)) + len(lights(config))
    problems, runs = switch_off(config, lines or GpiodLines()), is_held(config)
    why = " (the unit is running and holds its lines: systemctl stop postern)" if runs else ""
    yield from (("fault", f"{problem}{why}") for problem in problems)
    if not problems:
        yield "ok", f"{count} output lines, all off" if count else "no output line"
    if config.feedback.text is not None and not runs:  # a unit that runs tells it by itself
        try:
            write_text(config.feedback.text, TEXTS["ready"])
        except StorageError as error:
            yield "fault", f"feedback.text: {error}"
    for name, spec in panels(config).items():
        opened = (to_panels or OsdpPanels()).open_panel(spec, clock, lambda _: None)
        try:
            end_ns = clock.monotonic_ns() + round(PANEL_S * 1e9)
            while not (secure := opened.is_secure()) and clock.monotonic_ns() < end_ns:
                clock.sleep(PRESS_LOOK_S)
        finally:
            opened.close()
        if secure:
            yield "ok", f"{name}: {spec} talks to this unit, and both have the same key"
        else:
            advice = "check the wires, address and baud rate, and that both have the same key"
            yield "fault", f"{name}: {spec} does not talk to this unit: {advice}"


def check_console(config: Config, clock: Clock) -> Found:
    """The console's address is this machine's, and what it is made of is installed."""
    console = config.console
    if console is None:
        yield "ok", "none"
        return
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        yield "fault", f"{' and '.join(missing)} not installed: apt install python3-starlette python3-uvicorn"
    elif not can_listen(console.address, console.port):
        yield "fault", f"{console.address} is no address of this machine: correct console.address"
    else:
        opening = read_opening(console.folder, clock)
        left = 0 if opening is None else opening.seconds_left(clock)
        where = f"https://{host_of(console.address, console.port)}/"
        yield "ok", f"{where}, open for {left} s" if left else f"{where}, closed"


CHECKS: Mapping[str, Check] = {
    "folders": check_folders,
    "disk": check_disk,
    "memory": check_memory,
    "clock": check_clock,
    "state": check_state,
    "keys": check_keys,
    "certificate": check_certificate,
    "models": check_models,
    "gallery": check_gallery,
    "camera": check_camera,
    "inputs": check_inputs,
    "tokens": check_tokens,
    "outputs": check_outputs,
    "broker": check_broker,
    "console": check_console,
}


def _lines(path: Path) -> list[str]:
    try:
        return [printable(line) for line in path.read_text("ascii", errors="replace").splitlines()]
    except OSError:
        return []
