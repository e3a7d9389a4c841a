# SPDX-License-Identifier: Apache-2.0
"""Which GStreamer pipeline of one's own may run in production: one camera, then one chain that only converts.

gst-launch's notation can name several chains, elements that read or write files, and elements that send pictures away;
an allow-list says what is left. A pipeline is text of elements and formats between ``!``; references to other elements
(``t.``), bins (``( )``) and quotes have no place in one chain.
"""

from __future__ import annotations

import re

SOURCES = ("libcamerasrc", "nvarguscamerasrc", "nvv4l2camerasrc", "v4l2src")
CONVERTERS = (
    "capsfilter", "jpegparse", "nvv4l2decoder", "nvvidconv", "queue", "v4l2convert", "v4l2jpegdec", "videoconvert",
    "videocrop", "videoflip", "videorate", "videoscale",
)  # fmt: skip
# They make room for whatever a picture's head claims, whatever was agreed on (jpegdec 1.22: 192 MB for 0.6 MB).
_BOUNDLESS = ("jpegdec", "nvjpegdec")
_ELEMENT = re.compile(r"([a-z0-9]+)((?:\s+[a-z][a-z0-9-]*=[A-Za-z0-9_/.,:=()-]+)*)")
_FORMAT = re.compile(
    r"(?:video/x-raw|image/jpeg)(?:\(memory:NVMM\))?(?:\s*,\s*[a-z-]+=(?:\([a-z]+\))?[A-Za-z0-9/:-]+)*"
)
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_/:-]+")
_FORBIDDEN_PROPERTIES = ("name", "location", "uri")  # ``name`` could take the place of the sink


def refuse_pipeline(text: str) -> str | None:
    """Say in one sentence why ``text`` may not run in production; None when it may."""
    first, *others = (part.strip() for part in text.split("!"))
    if (reason := _wrong(first, SOURCES, "begin with a camera")) is not None:
        return reason
    for part in others:
        if (
            _FORMAT.fullmatch(part) is None
            and (reason := _wrong(part, CONVERTERS, "be one chain from a camera by way of")) is not None
        ):
            return reason
    return None


def bounded(text: str, bound: str) -> str:
    """``text`` with the element ``bound`` behind each of its own; as it is where it is more than one chain.

    A decoder, or what scales, makes room for whatever its input claims, so a bound at the end alone comes too late.
    """
    if refuse_pipeline(text) is not None:
        return text
    parts = (part.strip() for part in text.split("!"))
    return " ! ".join(part if _FORMAT.fullmatch(part) else f"{part} ! {bound}" for part in parts)


def _wrong(part: str, known: tuple[str, ...], must: str) -> str | None:
    found = _ELEMENT.fullmatch(part)
    if found is not None and found[1] in _BOUNDLESS:
        return (
            f"in production {found[1]} decodes nothing: let 'source: v4l2' with 'format: mjpeg' do it, which is bounded"
        )
    if found is None or found[1] not in known:
        return f"in production it must {must}: {', '.join(known)}"
    for name, _, value in (text.partition("=") for text in found[2].split()):
        if name in _FORBIDDEN_PROPERTIES:
            return f"in production no element has a {name}: leave it out"
        if name == "device" and (_DEVICE.fullmatch(value) is None or ".." in value):
            return "in production a device is one of /dev: name that of the camera"
    return None
