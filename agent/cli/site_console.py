# SPDX-License-Identifier: Apache-2.0
"""``postern site console``: the list of units in one browser, behind a code, for as long as the command runs.

A process of its own, which opens no file of the site: it shows the page that the site's service writes. So it needs
another user than the site's, who can read nothing else (deploy/site/postern-site-console). Its certificate is by a key
that it made, and whose fingerprint it prints.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.cli.options import become_owner
from agent.cli.session import port
from agent.cli.words import hand, say, tell
from agent.clock import SystemClock
from agent.config.console import refuse_address
from agent.console.opening import (
    MAX_MINUTES,
    MIN_MINUTES,
    close,
    digest_of_code,
    host_of,
    make_code,
    make_opening,
    write_opening,
)
from agent.errors import RefusedError
from agent.site.page import POLICY, STYLE

DEFAULT_PORT = 8444  # beside a unit's 8443, where both run on one machine
DEFAULT_MINUTES = 60
WRITER = "the site's service"
ADVICE = "give an address of this machine as --address, and a free port as --port"


def console(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Serve the page until the time is over, or a signal."""
    try:
        from agent.console.access import Access  # noqa: PLC0415 - the web server's libraries are needed here alone
        from agent.console.certificate import certificate_of, make_certificate, make_key  # noqa: PLC0415
        from agent.console.listed import make_list_app, read_page  # noqa: PLC0415
        from agent.console.server import listen, serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RefusedError(f"{error.name} is missing: pip install 'postern[console]'") from None

    if (reason := refuse_address(arguments.address)) is not None:
        raise RefusedError(f"--address {reason}")
    become_owner(arguments.page)
    clock, code = SystemClock(), make_code(secrets.token_bytes)
    digest = digest_of_code(code)
    opening = make_opening(clock, code=digest, minutes=arguments.minutes, scope="aim", by="command")
    page = partial(read_page, arguments.page, clock, writer=WRITER)
    page()  # before anything is promised
    host = host_of(arguments.address, arguments.port)
    listening = listen(arguments.address, arguments.port, advice=ADVICE)
    with listening, tempfile.TemporaryDirectory(prefix="postern-site-console-") as made:
        folder = Path(made)
        key, certificate = folder / "console.key", certificate_of(folder)
        make_key(key)
        fingerprint = make_certificate("postern-site-console", arguments.address, key, certificate, clock)
        write_opening(folder, opening)
        access = Access(clock, secrets.token_bytes, on_flood=partial(close, folder))
        say(f"https://{host}/")
        hand(f"code         {code}, for one browser, within {arguments.minutes} minutes")
        tell(f"certificate  SHA-256 {fingerprint}: the browser does not know it, compare")
        app = make_list_app(host, access, page, title="Units of this site", style=STYLE, policy=POLICY)
        serve(
            app,
            access,
            folder,
            listening=listening,
            certificate=certificate,
            key=key,
            clock=clock,
        )


def configure(act: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the act."""
    shown = act("console", console, "show the list of units in a browser, behind a code, for a time")
    shown.add_argument(
        "--page", type=Path, required=True, metavar="FILE", help="that 'postern site serve --page FILE' writes"
    )
    shown.add_argument("--address", required=True, help="of this machine in the local network, or 127.0.0.1")
    shown.add_argument("--port", type=port, default=DEFAULT_PORT, help=f"TCP port ({DEFAULT_PORT})")
    shown.add_argument(
        "--minutes",
        type=int,
        default=DEFAULT_MINUTES,
        help=f"how long, {MIN_MINUTES} to {MAX_MINUTES} ({DEFAULT_MINUTES})",
    )
