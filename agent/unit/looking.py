# SPDX-License-Identifier: Apache-2.0
"""Where and how often a unit's detector looks, from its configuration."""

from __future__ import annotations

from agent.config.camera import Picamera2Camera, V4l2Camera
from agent.config.schema import Config, ZoneActivation
from agent.detect.cadence import Cadence
from agent.detect.change import HOLD_NS, ChangeTest, part_of
from agent.detect.view import GOOD_INPUT_PX, LEAST_INPUT_PX, WHOLE, ZoneView, smallest_input_px
from agent.inference.manifest import load_manifest

ALWAYS_NS = 2**62  # after the first frame, 146 years: no frame is skipped


def make_view(config: Config) -> ZoneView | None:
    """What the detector is shown; None is the whole picture."""
    if config.detection.view == "picture" or not isinstance(config.activation, ZoneActivation):
        return None
    return ZoneView(part_of(config.activation.polygon), config.activation.min_face_px)


def make_change_test(config: Config, *, hold_ns: int = HOLD_NS) -> ChangeTest:
    """Which frames the detector must see."""
    activation = config.activation
    part = part_of(activation.polygon) if isinstance(activation, ZoneActivation) else WHOLE
    if config.detection.look == "every_frame":
        hold_ns = ALWAYS_NS
    return ChangeTest(part, min_face_px=activation.min_face_px, hold_ns=hold_ns)


def make_cadence(config: Config) -> Cadence:
    """Which frames need no look while somebody is followed."""
    return Cadence(every_frame=config.detection.look == "every_frame")


def foreseen(config: Config) -> str:
    """What the smallest accepted face will be to the detector, as far as the configuration and the manifest tell."""
    camera, models = config.camera, config.models
    if not isinstance(camera, V4l2Camera | Picamera2Camera):
        return "the size of this camera's pictures is not known before it is open: postern doctor tells"
    if not models.manifest.exists():
        return f"{models.manifest} is not here, so the detector's input is not known"
    entry = load_manifest(models.manifest).entry(models.detector)
    pixels, advice = resolution(config, (camera.width, camera.height), (entry.input.width, entry.input.height))
    return advice or f"the {config.detection.view}; the smallest accepted face has {pixels:.0f} pixels there"


def resolution(config: Config, size: tuple[int, int], input_size: tuple[int, int]) -> tuple[float, str | None]:
    """Pixels of the detector's input for the smallest accepted face in pictures of ``size``, and what to do about it.

    The advice is None where the face is resolved.
    """
    view, least = make_view(config), config.activation.min_face_px
    box = (0, 0, *size) if view is None else view.box(size, input_size)
    pixels = smallest_input_px(box, input_size, least)
    if pixels >= LEAST_INPUT_PX:
        return pixels, None
    whole = int(pixels)  # rounded down: one that is just too small would be said to have what is needed
    wanted = -(-least * GOOD_INPUT_PX // max(whole, 1))
    ways = [f"raise activation.min_face_px to {wanted}", "choose a detector with a larger input"]
    if view is not None:
        ways.insert(1, "make the zone smaller")
    elif isinstance(config.activation, ZoneActivation):
        ways.insert(1, "set detection.view to 'zone'")
    text = f"faces of {least} px have {whole} pixels in the detector's input of {input_size[0]}x{input_size[1]}"
    few = f"too few to be found at once ({LEAST_INPUT_PX} are needed, {GOOD_INPUT_PX} are good)"
    return pixels, f"{text}, {few}: {', '.join(ways[:-1])}, or {ways[-1]}"
