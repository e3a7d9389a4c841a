# SPDX-License-Identifier: Apache-2.0
"""``postern check-config``: every problem of a file at once, or in plain words what the unit will do."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.options import DEFAULT_CONFIG
from agent.cli.words import say, tell
from agent.config.load import load_config
from agent.config.schema import Config, ZoneActivation
from agent.console.opening import host_of
from agent.errors import ConfigError
from agent.unit.at_the_door import asks_for_moves
from agent.unit.looking import foreseen
from agent.unit.named_models import check_named_models
from agent.unit.wiring import absent, anothers, this_machine, unknown_keys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--elsewhere", action="store_true", help="the file is for another machine: do not look for buttons and lines"
    )
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT_CONFIG, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Print what the file means; a ConfigError says what is wrong with it."""
    config = load_config(arguments.file)
    machine = this_machine()
    missing = [*unknown_keys(config, machine), *([] if arguments.elsewhere else absent(config, machine))]
    if missing:
        raise ConfigError("\n".join(f"{arguments.file}: {one}" for one in missing))
    for one in [] if arguments.elsewhere else anothers(config):
        tell(one)
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
        ("enrols", _enrols(config)),
        ("liveness", _liveness(config)),
        ("opens", _opens(config)),
        ("keeps", f"references of enrolled people, erased {config.gallery.retention_days} days after the last use"),
        ("publishes", _what(config)),
        ("console", _console(config)),
        ("to", f"{config.broker.host}:{config.broker.port}, MQTT {config.broker.protocol}, mutual TLS"),
    ]


def _who(config: Config) -> str:
    activation = config.activation
    if isinstance(activation, ZoneActivation):
        return (
            f"only who stays {activation.dwell_ms} ms in zone '{activation.name}', facing the camera "
            f"within {activation.max_turn_degrees:g} degrees, at least {activation.min_face_px} px wide"
        )
    ways = {
        "gpio": "the button",
        "key": "the key",
        "command": "a signed command",
        "token": "a token that is held up",
        "scene": "the scene's button",
    }
    inputs = " or ".join(dict.fromkeys(ways[str(one.__struct_config__.tag)] for one in activation.inputs))
    return f"only the nearest person, within {activation.window_s} s after {inputs}"


def _enrols(config: Config) -> str:
    if asks_for_moves(config):
        return "who consented, by command or here, and turns their head as the unit asks"
    return "who consented, by command or here, and presses the button"


def _liveness(config: Config) -> str:
    if config.liveness != "require":
        return "not checked"
    text = config.feedback.text
    shown = "SHOWN NOWHERE: name a display's file as feedback.text" if text is None else f"shown by {text}"
    return f"checked by turns of the head, {shown}"


def _console(config: Config) -> str:
    console = config.console
    if console is None:
        return "none"
    ways = ["the signed command console/open", "'postern console open'"]
    ways += ["a button, for aiming" if console.button is not None else ""]
    ways += ["the first start, once" if console.first_boot_code is not None else ""]
    where = host_of(console.address, console.port)
    return f"https://{where}/ for {console.minutes} minutes once it is opened, by {', '.join(filter(None, ways))}"


def _opens(config: Config) -> str:
    if not config.rules:
        return "nothing"
    live = {"passed": "if liveness passed"}
    of = {"match": "a match", "verified": "a question that is verified", "token": "the bearer of a token"}
    return "; ".join(
        f"{' and '.join(rule.then)} for {of[rule.when]}, {'once a token, ' if rule.single_use else ''}"
        f"once in {rule.cooldown_s} s a person, {live.get(rule.liveness, 'UNCHECKED: A PHOTOGRAPH OPENS IT')}"
        for rule in config.rules
    )


def _what(config: Config) -> str:
    kinds = "matches, arrivals and departures" if config.events.presence else "matches"
    subject = "a pseudonym per epoch" if config.events.subject == "pseudonym" else "a subject sealed to the consumer"
    return f"{kinds} for '{config.events.audience}' with {subject}, to {config.events.time_resolution_s} s"
