# SPDX-License-Identifier: Apache-2.0
"""``postern check-config``: every problem of a file at once, or in plain words what the unit will do."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.options import DEFAULT_CONFIG
from agent.cli.words import say, tell
from agent.config.load import load_config
from agent.config.schema import Config, ZoneActivation
from agent.unit.looking import foreseen
from agent.unit.named_models import check_named_models


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT_CONFIG, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Print what the file means; a ConfigError says what is wrong with it."""
    config = load_config(arguments.file)
    if not check_named_models(config, arguments.file):
        tell("no models are installed on this machine, so their names were not checked")
    for title, text in describe(config):
        say(f"{title:<12} {text}")
    return 0


def describe(config: Config) -> list[tuple[str, str]]:
    """Say in words what a unit with this configuration does to the people in front of it."""
    return [
        ("unit", f"{config.unit.name} ({config.unit.site}/{config.unit.id}), {config.profile}"),
        ("purpose", config.purpose.strip()),
        ("camera", str(config.camera.__struct_config__.tag)),
        ("looks at", foreseen(config)),
        ("embeds", _who(config)),
        ("keeps", f"references of enrolled people, erased {config.gallery.retention_days} days after the last use"),
        ("publishes", _what(config)),
        ("to", f"{config.broker.host}:{config.broker.port}, MQTT {config.broker.protocol}, mutual TLS"),
    ]


def _who(config: Config) -> str:
    activation = config.activation
    if isinstance(activation, ZoneActivation):
        return (
            f"only who stays {activation.dwell_ms} ms in zone '{activation.name}', facing the camera "
            f"within {activation.max_turn_degrees:g} degrees, at least {activation.min_face_px} px wide"
        )
    return f"only the nearest person, within {activation.window_s} s after the button is pressed"


def _what(config: Config) -> str:
    kinds = "matches, arrivals and departures" if config.events.presence else "matches"
    subject = "a pseudonym per epoch" if config.events.subject == "pseudonym" else "a subject sealed to the consumer"
    return f"{kinds} for '{config.events.audience}' with {subject}, to {config.events.time_resolution_s} s"
