# SPDX-License-Identifier: Apache-2.0
"""Who is behind an event, for outputs that may tell: subject ids of several doors to one person.

The file has a line for each subject id: ``SUBJECT NAME THE NAME IN FULL``. A person who enrolled at two doors has two
ids, and two lines with one NAME. It is read again when it changes, as are the keys; whoever stands in it no more is
withdrawn from every output that was told. Nothing that is resolved is stored by the bridge itself but these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.bridge.records import Body
from agent.disk.files import files_in, read_brought
from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError
from agent.parse.strict_json import convert
from agent.protocol.event import Event
from agent.protocol.names import check_name
from agent.protocol.pseudonym import end_of
from agent.protocol.subject import SUBJECT_BYTES
from agent.subscribe.resolve import Keys, read_epoch_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

MAX_PEOPLE = 4096  # Home Assistant gets a device for each
MAX_TITLE = 128  # characters of a name in full
MAX_KEYS = 256  # files: five years of weeks


class Person(msgspec.Struct, frozen=True):
    """``name`` is an identifier, ``title`` what people read."""

    name: str
    title: str


def read_people(path: Path) -> dict[bytes, Person]:
    """Read the map, mode 0600; RefusedError names the line that is wrong, KeyStoreError a file that others can read."""
    people: dict[bytes, Person] = {}
    titles: dict[str, str] = {}
    for number, line in enumerate(read_brought(path, secret=True).decode(errors="replace").splitlines(), 1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        try:
            subject = bytes.fromhex(words[0])
            name = check_name("person", words[1])
        except (ValueError, IndexError, RefusedError):
            subject, name = b"", ""
        if len(subject) != SUBJECT_BYTES or subject in people:
            raise RefusedError(
                f"line {number} of {path}: write a subject id of 32 hexadecimal digits, once, then a name in small"
                " letters, then the name in full"
            )
        title = titles.setdefault(name, words[2].strip() if len(words) > 2 else name)
        if len(title) > MAX_TITLE or not title.isprintable():
            raise RefusedError(f"line {number} of {path}: a name in full has at most {MAX_TITLE} printable characters")
        people[subject] = Person(name, title)
    if len(titles) > MAX_PEOPLE:
        raise RefusedError(f"{path} names more than {MAX_PEOPLE} people: split the site's doors over two bridges")
    return people


class Resolving:
    """The map and the keys as they are now. Thread-safe: what is read takes the place of what was, in one step."""

    def __init__(self, people: Path | None, epoch_keys: Path | None, consumer_key: Path | None) -> None:
        """Read both; raises what reading them does."""
        self._people_file, self._keys_folder, self._consumer_file = people, epoch_keys, consumer_key
        self._seen: object = None
        self._now: tuple[dict[bytes, Person], Keys | None] = ({}, None)
        self.refusal: str | None = None  # why what lies there now is not taken
        self._read()

    def refresh(self) -> bool:
        """Read again what changed; whether it did. What is wrong changes nothing and stands in ``refusal``."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            self._read()
        except PosternError as error:
            self.refusal, self._seen = str(error), stamp
            return False
        return True

    def everybody(self) -> dict[str, Person]:
        """The people of the map, by name."""
        return {person.name: person for person in self._now[0].values()}

    def epochs(self) -> int:
        """How many keys are used."""
        return self._count

    def until_s(self) -> int | None:
        """When the last week ends that every audience has a key for, in seconds since 1970; None without keys."""
        return None if self._last_epoch is None else int(end_of(self._last_epoch).timestamp())

    def person(self, body: Body) -> Person | None:
        """Who an event is about; None where these keys do not say."""
        people, keys = self._now
        if keys is None or body.event is None or body.subject is None:
            return None
        try:
            return people.get(keys.resolve(convert(body.event, Event)))
        except VerificationError:
            return None

    def _read(self) -> None:
        stamp = self._stamp()
        people = {} if self._people_file is None else read_people(self._people_file)
        files = self._key_files()
        keys, newest = None, dict[str, str]()
        if files:
            # One that a person laid down may have come by itself as well.
            given = dict.fromkeys(read_epoch_key(path) for path in files)
            keys = Keys(given, people, consumer=self._consumer())
            for key in given:
                newest[key.audience] = max(newest.get(key.audience, ""), key.epoch)
        self._now, self._seen, self.refusal = (people, keys), stamp, None
        self._count, self._last_epoch = len(files), min(newest.values(), default=None)

    def _consumer(self) -> X25519PrivateKey | None:
        if self._consumer_file is None:
            return None
        from agent.protocol.sealed import load_consumer_key  # noqa: PLC0415

        return load_consumer_key(self._consumer_file)

    def _key_files(self) -> list[Path]:
        if self._keys_folder is None or not self._keys_folder.exists():
            return []
        files = files_in(self._keys_folder, ".json")
        if len(files) > MAX_KEYS:
            raise KeyStoreError(f"{self._keys_folder} holds more than {MAX_KEYS} keys: destroy the old ones")
        return files

    def _stamp(self) -> object:
        """What tells what lies there from what lay there; never raises PosternError."""
        try:
            files = [*self._key_files(), *([self._people_file] if self._people_file else [])]
            # The time of the change of the inode: others may read it now, or it was copied with the time of before.
            return [(path, (found := path.stat()).st_mtime_ns, found.st_ctime_ns, found.st_size) for path in files]
        except (OSError, KeyStoreError) as error:
            return str(error)
