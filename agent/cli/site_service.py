# SPDX-License-Identifier: Apache-2.0
"""Acts of ``postern site`` that let units join and live by themselves: the service, invitations, the list of units."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.cli.options import check_output, write_output
from agent.cli.session import host
from agent.cli.words import say, tell
from agent.clock import Clock, SystemClock
from agent.disk.files import PUBLIC_MODE, read_brought, write_atomic
from agent.disk.process_lock import ProcessLock
from agent.errors import RefusedError
from agent.keys import MAX_TOKEN_BYTES
from agent.parse.strict_json import dumps
from agent.protocol.names import check_name, round_down
from agent.protocol.record import load
from agent.site import delegation, joining, restored
from agent.site.desk import Desk
from agent.site.fleet import UnitState, list_units, service_advice
from agent.site.folder import DEFAULT_AUDIENCES, check_site
from agent.site.page import fleet_page
from agent.site.records import SiteFiles, SiteRecord
from agent.site.service import SiteService

RUNS = "the site's service runs already: stop it first (systemctl stop postern-site)"
QR_SCALE = 8  # pixels a module: 5 cm on a screen of 100 dpi
BLOCKS = "\u2580\u2584\u2588"  # what a code on a terminal is drawn with
QR_BORDER = 4  # modules of white around it (ISO/IEC 18004 sec. 5.3.8)


def delegate(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    """Give the service its power."""
    if arguments.finish:
        delegation.finish_replacement(arguments.folder, passphrase=passphrase)
        return
    delegation.delegate(
        arguments.folder, audiences=arguments.audience or (), replace=arguments.replace, passphrase=passphrase
    )
    tell("the site's service may renew and let units in for a year and a month: 'postern site serve' runs it")
    if arguments.replace:
        tell("restart the service; once 'postern site units' shows nobody to renew: postern site delegate --finish")


def root_away(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Move the root's keys."""
    delegation.take_root_away(arguments.folder, arguments.to)
    tell(f"the root's keys are in {arguments.to} alone: keep that, and a copy, in a safe")


def serve(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Run the service until a signal."""
    clock, page = SystemClock(), arguments.page
    show = None if page is None else partial(_write_page, arguments.folder, page, clock)
    reach = partial(delegation.service_settings, arguments.folder, arguments.broker)
    at = reach()  # before the desk: what it refuses is said first
    desk = Desk(arguments.folder, clock=clock, random=os.urandom, tell=tell)
    renew = partial(delegation.renew_own_certificate, arguments.folder, clock=clock)
    service = SiteService(desk, at, reach, clock=clock, random=os.urandom, tell=tell, renew=renew, show=show)
    lock = ProcessLock(SiteFiles(arguments.folder).service, advice=RUNS)  # two would put each other out at the broker
    try:
        service.run(lambda: True)  # SIGTERM ends it through every 'finally'
    finally:
        lock.release()


def recover(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    """Bring a folder from a backup above what was signed since."""
    held = [read_brought(file, MAX_TOKEN_BYTES) for file in arguments.file]
    done = restored.recover(arguments.folder, held, passphrase=passphrase)
    tell(f"list {done.serial} of the units is above all before: restart the service, carry what changed")
    for unit in done.revoked:
        tell(f"{unit} was revoked after the backup, and is so again")
    for unit in done.anew:
        tell(f"{unit} joined or got new keys after the backup: postern site invite --replace {unit}")
    tell("do again what else was done after the backup: programs, revoked tokens, rotate-epoch-keys")


def invite(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Write the one file by which a unit joins."""
    output = arguments.output or Path(f"{arguments.unit}.invite")
    check_output(output)
    if arguments.qr:
        check_terminal()
    before = joining.is_invited(check_site(arguments.folder).folder, arguments.unit)
    text = joining.invite(
        arguments.folder,
        arguments.unit,
        hours=arguments.hours,
        accepted=arguments.accept,
        replace=arguments.replace,
    )
    try:
        write_output(output, text.encode())
        if arguments.png is not None:
            write_atomic(arguments.png, Code(text).png())
    except BaseException:  # a full disk, or Ctrl-C: an invitation that nobody holds shall not stand open
        tell(
            f"no invitation of {arguments.unit} is to count now: if it is listed, postern site revoke {arguments.unit}"
        )
        joining.take_back(arguments.folder, arguments.unit)
        raise
    if arguments.qr:
        say(Code(text).terminal())
    if before:
        tell(f"the invitation that {arguments.unit} had before is worth nothing now: this one alone counts")
    tell(f"put {output} on the card's boot partition as postern-invite; it is good once, for {arguments.hours} hours")


def accept(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Let a waiting unit in."""
    audiences = arguments.audience or DEFAULT_AUDIENCES
    joining.accept(arguments.folder, check_name("unit", arguments.unit), audiences=audiences)
    tell(f"{arguments.unit} is let in: it takes its answer within a minute")


def list_all(arguments: argparse.Namespace, _: bytes | None) -> None:
    """Show each unit, and what to do about it."""
    if arguments.page is not None:
        _write_page(arguments.folder, arguments.page, SystemClock())
        return
    found = list_units(arguments.folder)
    if arguments.json:
        say(dumps([unit.facts() for unit in found], indent=2))
        return
    for unit in found:
        _show(unit)
    for advice in service_advice(arguments.folder):
        tell(advice)


def _write_page(folder: Path, file: Path, clock: Clock) -> None:
    site, now = load(check_site(folder).record, SiteRecord).site, round_down(clock.now(), 1)
    page = fleet_page(site, list_units(folder, clock=clock), service_advice(folder, clock=clock), at=now)
    write_atomic(file, page.encode(), mode=PUBLIC_MODE)


def _show(unit: UnitState) -> None:
    say(f"{unit.unit:<20}  {unit.state:<8}  {unit.summary()}")
    for advice in unit.advice:
        say(f"{'':<20}  -> {advice}")


def check_terminal() -> None:
    """Refuse a code that would not be seen, before anything is done."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        raise RefusedError("this terminal shows no code: say --png FILE, or set a locale with UTF-8") from None


class Code:
    """A QR code of an invitation."""

    def __init__(self, text: str) -> None:
        import segno  # noqa: PLC0415 - one option of one act needs it

        self._code = segno.make_qr(text, error="l", boost_error=False)

    def modules(self) -> list[list[bool]]:
        """Rows of modules, dark is True."""
        return [[bool(one) for one in row] for row in self._code.matrix]

    def png(self) -> bytes:
        out = io.BytesIO()
        self._code.save(out, kind="png", scale=QR_SCALE, border=QR_BORDER)
        return out.getvalue()

    def terminal(self) -> str:
        out = io.StringIO()
        self._code.terminal(out, border=QR_BORDER, compact=True)
        return out.getvalue()


Act = Callable[[str, Callable[[argparse.Namespace, bytes | None], None], str], argparse.ArgumentParser]


def configure(act: Act) -> None:
    """Add the acts of this module; ``act`` makes one."""
    given = act("delegate", delegate, "give the site's service keys of limited power, for a year and a month")
    given.add_argument("--audience", action="append", metavar="NAME", help="a further one than those of the units")
    given.add_argument("--replace", action="store_true", help="somebody else has the service's keys: make new ones")
    given.add_argument("--finish", action="store_true", help="after --replace, once every unit was renewed")
    away = act("root-away", root_away, "move the root's keys away, to a stick for the safe")
    away.add_argument("to", type=Path, metavar="FOLDER")
    back = act("recover", recover, "after this folder was put back from a backup: go above all that was signed since")
    back.add_argument("file", type=Path, nargs="*", metavar="FILE", help="newer lists of units or tokens, from others")
    served = act("serve", serve, "run the site's service: joining, renewing, the list of units")
    served.add_argument("--page", type=Path, metavar="FILE", help="write the list of units there, for a browser")
    served.add_argument(
        "--broker", type=host, metavar="HOST", help="instead of the first name that 'site broker' was given"
    )
    invited = act("invite", invite, "write the one file by which a new unit joins by itself")
    invited.add_argument("unit")
    invited.add_argument("--hours", type=int, default=168, help="how long it is good for (168)")
    invited.add_argument("--accept", action="store_true", help="let in whoever brings it, without looking at it first")
    invited.add_argument("--replace", action="store_true", help="the site has this unit, and its keys are replaced")
    invited.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of UNIT.invite")
    invited.add_argument("--png", type=Path, metavar="FILE", help="write it as a QR code, too")
    invited.add_argument("--qr", action="store_true", help="show it as a QR code on the terminal")
    accepted = act("accept", accept, "let a unit in that waits")
    accepted.add_argument("unit")
    accepted.add_argument("--audience", action="append", metavar="NAME", help="who the unit's events are for (access)")
    listed = act("units", list_all, "list every unit, how it is, and what to do about it")
    listed.add_argument("--page", type=Path, metavar="FILE", help="write it as a page for a browser")
    listed.add_argument("--json", action="store_true", help="as JSON, for programs")
