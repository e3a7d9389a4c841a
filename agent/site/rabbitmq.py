# SPDX-License-Identifier: Apache-2.0
"""The rules as RabbitMQ 4 reads them: users without a password, what each may, and how its MQTT listener is set up.

A topic is a routing key there, with a dot for each slash, and a right is a regular expression over it, which a
subscription's own wildcards ('*' for '+') have to match as well. Queues are named after the client id: a name may use
its own alone. ``deploy/rabbitmq/README.md`` says what each file is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from agent.parse import strict_json
from agent.site.acl import Access, Entry, Rules

PLACE: Final = "/etc/rabbitmq/postern"  # where the site's files lie at each node
MAX_QUEUED: Final = 10_000  # messages for one session that is away, as with Mosquitto; then the oldest are dropped
MAX_SESSION_S: Final = 7 * 24 * 3600  # as long as a durable subscriber asks for
MAX_PACKET_BYTES: Final = 32 * 1024
MAX_RULES_BYTES: Final = 32 * 1024 * 1024  # of definitions.json: some 10 000 users
VHOST, EXCHANGE, TAG = "/", "amq.topic", "postern"
# Never a dot, which ends a level; '#' only where a right ends with it. A '*' may be heard, and cannot be said.
_ONE_LEVEL: Final[dict[Access, str]] = {"read": "[^.#]+", "write": "[^.#*]+"}


def spell(rules: Rules) -> str:
    """``definitions.json`` for ``rabbitmqctl import_definitions``: one line for each user, and each of its rights."""
    entries = (*rules.units, *rules.programs, *rules.joining)
    policy = {
        "vhost": VHOST,
        "name": "postern-sessions",
        "pattern": "^mqtt-subscription-",
        "apply-to": "queues",
        "priority": 0,
        "definition": {"max-length": MAX_QUEUED, "overflow": "drop-head"},
    }
    parts: dict[str, list[dict[str, Any]]] = {
        "users": [
            {
                "name": entry.name,
                "password_hash": "",  # nobody logs in by a password
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [TAG],
                "limits": {},
            }
            for entry in entries
        ],
        "vhosts": [{"name": VHOST}],
        "permissions": [_of_queues(entry.name) for entry in entries],
        "topic_permissions": [_of_topics(entry) for entry in entries],
        "policies": [policy],
    }
    body = ",\n".join(f'"{name}": [\n{_lines(items)}\n]' for name, items in parts.items())
    return "{\n" + body + "\n}\n"


def by_name(text: str) -> dict[str, str]:
    """Split definitions by the name of the user; empty for what are none."""
    try:
        found = strict_json.loads(text.encode(), limit=MAX_RULES_BYTES)
        named: dict[str, list[Any]] = {user["name"]: [user] for user in found["users"]}
        for part in ("permissions", "topic_permissions"):
            for item in found[part]:
                named[item["user"]].append(item)
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    return {name: json.dumps(items) for name, items in named.items()}


def configuration() -> Mapping[str, str]:
    """What each node is set up with, by the name of the file; the same for every site."""
    return {"rabbitmq.conf": _CONF, "advanced.config": _ADVANCED, "enabled_plugins": _PLUGINS}


def _lines(items: Iterable[Mapping[str, Any]]) -> str:
    return ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)


def _of_queues(name: str) -> dict[str, str]:
    """Its own session and will; beyond these it binds to, and says to, the one exchange of all topics.

    A delayed will goes by the default exchange, which MQTT has no other way to reach, and there is no other listener.
    """
    own = rf"mqtt-(subscription-{re.escape(name)}qos[01]|will-{re.escape(name)})"
    return {
        "user": name,
        "vhost": VHOST,
        "configure": f"^{own}$",
        "write": rf"^({own}|amq\.topic|amq\.default)$",
        "read": rf"^({own}|amq\.topic)$",
    }


def _of_topics(entry: Entry) -> dict[str, str]:
    may = {access: "|".join(_keys(entry, access)) for access in _ONE_LEVEL}
    return {
        "user": entry.name,
        "vhost": VHOST,
        "exchange": EXCHANGE,
        **{access: f"^({keys})$" if keys else "^$" for access, keys in may.items()},
    }


def _keys(entry: Entry, access: Access) -> Iterator[str]:
    spelt = {"+": _ONE_LEVEL[access], "#": ".+"}
    for right in entry.rights:
        if right.access == access:
            yield r"\.".join(spelt.get(level) or re.escape(level) for level in right.topic.split("/"))


_CONF = f"""\
# Postern's broker: RabbitMQ 4, MQTT 5 over mutual TLS alone. Written by the site kit; nodes of a cluster have the same.
listeners.tcp = none
mqtt.listeners.tcp = none
# An address may stand before the port, as in 10.0.0.2:8883.
mqtt.listeners.ssl.1 = 8883
# TLS itself stands in advanced.config, which alone can name revocation lists.

# The certificate's CN is the user, and its alternative name the client id: nobody takes another one's session.
mqtt.allow_anonymous = false
mqtt.ssl_cert_login = true
ssl_cert_login_from = common_name
mqtt.ssl_cert_client_id_from = subject_alternative_name
mqtt.ssl_cert_login_san_type = dns

# What waits for a session that is away is on three nodes: set before the first client connects, never changed after.
mqtt.durable_queue_type = quorum
mqtt.max_session_expiry_interval_seconds = {MAX_SESSION_S}
mqtt.prefetch = 64
mqtt.max_packet_size_authenticated = {MAX_PACKET_BYTES}
# Retained messages would be at one node alone, and a delayed will is not retained at all, so that the last word of a
# dead unit would be "online". Nothing is retained; units and the site's service say it again every five minutes.
mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_noop

# Where the network splits, the smaller part stops: no event is acknowledged that only one node has.
cluster_partition_handling = pause_minority
"""

_ADVANCED = f"""\
%% Written by the site kit. The lists in {PLACE}/crl are read at each handshake: no restart after a revocation.
[{{rabbit, [{{ssl_options, [
  {{cacertfile, "{PLACE}/ca.crt"}},
  {{certfile, "{PLACE}/broker.crt"}},
  {{keyfile, "{PLACE}/broker.key"}},
  {{versions, ['tlsv1.3', 'tlsv1.2']}},
  {{verify, verify_peer}},
  {{fail_if_no_peer_cert, true}},
  {{depth, 2}},
  {{crl_check, peer}},
  {{crl_cache, {{ssl_crl_hash_dir, {{internal, [{{dir, "{PLACE}/crl"}}]}}}}}}
]}}]}}].
"""

_PLUGINS = "[rabbitmq_mqtt,rabbitmq_auth_mechanism_ssl].\n"
