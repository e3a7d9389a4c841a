# SPDX-License-Identifier: Apache-2.0
"""What a unit tells about itself: its name in events, its ``info`` document, the settings that it may show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from agent import __version__
from agent.config.load import CONFIG_SCHEMA_ID
from agent.config.schema import Config, ZoneActivation
from agent.keys import UnitKey
from agent.match.policy import Policy
from agent.parse.strict_json import convert
from agent.unit.expected import expected
from agent.unit.stores import source_of
from agent.unit.world import board
from agent.uplink.info import CameraFacts, DetectionFacts, Info, ModelTask, PublicJwk, encode_info

if TYPE_CHECKING:
    from agent.camera.base import CameraInfo
    from agent.unit.models import Models


def make_info(
    config: Config,
    key: UnitKey,
    models: Models,
    policy: Policy,
    *,
    camera: CameraInfo | None,
    enrolled: int,
    verbs: tuple[str, ...],
    update: str | None,
) -> bytes:
    """Write the ``info`` document; ``camera`` is None until one was reached, ``update`` where none was taken back."""
    engine, second = models.detector.engine, models.detector.landmarker
    digests: dict[ModelTask, str] = {"detector": engine.digest, "embedder": models.embedder.model}
    if second is not None:
        digests["landmarks"] = second.engine.digest
    if models.pad is not None:
        digests["pad"] = models.pad.digest
    return encode_info(
        Info(
            source=source_of(config),
            name=config.unit.name,
            version=__version__,
            board=board(),
            runtime=engine.runtime,
            profile=config.profile,
            camera=None if camera is None else CameraFacts(camera.source, camera.width, camera.height),
            models=digests,
            policy=policy.digest,
            detection=DetectionFacts(config.detection.view, config.detection.look),
            config_schema=CONFIG_SCHEMA_ID,
            public_key=convert(key.public_jwk(), PublicJwk),
            kid=key.kid,
            enrolled=enrolled,
            expected=expected(policy, enrolled),
            activation="zone" if isinstance(config.activation, ZoneActivation) else "button",
            liveness="checked" if config.liveness == "require" else "not_checked",
            capabilities=verbs,
            update=update,
        )
    )


def public_facts(config: Config) -> Mapping[str, Any]:
    """What ``config/get`` may tell: no address, no path, no key."""
    return {
        "profile": config.profile,
        "purpose": config.purpose,
        "notice_version": config.notice.version,
        "liveness": config.liveness,
        "liveness_parts": list(config.liveness_parts),
        "activation": _without_places(msgspec.to_builtins(config.activation, enc_hook=str)),
        "retention_days": config.gallery.retention_days,
        "events": {
            "presence": config.events.presence,
            "audience": config.events.audience,
            "subject": config.events.subject,
        },
        "models": {"detector": config.models.detector, "embedder": config.models.embedder},
    }


def _without_places(activation: dict[str, Any]) -> dict[str, Any]:
    """Of inputs the kinds alone: where their wires and devices are is nobody's business."""
    if "inputs" not in activation:
        return activation
    return {**activation, "inputs": [str(one["kind"]) for one in activation["inputs"]]}
