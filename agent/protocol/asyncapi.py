# SPDX-License-Identifier: Apache-2.0
"""The topics of a unit as an AsyncAPI 3 document, generated from the types that both ends use."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.protocol.event import CONTENT_TYPE, Event
from agent.protocol.health import Health
from agent.protocol.schema import plain

_TEXT = {"type": "string", "minLength": 1}
_JWS = "^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$"
# Channel: topic below postern/{site}/{unit}, who speaks ("send" is the unit), message, and what to know of it.
_CHANNELS = (
    ("live", "event/{kind}", "send", "event", "live events, never retained, expire after a minute"),
    ("backlog", "backlog/{kind}", "send", "event", "the same events when they come late; no automation listens here"),
    ("health", "health", "send", "health", "where the unit's chains end; not retained"),
    ("availability", "availability", "send", "availability", "retained; offline is the will"),
    ("request", "request/{verb}", "receive", "request", "a command signed by the site, or a question with its grant"),
    ("response", "response/{verb}", "send", "response", "an answer, signed by the unit over the digest of its command"),
)
_PARAMETERS = {
    "site": {"description": "name of the site: a to z, 0 to 9 and -"},
    "unit": {"description": "name of the unit: the CN of its certificate"},
    "kind": {"description": "kind of the event", "enum": ["match", "presence", "unit"]},
    "verb": {"description": "a verb, which may hold one /, as in outbox/replay"},
}


def asyncapi(version: str) -> dict[str, Any]:
    """The document, as a unit speaks; ``version`` is the program's."""
    (event, health), schemas = msgspec.json.schema_components(
        [Event, Health], ref_template="#/components/schemas/{name}"
    )
    messages = {
        "event": {"name": "event", "contentType": CONTENT_TYPE, "payload": event},
        "health": {"name": "health", "contentType": "application/json", "payload": health},
        "availability": {"contentType": "text/plain", "payload": {"type": "string", "enum": ["online", "offline"]}},
        "request": {"contentType": "application/jose", "payload": _TEXT},
        "response": {"contentType": "application/jose", "payload": {"type": "string", "pattern": _JWS}},
    }
    channels, operations = {}, {}
    for name, below, action, message, text in _CHANNELS:
        address = f"postern/{{site}}/{{unit}}/{below}"
        channels[name] = {
            "address": address,
            "description": text,
            "parameters": {key: value for key, value in _PARAMETERS.items() if f"{{{key}}}" in address},
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        }
        operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
            "bindings": {"mqtt": {"qos": 1, "retain": name == "availability"}},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Postern unit",
            "version": version,
            "description": "What a unit says over MQTT 5, and what it obeys. Everything but availability is signed.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": plain(schemas)},
    }
