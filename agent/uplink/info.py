# SPDX-License-Identifier: Apache-2.0
"""The info document: what this unit is. Retained, informative, without secrets.

It carries the unit's public key for comparison by eye. Trust never comes from here: a verifier takes keys
from the site's signed trust file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.protocol.names import Digest, Source

Text = Annotated[str, Meta(min_length=1, max_length=128)]
ModelTask = Literal["detector", "landmarks", "embedder", "pad"]
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
PublicJwk = dict[Literal["kty", "crv", "x", "y"], str]  # an EC key, RFC 7518 sec. 6.2


class CameraFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The camera without address or credentials."""

    kind: Text
    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]


class DetectionFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the unit was told to look. How often it did look follows from who passed by, and is told to nobody."""

    view: Literal["picture", "zone"]
    look: Literal["changes", "every_frame"]


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the policy says of decisions in a gallery of this size, in parts per million; whole numbers only.

    ``fpir_ppm`` is for one attempt of somebody who is not enrolled, at a threshold that was measured, extrapolated, or
    is only the strictest of a table that does not reach so far. ``fnir_ppm`` (95 %: from ``fnir_low_ppm`` on)
    is of somebody who is enrolled, measured in a gallery of ``gallery`` people; these four are None where nothing was
    measured for so many.
    """

    fpir_ppm: Ppm
    threshold: Literal["measured", "extrapolated", "beyond"]
    gallery: Annotated[int, Meta(ge=1)] | None
    fnir_ppm: Ppm | None
    fnir_low_ppm: Ppm | None
    fnir_high_ppm: Ppm | None


class Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One unit. ``models`` maps the task to the model's digest."""

    type: Literal["io.postern.info.v1"] = "io.postern.info.v1"
    source: Source
    name: Text
    version: Text
    board: Text
    runtime: Text
    profile: Literal["production", "demo"]
    camera: CameraFacts | None  # None while the camera is not there
    models: dict[ModelTask, Digest]
    policy: Digest
    detection: DetectionFacts
    config_schema: Text  # id of the JSON Schema of the configuration
    public_key: PublicJwk
    kid: Text
    enrolled: Annotated[int, Meta(ge=0)]
    expected: Expected
    activation: Literal["zone", "button", "token"]
    liveness: Literal["not_checked", "checked"]
    capabilities: tuple[Text, ...]  # verbs that this unit answers
    update: Text | None = None  # why the last upgrade was taken back, where it was


def encode_info(info: Info) -> bytes:
    """RFC 8785 bytes."""
    return rfc8785.dumps(msgspec.to_builtins(info))
