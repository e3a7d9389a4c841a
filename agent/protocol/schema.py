# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas of what a unit sends, generated from the types that the verifier itself uses."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.protocol.event import Event
from agent.protocol.trust import TrustList

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an event as on the wire."""
    return {"$schema": SCHEMA_DIALECT, "title": "Postern event", **plain(msgspec.json.schema(Event))}


def trust_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the payload of a site's signed list of units."""
    return {"$schema": SCHEMA_DIALECT, "title": "Postern trust list", **plain(msgspec.json.schema(TrustList))}


def plain(schema: Any) -> Any:  # noqa: ANN401 - any part of a JSON Schema
    """Leave out ``discriminator``, which is OpenAPI's: each kind of data has its constant anyway."""
    if isinstance(schema, dict):
        return {name: plain(part) for name, part in schema.items() if name != "discriminator"}
    return [plain(part) for part in schema] if isinstance(schema, list) else schema
