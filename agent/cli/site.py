# SPDX-License-Identifier: Apache-2.0
"""``postern site``: the acts of a site's owner, on a machine that is not the broker. One function per act."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.audit.chain import read_entries, verify_log
from agent.cli import site_config, site_console, site_service
from agent.cli.audit import tell_entry
from agent.cli.options import add_passphrase, check_output, check_owner, read_passphrase, write_output
from agent.cli.session import host, port
from agent.cli.words import say, tell
from agent.disk.files import read_brought
from agent.errors import RefusedError, VerificationError
from agent.match.policy import MAX_POLICY_BYTES, TARGETS, parse_policy
from agent.protocol.program import Role
from agent.protocol.pseudonym import EPOCHS_AHEAD
from agent.protocol.subject import parse_subject
from agent.site import delegation, policies, programs, revocation, rotation, units
from agent.site.creation import create_site
from agent.site.folder import DEFAULT_AUDIENCES, check_site
from agent.site.kinds import KINDS
from agent.site.published import Unfinished, unfinished
from agent.site.records import SiteFiles
from agent.site.token_list import LIST_DAYS, has_tokens, issue_token_list

DEFAULT_FOLDER = Path("site")
ROLES: tuple[Role, ...] = ("auditor", "home-assistant", "operator", "announcer")

Act = Callable[[argparse.Namespace, bytes | None], None]


def configure(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")

    def act(name: str, do: Act, text: str) -> argparse.ArgumentParser:
        sub = acts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument(
            "-f", "--folder", type=Path, default=DEFAULT_FOLDER, help=f"the site's folder ({DEFAULT_FOLDER})"
        )
        add_passphrase(sub, "the passphrase of the site's keys")
        sub.set_defaults(do=do)
        return sub

    create = act("create", _create, "make a new site: authority, signing key, master key")
    create.add_argument("site")
    create.add_argument("--policy", type=Path, metavar="FILE", help="sign this matching policy for the site's units")
    act("token", _token, "make a one-time token, with which a new unit proves itself").add_argument("unit")
    add = act("add-unit", _add_unit, "check a unit's request, answer with certificate and keys")
    add.add_argument("request", type=Path)
    add.add_argument("--audience", action="append", metavar="NAME", help="who the unit's events are for (access)")
    add.add_argument(
        "--replace",
        action="store_true",
        help="the site has this unit, and its keys are replaced: the old certificate is revoked at once, the old event"
        f" key still counts for {units.REPLACED_KEY_DAYS} days, for events that wait",
    )
    add.add_argument(
        "--last-seq", type=int, metavar="N", help="with --replace: number of the last event that the old key signed"
    )
    renew = act("renew-unit", _renew_unit, "a new certificate and epoch keys for a unit's present keys")
    renew.add_argument("unit")
    issue = act("issue-keys", _issue_keys, "seal the coming epoch keys to a unit")
    issue.add_argument("unit")
    issue.add_argument("--ahead", type=int, default=EPOCHS_AHEAD, metavar="N", help="weeks beyond this one (2)")
    seal = act("seal-key", _seal_key, "keep the key that a unit wants its next epoch keys sealed to")
    seal.add_argument("file", type=Path, help="what 'postern unit seal-key' wrote")
    policy = act("policy", _policy, "sign a matching policy for the units")
    policy.add_argument("policy", type=Path, help="unsigned policy, JSON")
    policy.add_argument(
        "--target-fpir",
        type=float,
        choices=TARGETS,
        help="how often somebody who is not enrolled may be taken for somebody who is, per attempt (as in the policy)",
    )
    listing = act(
        "token-list", _token_list, "sign the list of units that issue tokens and of tokens that count no more"
    )
    listing.add_argument("--issuer", action="append", default=[], metavar="UNIT", help="this unit issues tokens")
    listing.add_argument("--no-issuer", action="append", default=[], metavar="UNIT", help="and this one no more")
    listing.add_argument("--revoke", action="append", default=[], metavar="ID", help="a lost token, by the id on it")
    listing.add_argument(
        "--subject", action="append", default=[], type=parse_subject, metavar="SUBJECT", help="all tokens of a person"
    )
    listing.add_argument(
        "--days", type=int, default=LIST_DAYS, metavar="N", help=f"how long it counts at a unit ({LIST_DAYS})"
    )
    key = act("epoch-key", _epoch_key, "take out the key that resolves one week's pseudonyms; this is logged")
    key.add_argument("audience")
    key.add_argument("epoch", help="ISO week, such as 2026-W47")
    key.add_argument("--generation", type=int, metavar="N", help="of the keys, when they were replaced (the newest)")
    change = act("change-key", _change_key, "change the site's command key: begin, or with --finish end")
    change.add_argument("policy", type=Path, nargs="?", help="the policy in force at the units, unsigned JSON")
    change.add_argument("--finish", action="store_true", help="destroy the old key, once every unit has the new one")
    act("rotate-epoch-keys", _rotate_epoch_keys, "replace epoch keys that a thief has; each unit needs the new ones")
    site_service.configure(act)
    site_config.configure(act)
    site_console.configure(act)
    act("log", _log, "check and list what was done with this folder")
    for sub in (add, renew, issue, policy, listing, key, change):
        sub.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of standard output")
    program = act("add-program", _add_program, "a certificate for a program that listens or sends commands")
    program.add_argument("name")
    program.add_argument("--role", choices=ROLES, default="auditor", help="auditor: reads all; operator: commands, too")
    program.add_argument(
        "--resolves",
        action="append",
        metavar="AUDIENCE",
        help="it may tell who was there: the site's service sends it each week's key (as it was; may be repeated)",
    )
    broker = act("broker", _broker, "make or renew the broker's certificate")
    broker.add_argument(
        "host", type=host, nargs="+", help="names and addresses that clients connect to, the units' own first"
    )
    broker.add_argument("--port", type=port, help="where it listens (what it was, 8883 at first)")
    broker.add_argument("--kind", choices=tuple(KINDS), help="what it is (what it was, mosquitto at first)")
    act(
        "revoke-broker",
        _revoke_broker,
        "have nobody believe the broker's certificates of until now: its key was stolen",
    )
    act("revoke", _revoke, "shut out a unit or a program").add_argument("name")
    act("trust", _trust, "show the units that subscribers may believe")


def run(arguments: argparse.Namespace) -> int:
    """Do the act, and say what has to be carried where: whichever of the public files have changed."""
    passphrase = read_passphrase(arguments)
    if arguments.do is site_console.console:  # by a user who may not look into the site's folder, and changes nothing
        arguments.do(arguments, passphrase)
        return 0
    check_owner(arguments.folder, "the site's")
    files = SiteFiles(arguments.folder)
    for written in ("output", "png", "page"):
        check_output(getattr(arguments, written, None), files.own)
    before = _contents(files)
    done = False
    try:
        arguments.do(arguments, passphrase)
        done = True
    finally:  # what a refused act found unfinished, and completed, has changed them, too
        _tell_changes(files, before, again=done and arguments.act == "revoke")
    return 0


def _create(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    policy = None if arguments.policy is None else parse_policy(read_brought(arguments.policy, MAX_POLICY_BYTES))
    files = create_site(arguments.folder, arguments.site, passphrase=passphrase)
    if policy is not None:
        policies.issue_policy(arguments.folder, policy, passphrase=passphrase)
    tell(f"the site is in {files.folder}: read {files.explanation.name} there, and put a copy into a safe")


def _token(arguments: argparse.Namespace, _: bytes | None) -> None:
    token = units.new_token(arguments.folder, arguments.unit)
    try:
        say(token)
    except BaseException:
        tell("nobody has seen the token, and it opens nothing: make another one, by which this one counts no more")
        raise


def _add_unit(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    answer = units.add_unit(
        arguments.folder,
        read_brought(arguments.request),
        audiences=arguments.audience or DEFAULT_AUDIENCES,
        replace=arguments.replace,
        last_seq=arguments.last_seq,
        passphrase=passphrase,
    )
    write_output(arguments.output, answer)
    if arguments.replace:
        tell(
            "the unit's old certificate is revoked: install the answer before the broker is reloaded; its old event"
            f" key counts for {units.REPLACED_KEY_DAYS} more days, for events that wait"
        )


def _renew_unit(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    write_output(arguments.output, units.renew_unit(arguments.folder, arguments.unit, passphrase=passphrase))


def _issue_keys(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    sealed = units.issue_epoch_keys(arguments.folder, arguments.unit, ahead=arguments.ahead, passphrase=passphrase)
    write_output(arguments.output, sealed)
    if check_site(arguments.folder).never_taken(arguments.unit):
        tell("a unit of release 0.1 cannot read these: upgrade the unit first")


def _seal_key(arguments: argparse.Namespace, _: bytes | None) -> None:
    token = read_brought(arguments.file).decode("ascii", errors="replace").strip()
    say(f"{units.take_seal_key(arguments.folder, token)}: its next epoch keys are sealed to this key")


def _token_list(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    first = not has_tokens(arguments.folder)
    listed = issue_token_list(
        arguments.folder,
        issuers=arguments.issuer,
        not_issuers=arguments.no_issuer,
        tokens=arguments.revoke,
        subjects=arguments.subject,
        days=arguments.days,
        passphrase=passphrase,
    )
    write_output(arguments.output, listed.encode())
    if first:
        tell(
            "the key of tokens goes to each unit with its next epoch keys (postern site issue-keys): upgrade units of"
            " release 0.2 and older before that, they refuse an issue that holds it"
        )
    tell(f"carry {SiteFiles(arguments.folder).token_list} to every unit that issues or takes tokens:")
    tell("  'postern ask UNIT key/rotate token_list=@FILE', or 'postern unit install-token-list FILE' there")


def _policy(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    policy = parse_policy(read_brought(arguments.policy, MAX_POLICY_BYTES))
    if arguments.target_fpir is not None:
        policy = msgspec.structs.replace(policy, target_fpir=arguments.target_fpir)
    write_output(arguments.output, policies.issue_policy(arguments.folder, policy, passphrase=passphrase).encode())
    tell(
        f"policy {policy.digest} for model {policy.model}: the site's service sends it to each unit; without one,"
        " install it there as match.policy"
    )


def _epoch_key(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    if arguments.output is None:  # before the key is taken out, because that is logged
        raise RefusedError("name a file with -o: a key is not for a terminal")
    key = units.epoch_key(
        arguments.folder, arguments.audience, arguments.epoch, generation=arguments.generation, passphrase=passphrase
    )
    write_output(arguments.output, msgspec.json.encode(key))
    if not any(arguments.audience in unit.audiences for unit in check_site(arguments.folder).all_units()):
        tell(f"no unit of this site speaks for {arguments.audience} now: the key resolves nobody, unless one did")


def _change_key(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    if (arguments.policy is None) != arguments.finish:
        raise RefusedError("give the units' policy to begin the change, or --finish to end it")
    if arguments.finish:
        rotation.finish_site_key_change(arguments.folder, passphrase=passphrase)
        if has_tokens(arguments.folder):
            tell("units believe no list of tokens by the key before: postern site token-list, and carry the new one")
        return
    policy = parse_policy(read_brought(arguments.policy, MAX_POLICY_BYTES))
    write_output(arguments.output, rotation.begin_site_key_change(arguments.folder, policy, passphrase=passphrase))
    tell("send it to each unit: postern ask UNIT key/rotate @FILE; then finish. A unit that is away takes it later")


def _rotate_epoch_keys(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    number = rotation.rotate_epoch_keys(arguments.folder, passphrase=passphrase)
    tell(f"generation {number}: issue keys to each unit, and send them: postern ask UNIT key/rotate epoch_keys=@FILE")


def _log(arguments: argparse.Namespace, _: bytes | None) -> None:
    files = check_site(arguments.folder)
    if not files.audit.exists():
        raise VerificationError("cut_off", f"{files.audit} was removed: restore it from the folder's backup")
    report = verify_log(files.audit)
    begins = report.first > 1  # the oldest entries are in files that were dropped by number
    for entry in read_entries(files.audit):
        begins = begins or entry.facts.get("step") == "site_created"
        say(tell_entry(entry))
    if not begins:
        raise VerificationError("cut_off", "the log does not tell of the site's creation: an earlier log was removed")
    _check_finished(unfinished(files))


def _add_program(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    folder = programs.issue_client(
        arguments.folder, arguments.name, arguments.role, resolves=arguments.resolves, passphrase=passphrase
    )
    tell(f"move {folder} to the program")


def _broker(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    folder = programs.issue_broker(
        arguments.folder, arguments.host, port=arguments.port, kind=arguments.kind, passphrase=passphrase
    )
    files = check_site(arguments.folder)
    if not files.delegated and not files.all_units():  # a new site: its units are to renew themselves
        delegation.delegate(arguments.folder, passphrase=passphrase)
        tell(f"{files.service} lets 'postern site serve' renew units and let them in for a year and a month")
    tell(f"move the files of {folder} to the broker; for a cluster, to each of its nodes")


def _revoke_broker(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    listed = programs.revoke_broker(arguments.folder, passphrase=passphrase)
    tell("make its new certificate: postern site broker HOST; carry that to the broker and restart it")
    tell(f"copy {listed} to every program, beside its ca.crt, and send it to every unit, best past the stolen broker:")
    tell("  'postern unit install-revocations FILE' there, or 'postern ask UNIT key/rotate revoked_brokers=@FILE'")


def _revoke(arguments: argparse.Namespace, passphrase: bytes | None) -> None:
    if revocation.revoke(arguments.folder, arguments.name, passphrase=passphrase):
        tell(f"the invitation of {arguments.name} is worth nothing now")


def _trust(arguments: argparse.Namespace, _: bytes | None) -> None:
    files = check_site(arguments.folder)
    left = unfinished(files)
    for record in files.all_units():
        state = "UNFINISHED" if record.unit in left.names else "revoked" if record.revoked else "trusted"
        say(f"{record.unit:<24}  {state:<10}  {' '.join(record.audiences)}")
    _check_finished(left)


def _check_finished(left: Unfinished) -> None:
    if left.files:
        about = f" (about {', '.join(left.names)})" if left.names else ""
        raise RefusedError(
            f"an act{about} was interrupted, or files were changed by hand: {', '.join(left.files)} do not yet say what"
            " the records say. Repeat the act, or do any other: 'postern site broker HOST' completes it, too"
        )


def _contents(files: SiteFiles) -> dict[Path, bytes]:
    """What is carried from here to others, as it is now."""
    carried = (files.acl, files.crl, files.trust, files.site_jwk)
    return {path: path.read_bytes() for path in carried if path.exists()}


def _tell_changes(files: SiteFiles, before: dict[Path, bytes], *, again: bool) -> None:
    """Tell where the changed files go; ``again`` when an act was repeated perhaps because nobody had carried them."""
    if not before:
        return  # a new site: nobody has anything of it yet
    changed = {path for path, content in _contents(files).items() if before.get(path) != content}
    if again or changed & {files.acl, files.crl}:
        tell(f"copy {files.acl} and {files.crl} to the broker, then reload it")
    for path in (files.site_jwk, files.trust):
        if path in changed:
            tell(f"{path.name} changed: copy {path} to every program")
        elif again and path == files.trust:
            tell(f"copy {path} to every program that does not have it yet")
