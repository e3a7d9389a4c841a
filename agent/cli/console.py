# SPDX-License-Identifier: Apache-2.0
"""``postern console``: the web console of this unit, for whoever installs it.

``open`` at the unit, as root: prints where it is and the code. ``code`` at the site: prints a code for the person who
will type it, and its digest for 'postern ask UNIT console/open' or for the configuration.
"""

from __future__ import annotations

import argparse
import secrets
from functools import partial
from typing import get_args

from agent.cli.options import add_config, read_unit_config
from agent.cli.words import hand, say, tell
from agent.clock import SystemClock
from agent.config.console import Console
from agent.config.schema import Config
from agent.console.opening import MAX_MINUTES, MIN_MINUTES, Scope, close, digest_of_code, make_code, read_opening
from agent.errors import RefusedError
from agent.unit.console_open import open_console


def configure(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", metavar="ACT", required=True)
    begin = acts.add_parser("open", help="open it for a time, and print its code", allow_abbrev=False)
    begin.add_argument("--minutes", type=int, help=f"{MIN_MINUTES} to {MAX_MINUTES}; else console.minutes")
    begin.add_argument("--scope", choices=get_args(Scope), default="install", help="aim: no enrolments, no outputs")
    acts.add_parser("close", help="close it at once", allow_abbrev=False)
    acts.add_parser("serve", help="serve it while it is open; what postern-console.service runs", allow_abbrev=False)
    acts.add_parser("code", help="make a code for the site to open it with", allow_abbrev=False)
    for name in ("open", "close", "serve"):
        add_config(acts.choices[name])


def run(arguments: argparse.Namespace) -> int:
    """Do the act; a code goes to standard error, its digest to standard output."""
    if arguments.act == "code":
        code = make_code(secrets.token_bytes)
        hand(f"the code is {code}: give it to whoever will type it, and to nobody else")
        say(digest_of_code(code))
        return 0
    config = read_unit_config(arguments)
    if config.console is None:
        raise RefusedError("this unit has no console: add 'console: {address: …}' to its configuration")
    if arguments.act == "open":
        _open(config, config.console, arguments)
    elif arguments.act == "close":
        close(config.console.folder)
        tell("the console is closed")
    else:
        _serve(config, config.console)
    return 0


def _open(config: Config, console: Console, arguments: argparse.Namespace) -> None:
    code = make_code(secrets.token_bytes)
    told = open_console(
        config,
        SystemClock(),
        code=digest_of_code(code),
        scope=arguments.scope,
        by="unit",
        minutes=arguments.minutes,
    )
    try:
        say(f"{told['address']}#{code}")
    except BaseException:  # nobody has the code: it shall not stand open for nobody
        close(console.folder)
        raise
    tell(f"code         {code}, for one browser, within {told['seconds'] // 60} minutes")
    tell(f"certificate  SHA-256 {told['certificate']}: the browser does not know it, compare")
    tell("served by    postern-console.service; where there is no systemd, by 'postern console serve'")


def _serve(config: Config, console: Console) -> None:
    from agent.console.access import Access  # noqa: PLC0415 - the web server's libraries are needed here alone
    from agent.console.app import Console as Pages  # noqa: PLC0415
    from agent.console.app import make_app  # noqa: PLC0415
    from agent.console.certificate import certificate_of  # noqa: PLC0415
    from agent.console.link import ask  # noqa: PLC0415
    from agent.console.opening import host_of  # noqa: PLC0415
    from agent.console.server import listen, serve  # noqa: PLC0415
    from agent.unit.examiner import Examiner  # noqa: PLC0415

    clock = SystemClock()
    if read_opening(console.folder, clock) is None:
        close(console.folder)  # one whose time is over
        tell("the console is closed: 'postern console open' opens it")
        return
    with Examiner(config, clock) as examiner:
        access = Access(clock, secrets.token_bytes, on_flood=partial(close, console.folder))
        pages = Pages(
            host_of(console.address, console.port),
            access,
            partial(ask, console.folder),
            examiner.checks,
            examiner.examine,
        )
        advice = "set console.address to an address of this machine, and console.port to a free port"
        try:
            listening = listen(console.address, console.port, advice=advice)
        except RefusedError:
            close(console.folder)  # nobody can use it
            raise
        with listening:
            serve(
                make_app(pages),
                access,
                console.folder,
                listening=listening,
                certificate=certificate_of(console.folder),
                key=config.broker.tls.key or config.keys.folder / "tls.key",
                clock=clock,
            )
        if read_opening(console.folder, clock) is None:
            close(console.folder)
