# SPDX-License-Identifier: Apache-2.0
"""The video in a camera's description of its session (SDP, RFC 8866; RFC 2326 app. C for the addresses).

Only what is read here has any effect: one video of a codec that may be decoded, its parameter sets, its addresses.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from agent.camera.rtsp.wire import RtspError

NOT_VIDEO: Final = "it does not describe a video that can be decoded"
MAX_ADDRESS_CHARACTERS: Final = 1024
MAX_RATE: Final = 240.0  # frames per second; more is a made-up number
CLOCK: Final = 90_000  # Hz, of all three payload formats
# Encoding names (RFC 6184, 7798, 2435) and what FFmpeg calls their decoders.
_CODECS: Final = {"H264": "h264", "H265": "hevc", "JPEG": "mjpeg"}
_STATIC: Final = {26: "JPEG"}  # RFC 3551, section 6
_PARAMETER_SETS: Final = {"h264": ("sprop-parameter-sets",), "hevc": ("sprop-vps", "sprop-sps", "sprop-pps")}


class Video(NamedTuple):
    """What to set up: ``codec`` as FFmpeg calls it, addresses for requests, coded parameter sets (NAL units)."""

    codec: str
    payload_type: int
    control: str
    aggregate: str
    parameter_sets: tuple[bytes, ...]
    rate: float  # frames per second, 0 where it is not said


def video_of(body: bytes, base: str, codecs: str) -> Video:
    """The first video of one of ``codecs`` (names joined by commas); ``base`` is the address that it was found at.

    A name in another character set than UTF-8 does no harm: all that is read here is ASCII.

    Raises RtspError where there is none, or an address in it is none.
    """
    text = body.decode("utf-8", "replace").replace("\r\n", "\n")
    session, *media = re.split(r"(?m)^(?=m=)", text)
    aggregate = _address(base, _attribute(session, "control"))
    refused = ""
    for one in media:
        head = re.match(r"m=video [0-9]{1,5}(?:/[0-9]+)? RTP/AVPF? ([0-9]{1,3})\b", one)
        if head is None or int(head[1]) > 127:
            continue
        kind = int(head[1])
        name = _STATIC.get(kind) or _encoding(one, kind)
        codec = _CODECS.get(name)
        if codec is None or codec not in codecs.split(","):
            refused = name
            continue
        rate = re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,6})?", _attribute(one, "framerate"))
        return Video(
            codec,
            kind,
            _address(aggregate, _attribute(one, "control")),
            aggregate,
            _parameter_sets(codec, _format(one, kind)),
            float(rate[0]) if rate is not None and float(rate[0]) <= MAX_RATE else 0.0,
        )
    if refused:
        raise RtspError(f"{NOT_VIDEO}: set it to H.264, H.265 or MJPEG")
    raise RtspError(NOT_VIDEO)


def _attribute(lines: str, name: str) -> str:
    found = re.search(rf"(?m)^a={name}:[ \t]*+(\S*)[ \t]*+$", lines)
    return found[1] if found else ""


def _encoding(lines: str, kind: int) -> str:
    found = re.search(rf"(?m)^a=rtpmap:{kind} ([A-Za-z0-9-]{{1,32}})/{CLOCK}(?:/1)?[ \t]*$", lines)
    return found[1].upper() if found else ""


def _format(lines: str, kind: int) -> Mapping[str, str]:
    found = re.search(rf"(?m)^a=fmtp:{kind} (.*)$", lines)
    parts = (part.strip().partition("=") for part in (found[1] if found else "").split(";"))
    return {name.lower(): value for name, _, value in parts}


def _parameter_sets(codec: str, said: Mapping[str, str]) -> tuple[bytes, ...]:
    """What the description says of them; what is not base64 is left out, for most streams carry them as well."""
    found = []
    for name in _PARAMETER_SETS.get(codec, ()):
        for text in said.get(name, "").split(","):
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
    return tuple(one for one in found if one)


def _address(base: str, control: str) -> str:
    """``control`` as an address; where it is relative, appended to ``base``, as cameras expect it of players.

    It is the text of a request on the connection that there is; it opens none.
    """
    if "://" not in control:
        control = base if control in {"", "*"} else base + ("" if base.endswith("/") else "/") + control
    usable = re.fullmatch(r"rtsp://[!-~]+", control) and '"' not in control and "\\" not in control
    if not usable or len(control) > MAX_ADDRESS_CHARACTERS:
        raise RtspError(NOT_VIDEO)
    return control
