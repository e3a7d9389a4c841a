# SPDX-License-Identifier: Apache-2.0
"""Making a new site. ``site.json`` is written last of what a site begins with: without it there is no site yet."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, destroy, make_private_folder, write_atomic
from agent.errors import RefusedError
from agent.keys import SigningKey
from agent.protocol.names import check_name, round_down
from agent.protocol.record import load, save
from agent.site.authority import Authority
from agent.site.folder import SYSTEM_CLOCK, changing
from agent.site.records import SiteFiles, SiteRecord, TokenFile

# With what its certificates' names say besides, and X.509's 64 characters (RFC 5280, ub-common-name).
MAX_SITE_NAME = 40

_EXPLANATION = """\
This folder is the root of trust of the Postern site '{site}'. Keep it off the broker, and a copy in a safe.

SECRET, mode 0600: whoever has one of these
  ca.key       can let machines into the broker
  site.key     can sign commands, policies and the list of units; site.key.next follows it while it is being changed
  master.key   can tell which person a pseudonym stands for, of every epoch, and opens what people carry (tokens)
  tokens.json  lists enrolment tokens by their digests
  service/     what the site's service works with: it can let units and programs in, and tell who it was in the weeks
               whose keys it holds; it signs no command, no policy. The three above may be taken away from beside it:
               'postern site root-away FOLDER'
PUBLIC
  ca.crt       for the broker, units and programs
  site.jwk     by which units check commands and policies
  trust.jws    the units and their keys: for every subscriber that verifies
  policy*.jws  the matching policy with its number, and configuration.json what units are told to be set to
  token-list.* who issues tokens and which count no more, once there are any: for every unit that takes some
  units/       what was issued to which unit
  programs/    what was issued to which program
  joining/, sent/, seen/  who waits to join, what was answered, what was last heard of each unit
  audit.log    what was done here, as a hash chain: 'postern site log' verifies and lists it
TO CARRY AWAY
  broker/      all of the broker's files; ca.crl (revoked certificates) and acl (who may do what) change with every
               act: copy them again, then reload the broker
  clients/     a folder for each program, with its key and certificate: move it there, mode 0600

The notice for the people in front of a unit is made at the unit from its configuration.
"""


def create_site(folder: Path, site: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> SiteFiles:
    """Make a new site in an empty or new folder; RefusedError when there is something in it already.

    May be repeated after a power cut: keys that nothing was done with yet are then made anew.
    """
    check_name("site", site)
    if len(site) > MAX_SITE_NAME:
        raise RefusedError(
            f"a site's name stands in the names of its certificates: take {MAX_SITE_NAME} letters at most"
        )
    if (outer := next((one for one in folder.resolve().parents if SiteFiles(one).record.exists()), None)) is not None:
        raise RefusedError(f"{folder} lies in {outer}, the folder of a site: choose one outside of it")
    make_private_folder(folder)
    with _alone_in(folder):
        return _create(SiteFiles(folder), site, clock, passphrase)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for another creation there: of two at once the keys would be mixed. The folder itself is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(files: SiteFiles, site: str, clock: Clock, passphrase: bytes | None) -> SiteFiles:
    folder = files.folder
    is_site = files.record.exists()
    # The access list is the last of all that a creation writes.
    is_this = is_site and load(files.record, SiteRecord).site == site
    if is_this and files.acl.exists():
        raise RefusedError(
            f"{folder} is site {site} already, and whole: go on with it; its policy is signed by 'postern site policy'"
        )
    if not (is_this or (not is_site and _is_unfinished(files))):
        raise RefusedError(f"{folder} is not empty: choose a new folder, an existing site is never overwritten")
    if not is_site:
        _begin(files, site, clock, passphrase)
    with changing(folder, clock=clock, passphrase=passphrase):
        return files  # whoever opens a site completes what is missing


def _is_unfinished(files: SiteFiles) -> bool:
    """Whether the folder holds nothing but what a creation wrote that was cut off before there was a site."""
    begun = (files.ca_key, files.ca_crt, files.site_key, files.master_key, files.site_jwk, files.explanation)
    names = {path.name for path in (*begun, files.tokens, files.record)}
    own = {folder.relative_to(files.folder).parts[0] for folder in files.folders}
    return all(
        not any(one.is_file() for one in path.rglob("*")) if path.name in own else _final_name(path) in names
        for path in files.folder.iterdir()
    )


def _final_name(path: Path) -> str:
    """Name that a file has, or would have been given if the power had not failed first."""
    return path.name.removeprefix(".").rpartition(".")[0] if path.name.startswith(".") else path.name


def _begin(files: SiteFiles, site: str, clock: Clock, passphrase: bytes | None) -> None:
    for path in files.folder.iterdir():
        if path.is_file():
            destroy(path)  # a key that a cut left half made
    files.make_folders()
    now = clock.now()
    Authority.create(site, now).save(files.ca_key, files.ca_crt, passphrase)
    SigningKey.generate().save(files.master_key, passphrase)
    signer = SigningKey.generate()
    signer.save(files.site_key, passphrase)
    write_atomic(files.site_jwk, json.dumps(signer.public_jwk()).encode(), mode=PUBLIC_MODE)
    write_atomic(files.explanation, _EXPLANATION.format(site=site).encode(), mode=PUBLIC_MODE)
    save(files.tokens, TokenFile(version=1, tokens=()))
    save(files.record, SiteRecord(version=1, site=site, created_at=round_down(now, 1), trust_serial=0))
