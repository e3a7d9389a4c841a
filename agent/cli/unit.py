# SPDX-License-Identifier: Apache-2.0
"""``postern unit``: how this unit gets its keys. They are made here and never leave; only a request does."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

import msgspec

from agent.cli.options import add_config, become_owner, check_output, read_unit_config, seconds, write_output
from agent.cli.words import say, tell
from agent.clock import SystemClock
from agent.config.load import load_file
from agent.disk.files import MAX_SECRET_BYTES, PUBLIC_MODE, mode_of, read_brought, write_atomic
from agent.errors import RefusedError
from agent.parse.strict_json import StrictJsonError, decode, dumps
from agent.protocol.invitation import read_invitation, text_of
from agent.unit.assemble import load_key
from agent.unit.by_hand import confirm
from agent.unit.from_card import Place, compose
from agent.unit.invited import check_place, join
from agent.unit.joining import install, install_epoch_keys, new_unit_request
from agent.unit.key_files import UnitFiles
from agent.unit.key_rotation import change_site_key
from agent.unit.retire import retire
from agent.unit.revocations import install_revocations
from agent.unit.scanned import look_for_one
from agent.unit.seal_key import statement
from agent.unit.tokens import install_token_list

DEFAULT_KEYS = Path("/var/lib/postern/keys")  # as keys.folder
JOIN_WAIT_S = 300.0  # then whoever started this tries again
RETURN_SEAL_KEY = (
    "the key that opened these keys is destroyed: unless 'postern ask' reaches this unit, carry the next to the site"
    " ('postern unit seal-key -o FILE' here, 'postern site seal-key FILE' there)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    request = steps.add_parser("request", help="make new keys, and the request that the site answers")
    request.add_argument("--token-file", type=Path, metavar="FILE", help="where the token is; else it is asked for")
    request.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of standard output")
    joined = steps.add_parser("join", help="join the site by an invitation, over the broker; may be repeated")
    brought = joined.add_mutually_exclusive_group(required=True)
    brought.add_argument("file", type=Path, nargs="?", metavar="FILE", help="what 'postern site invite' wrote")
    brought.add_argument("--camera", action="store_true", help="or its QR code, held before this unit's camera")
    add_config(joined)  # of the camera
    joined.add_argument("--keys", type=Path, metavar="FOLDER", help=f"({DEFAULT_KEYS}; with --camera keys.folder)")
    joined.add_argument("--policy", type=Path, metavar="FILE", help="(policy.jws beside the folder of the keys)")
    joined.add_argument("--wait", type=seconds, default=JOIN_WAIT_S, metavar="SECONDS", help="for the site's answer")
    carded = steps.add_parser("configure", help="write this unit's configuration from the one that lies on its card")
    carded.add_argument("file", type=Path, metavar="FILE", help="config.yaml of the card; without 'unit' and 'broker'")
    carded.add_argument("--invitation", type=Path, metavar="FILE", help="which unit this is; else as it is configured")
    add_config(carded)
    install = steps.add_parser("install", help="check the site's answer and put keys and certificate in force")
    keys = steps.add_parser("install-keys", help="add epoch keys that the site issued to this unit")
    site_key = steps.add_parser("install-site-key", help="take the site's new command key, if the unit was away")
    revocations = steps.add_parser(
        "install-revocations", help="take the site's list of brokers that nobody may believe"
    )
    tokens = steps.add_parser("install-token-list", help="take the site's list of who issues tokens, and of void ones")
    for step in (install, keys, site_key, revocations, tokens):
        step.add_argument("file", type=Path, metavar="FILE", help="what the site sent")
    seal = steps.add_parser("seal-key", help="the key that the site has to seal the next epoch keys to, signed")
    seal.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of standard output")
    show = steps.add_parser("show", help="the public half of this unit's signing key, and its thumbprint")
    confirming = steps.add_parser("confirm", help="say what the unit asks the site; the service must be stopped")
    confirming.add_argument(
        "what", choices=["time", "files"], help="the clock is right; or files that were put back may count"
    )
    confirming.add_argument("--reason", metavar="TEXT", help="why, for the audit log; with 'files'")
    retired = steps.add_parser(
        "retire", help="before it is renamed or taken away: clear what the broker retains of it (service stopped)"
    )
    for step in (request, install, keys, site_key, revocations, tokens, seal, show, confirming, retired):
        add_config(step)


def run(arguments: argparse.Namespace) -> int:
    if arguments.step == "configure":
        return _configure(arguments)
    return _join(arguments) if arguments.step == "join" else _of_a_configured_unit(arguments)


def _configure(arguments: argparse.Namespace) -> int:
    """Nothing is written unless the whole is right."""
    invitation = None
    if arguments.invitation is not None:
        invitation = read_invitation(text_of(read_brought(arguments.invitation)))
        place = Place.invited(invitation)
    else:
        place = Place.in_force(load_file(arguments.config))
    mode = mode_of(arguments.config, PUBLIC_MODE)  # whoever closed the file keeps it closed
    content, config = compose(read_brought(arguments.file), arguments.file, place, mode)
    if invitation is not None:
        check_place(UnitFiles(config.keys.folder), invitation)
    check_output(arguments.config)
    write_atomic(arguments.config, content, mode=mode, same_owner=True)
    say(f"{arguments.config}: {place.unit} of site {place.site}, as {arguments.file} says")
    return 0


def _of_a_configured_unit(arguments: argparse.Namespace) -> int:
    config = read_unit_config(arguments)
    clock = SystemClock()
    keys, site, unit = config.keys.folder, config.unit.site, config.unit.id
    own = (keys, config.gallery.path, config.outbox.path, config.audit.path, config.match.policy)
    if arguments.step == "request":
        check_output(arguments.output, own)  # new keys would replace those whose answer may be on its way
        write_output(arguments.output, new_unit_request(keys, site, unit, _token(arguments.token_file)))
    elif arguments.step == "install":
        name = install(keys, read_brought(arguments.file), clock=clock, configured=(site, unit))
        say(f"{name} has its keys: check with 'postern doctor', then start the service")
        tell(RETURN_SEAL_KEY)
    elif arguments.step == "install-keys":
        held = install_epoch_keys(
            keys, read_brought(arguments.file), site=site, unit=unit, now=clock.now(), clock=clock.state()
        )
        say(f"epoch keys for {', '.join(held.epochs(config.events.audience))}")
        tell(RETURN_SEAL_KEY)
    elif arguments.step in ("install-revocations", "install-token-list"):
        say(_install_list(arguments.step, keys, read_brought(arguments.file), site))
    elif arguments.step == "seal-key":
        check_output(arguments.output, own)
        write_output(arguments.output, statement(UnitFiles(keys), site=site, unit=unit).encode())
    elif arguments.step == "install-site-key":
        new = _site_key_change(arguments.file)
        changed = change_site_key(
            keys, config.match.policy, token=new.site_key, policy_token=new.policy, site=config.unit.site
        )
        say(f"commands are signed by {changed.kid} from now on: restart the service if it runs")
    elif arguments.step == "confirm":
        confirm(config, clock, secrets.token_bytes, arguments.what, arguments.reason)
        at = f"{clock.now():%Y-%m-%d %H:%M:%S} UTC is the time" if arguments.what == "time" else "its files count again"
        say(f"confirmed: {at}")
    elif arguments.step == "retire":
        for topic in retire(config, clock):
            say(f"cleared {topic}")
    else:
        key = load_key(config)
        say(dumps({**key.public_jwk(), "kid": key.kid}))
    return 0


def _join(arguments: argparse.Namespace) -> int:
    """Join by an invitation: no configuration is needed but that of the camera which looks at one."""
    if arguments.camera:
        config = load_file(arguments.config)
        keys = arguments.keys or config.keys.folder
        become_owner(keys)
        invitation = look_for_one(config, SystemClock(), tell=tell)
    else:
        keys = arguments.keys or DEFAULT_KEYS
        invitation = read_invitation(text_of(read_brought(arguments.file)))
        become_owner(keys)
    join(
        invitation,
        keys,
        policy=arguments.policy or keys.parent / "policy.jws",
        clock=SystemClock(),
        patience_s=arguments.wait,
        tell=tell,
    )
    say(f"{invitation.unit} has joined site {invitation.site}")
    return 0


def _install_list(step: str, keys: Path, content: bytes, site: str) -> str:
    """Put a list of the site in force; what to tell."""
    if step == "install-token-list":
        listed = install_token_list(keys, content, site=site)
        return f"list {listed.serial} of tokens counts until {listed.expires_at}"
    count = install_revocations(keys, content)
    return f"{count} broker certificates are not believed any more, from the next connection on: restart the service"


class _SiteKeyChange(msgspec.Struct, forbid_unknown_fields=True):
    """What 'postern site change-key' wrote."""

    site_key: str
    policy: str


def _site_key_change(file: Path) -> _SiteKeyChange:
    try:
        return decode(read_brought(file), _SiteKeyChange, MAX_SECRET_BYTES)
    except StrictJsonError:
        raise RefusedError(f"{file} is no change of a site's key: give what 'postern site change-key' wrote") from None


def _token(file: Path | None) -> str:
    """Read the token from its file or the first line of standard input; an argument would stand in the process list."""
    if file is not None:
        return read_brought(file).decode("ascii", errors="replace")
    if sys.stdin.isatty():
        tell("enrolment token of this unit: ", end="")
    return sys.stdin.readline().lstrip("\ufeff")
