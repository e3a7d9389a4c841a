# SPDX-License-Identifier: Apache-2.0
"""An invitation: one line for a card or a QR code, read strictly; and what is said to whoever asks with one."""

from __future__ import annotations

import base64
import codecs
import io
import zlib
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.clock import SimulatedClock
from agent.errors import PosternError, RefusedError
from agent.protocol.invitation import (
    MAX_BYTES,
    MAX_TEXT,
    PREFIX,
    Invitation,
    claim_key,
    read_invitation,
    text_of,
    write_invitation,
)
from agent.protocol.joining import JoinReply, request_digest, token_key
from agent.protocol.record import decode, encode
from agent.site import joining, units
from agent.site.creation import create_site
from agent.site.delegation import service_settings
from agent.site.fleet import UnitState, list_units
from agent.site.records import SiteFiles, UnitRecord
from agent.site.seen import UnitSeen, with_availability, with_health, with_info
from agent.unit.invited import _read
from agent.unit.joining import install, new_unit_request
from tests.simulators.health import healthy
from tools.lib.lifetime.days import SITE, Fleet

QR_CHARACTERS = 1_852  # of a QR code of version 25-L in alphanumeric mode (ISO/IEC 18004, table 7)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"), 1)


def ask(fleet: Fleet, unit: str, request: bytes) -> JoinReply:
    return decode(joining.ask_to_join(fleet.folder, unit, request, clock=fleet.clock), JoinReply)


def request(fleet: Fleet, folder: Path, text: str, **changes: object) -> bytes:
    invitation = msgspec.structs.replace(read_invitation(text), **changes)
    return new_unit_request(folder, invitation.site, invitation.unit, invitation.token())


def test_an_invitation_is_one_line_that_fits_into_a_qr_code_and_tells_no_key(fleet: Fleet) -> None:
    text = joining.invite(fleet.folder, "door-30", clock=fleet.clock)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:"), "what QR codes pack best"
    assert len(text) < QR_CHARACTERS
    invitation = read_invitation(text)
    for one in (invitation.certificate("ca"), invitation.certificate("via"), invitation.certificate("crt")):
        assert one.serial_number.bit_length() == 159, "a shorter one shares less with the others, once packed"
    assert (invitation.site, invitation.unit, invitation.host) == (SITE, "door-30", "127.0.0.1")
    assert read_invitation(write_invitation(invitation)) == invitation
    assert (
        read_invitation("\n  " + "\n".join(text[at : at + 70] for at in range(0, len(text), 70)).lower()) == invitation
    )
    assert invitation.claim not in repr(invitation)
    public = claim_key(invitation.secret()).public_key()
    assert invitation.certificate("crt").public_key() == public
    assert invitation.certificate("crt").subject.rfc4514_string() == "CN=door-30.join"
    kept = b"".join(path.read_bytes() for path in fleet.folder.rglob("*") if path.is_file())
    assert invitation.secret() not in kept
    assert invitation.token().encode() not in kept


def test_a_qr_code_of_it_is_written_as_a_picture_and_for_a_terminal(fleet: Fleet) -> None:
    from PIL import Image  # noqa: PLC0415

    from agent.cli.site_service import Code  # noqa: PLC0415

    code = Code(joining.invite(fleet.folder, "door-31", clock=fleet.clock))
    picture = Image.open(io.BytesIO(code.png()))
    assert picture.width == picture.height > 600
    assert len(code.terminal().splitlines()) > 40


@given(st.text(max_size=200))
def test_any_text_is_an_invitation_or_refused_in_one_sentence(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(RefusedError, match="invitation") as refused:
            read_invitation(candidate)
        assert text not in str(refused.value) or len(text) < 30


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_prefix_are_refused(content: bytes) -> None:
    for packed in (content, zlib.compress(content)):
        with pytest.raises(RefusedError):
            read_invitation(PREFIX + base64.b32encode(packed).decode().rstrip("="))


@given(st.dictionaries(st.sampled_from([*Invitation.__struct_fields__, "x"]), st.none() | st.integers() | st.text()))
def test_no_other_members_make_an_invitation(members: dict[str, object]) -> None:
    packed = zlib.compress(msgspec.json.encode(members))
    with pytest.raises(RefusedError):
        read_invitation(PREFIX + base64.b32encode(packed).decode().rstrip("="))


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b" " * 100_000_000)
    text = PREFIX + base64.b32encode(bomb[: MAX_TEXT // 2]).decode().rstrip("=")
    with pytest.raises(RefusedError):
        read_invitation(text)
    whole = zlib.compress(b"{" + b" " * (MAX_BYTES + 1) + b"}")
    with pytest.raises(RefusedError):
        read_invitation(PREFIX + base64.b32encode(whole).decode().rstrip("="))


@given(st.binary(max_size=400))
def test_whatever_asks_to_join_is_refused_with_a_reason(fleet: Fleet, content: bytes) -> None:
    reply = ask(fleet, "door-1", content)
    assert (reply.state, reply.reason) == ("refused", "malformed")
    assert reply.request == request_digest(content)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_what_is_no_info_changes_nothing_that_is_known(payload: bytes) -> None:
    seen = UnitSeen(version=1, unit="door-1", release="0.1.0")
    assert with_info(seen, payload) == seen
    assert with_availability(seen, payload).online == (payload == b"online")


def test_each_reason_to_refuse_is_told_and_stands_in_the_log_once(fleet: Fleet, tmp_path: Path) -> None:
    text = joining.invite(fleet.folder, "door-40", accepted=True, clock=fleet.clock)
    told: dict[str | None, str | None] = {}

    def tells(unit: str, asked: bytes) -> None:
        reply = ask(fleet, unit, asked)
        told[reply.reason] = reply.message

    tells("door-40", request(fleet, tmp_path / "a", text, site="annex"))
    tells("door-40", request(fleet, tmp_path / "b", text, unit="door-41"))
    tells("door-41", request(fleet, tmp_path / "c", text, unit="door-41"))
    joining.invite(fleet.folder, "door-40", hours=1, accepted=True, clock=fleet.clock)
    old = request(fleet, tmp_path / "d", text)
    tells("door-40", old)
    tells("door-40", old)
    latest = joining.invite(fleet.folder, "door-42", hours=1, accepted=True, clock=fleet.clock)
    late = request(fleet, tmp_path / "e", latest)
    fleet.clock.advance(timedelta(hours=2).total_seconds())
    tells("door-42", late)
    tells("door-42", b"x" * (joining.MAX_REQUEST_BYTES + 1))
    assert told == {
        "wrong_site": f"this is site {SITE}, the request is for another one",
        "wrong_unit": "the invitation is for door-40, the request for another unit",
        "unknown_claim": "the site has no invitation for door-41 any more: make a new one",
        "bad_claim": "a newer invitation for door-40 was made: use that one",
        "expired": "the invitation for door-42 has expired: make a new one",
        "malformed": "this is no request to join: begin again at the unit",
    }
    lines = [line for line in (fleet.folder / "audit.log").read_text().splitlines() if "joining_refused" in line]
    assert sum('"bad_claim"' in line for line in lines) == 1


def test_a_claim_lets_one_set_of_keys_in_and_the_same_answer_is_given_again(fleet: Fleet, tmp_path: Path) -> None:
    text = joining.invite(fleet.folder, "door-50", clock=fleet.clock)
    asked = request(fleet, tmp_path / "keys", text)
    waits = ask(fleet, "door-50", asked)
    assert (waits.state, waits.reason) == ("waiting", "waiting")
    assert waits.message == "the site has to accept this unit: postern site accept door-50"
    assert "door-50" not in {unit.unit for unit in fleet_records(fleet)}
    with pytest.raises(RefusedError, match="site units"):
        joining.accept(fleet.folder, "door-51", clock=fleet.clock)
    with pytest.raises(RefusedError, match="no key of audience 'gym'"):
        joining.accept(fleet.folder, "door-50", audiences=("gym",), clock=fleet.clock)
    joining.accept(fleet.folder, "door-50", audiences=("canteen", "access"), clock=fleet.clock)
    first, again = ask(fleet, "door-50", asked), ask(fleet, "door-50", asked)
    assert first == again
    assert first.state == "joined"
    other = request(fleet, tmp_path / "thief", text)
    used = ask(fleet, "door-50", other)
    assert used.reason == "used"
    assert used.message == "this invitation was used by another unit, or another card: make a new one"
    (sent := fleet.folder / "sent" / "door-50.json").unlink()  # a power cut between the unit's record and the answer
    renewed = ask(fleet, "door-50", asked)
    assert renewed.state == "joined"
    assert sent.exists()
    assert install(tmp_path / "keys", (renewed.answer or "").encode(), clock=fleet.clock) == "door-50"
    (record,) = [unit for unit in fleet_records(fleet) if unit.unit == "door-50"]
    assert record.audiences == ("canteen", "access")
    units.revoke_unit(fleet.folder, "door-50", clock=fleet.clock)
    assert ask(fleet, "door-50", asked).state == "refused"


def fleet_records(fleet: Fleet) -> tuple[UnitRecord, ...]:
    return SiteFiles(fleet.folder).all_units()


def test_an_invitation_is_refused_where_it_could_not_be_kept(fleet: Fleet) -> None:
    for name, hours, words in (("Door", 1, "a-z"), ("door-60", 0, "hours"), ("door-1", 1, "--replace")):
        with pytest.raises(PosternError, match=words):
            joining.invite(fleet.folder, name, hours=hours, clock=fleet.clock)
    with pytest.raises(RefusedError, match="program"):
        joining.invite(fleet.folder, "site-service", clock=fleet.clock)


def test_a_site_without_a_broker_says_the_one_step_that_is_missing(tmp_path: Path) -> None:
    """The broker's step gives a new site's service its keys, too: 'delegate' was one step too many."""
    create_site(tmp_path / "site", "hq")
    for act in (partial(joining.invite, unit="door-1"), service_settings):
        with pytest.raises(RefusedError, match="run 'postern site broker HOST' first"):
            act(tmp_path / "site")


def test_an_invitation_is_taken_back_by_the_word_that_shuts_out_a_unit(fleet: Fleet, tmp_path: Path) -> None:
    """A card that was lost, a name that was mistyped: only another invitation made the first one worth nothing."""
    text = joining.invite(fleet.folder, "door-61", accepted=True, clock=fleet.clock)
    asked = request(fleet, tmp_path, text)
    assert main(["site", "revoke", "-f", str(fleet.folder), "door-61"]) == 0
    assert "door-61" not in {one.unit for one in list_units(fleet.folder, clock=fleet.clock)}
    told = ask(fleet, "door-61", asked)
    assert (told.state, told.reason) == ("refused", "unknown_claim")
    assert "invitation_taken_back" in (fleet.folder / "audit.log").read_text()
    assert main(["site", "revoke", "-f", str(fleet.folder), "door-61"]) == 0, "the power may have failed meanwhile"
    assert main(["site", "revoke", "-f", str(fleet.folder), "door-16"]) == 2, "nobody of that name"


def test_a_revoked_unit_does_not_come_back_by_an_invitation_that_was_open(fleet: Fleet, tmp_path: Path) -> None:
    text = joining.invite(fleet.folder, "door-62", accepted=True, clock=fleet.clock)
    assert ask(fleet, "door-62", request(fleet, tmp_path / "first", text)).state == "joined"
    text = joining.invite(fleet.folder, "door-62", accepted=True, replace=True, clock=fleet.clock)
    assert main(["site", "revoke", "-f", str(fleet.folder), "door-62"]) == 0
    assert ask(fleet, "door-62", request(fleet, tmp_path / "second", text)).state == "refused"


def test_the_list_says_of_each_unit_what_to_do(fleet: Fleet) -> None:
    now = fleet.clock.now()
    fleet.desk.take("postern/hq/door-1/health", fleet.units["door-1"].health())
    (unit,) = [one for one in list_units(fleet.folder, clock=fleet.clock) if one.unit == "door-1"]
    assert (unit.state, unit.facts()["weeks_of_epoch_keys"]) == ("online", 3)
    later = SimulatedClock(now + timedelta(minutes=30))
    (unit,) = [one for one in list_units(fleet.folder, clock=later) if one.unit == "door-1"]
    assert unit.state == "silent"
    assert "ten minutes" in unit.advice[0]


def test_the_list_shows_who_waits_for_the_name_of_a_revoked_unit_and_hides_no_unit_behind_an_invitation(
    tmp_path: Path,
) -> None:
    """Before, the one was "revoked" and nothing to do, and the other "invited" until the invitation was used."""
    (tmp_path / "own").mkdir()
    fleet = Fleet(tmp_path / "own", 2)

    def shown(name: str, clock: SimulatedClock | None = None) -> UnitState:
        (unit,) = [one for one in list_units(fleet.folder, clock=clock or fleet.clock) if one.unit == name]
        return unit

    gone, here = "door-1", "door-2"
    units.revoke_unit(fleet.folder, gone, clock=fleet.clock)
    assert (shown(gone).state, shown(gone).advice) == ("revoked", ())
    text = joining.invite(fleet.folder, gone, clock=fleet.clock)
    assert shown(gone).state == "invited"
    assert ask(fleet, gone, request(fleet, tmp_path / "keys", text)).state == "waiting"
    assert (shown(gone).state, shown(gone).advice) == ("waiting", (f"postern site accept {gone}",))

    fleet.desk.take(f"postern/hq/{here}/health", fleet.units[here].health())
    ends = SimulatedClock(fleet.clock.now() + timedelta(hours=2))
    text = joining.invite(fleet.folder, here, hours=1, replace=True, clock=fleet.clock)
    assert joining.is_invited(fleet.folder, here), "so a second one says that the first is worth nothing"
    assert shown(here).state == "online"
    assert shown(here).facts()["weeks_of_epoch_keys"] == 3
    assert "put the invitation on its card" in shown(here).advice[0]
    assert "invitation" not in "".join(shown(here, ends).advice), "it is nobody's who is there"
    assert ask(fleet, here, request(fleet, tmp_path / "replaced", text)).state == "waiting"
    assert shown(here).state == "waiting"
    assert shown(here).advice[0] == f"postern site accept {here}"


def test_a_refusal_is_told_at_the_site_too_and_once(fleet: Fleet, tmp_path: Path) -> None:
    old = request(fleet, tmp_path / "old", joining.invite(fleet.folder, "door-71", clock=fleet.clock))
    joining.invite(fleet.folder, "door-71", clock=fleet.clock)
    for _ in range(3):
        fleet.desk.take(f"postern-join/{SITE}/door-71.join/request", old)
    told = [text for text in fleet.tally.told if text.startswith("door-71: ")]
    assert told == [
        "door-71: whoever asked to join by this name was refused: a newer invitation for door-71 was made: use that one"
    ]


def test_a_card_that_was_refused_stands_in_the_list_for_a_week(fleet: Fleet, tmp_path: Path) -> None:
    """Whoever stole a card and was first is let in; that the right one came second stood in the journal alone."""

    def advice(days: int = 0) -> tuple[str, ...]:
        clock = SimulatedClock(fleet.clock.now() + timedelta(days=days))
        (unit,) = [one for one in list_units(fleet.folder, clock=clock) if one.unit == "door-90"]
        return unit.advice

    old = request(fleet, tmp_path / "old", joining.invite(fleet.folder, "door-90", clock=fleet.clock))
    text = joining.invite(fleet.folder, "door-90", accepted=True, clock=fleet.clock)
    assert ask(fleet, "door-90", old).reason == "bad_claim"
    assert advice()[0].startswith("a card with an earlier invitation asked, and was refused")
    assert ask(fleet, "door-90", request(fleet, tmp_path / "thief", text)).state == "joined"
    assert ask(fleet, "door-90", request(fleet, tmp_path / "mine", text)).reason == "used"
    assert advice()[0].startswith("another card asked")
    assert "postern site revoke door-90" in advice()[0]
    assert not [one for one in advice(days=8) if "card" in one]
    for mark in (fleet.folder / "joining").glob("door-90.*.refused"):
        mark.write_bytes(b"used")  # as a release before wrote it
    assert not [one for one in advice() if "card" in one]
    joining.invite(fleet.folder, "door-90", replace=True, clock=fleet.clock)
    assert not [one for one in advice() if "refused" in one]


def test_an_accepted_units_keys_cannot_be_swapped_by_who_copied_its_card(fleet: Fleet, tmp_path: Path) -> None:
    """Both ask with one claim while the site looks: whoever asked first waits, and then nobody is let in by it."""
    text = joining.invite(fleet.folder, "door-70", clock=fleet.clock)
    mine, thief = request(fleet, tmp_path / "mine", text), request(fleet, tmp_path / "thief", text)
    assert ask(fleet, "door-70", mine).state == "waiting"
    waiting = fleet.folder / "joining" / "door-70.jws"
    log = fleet.folder / "audit.log"
    before = log.read_text().count("\n")
    for _ in range(20):
        refused = ask(fleet, "door-70", thief)
        assert (refused.state, refused.reason) == ("refused", "contested")
        assert ask(fleet, "door-70", mine).state == "waiting"
    assert waiting.read_bytes() == mine, "what waits is what asked first"
    assert log.read_text().count("\n") == before + 1, "once in the log, however often both ask"
    (listed,) = [one for one in list_units(fleet.folder, clock=fleet.clock) if one.unit == "door-70"]
    assert "two asked with its invitation" in listed.advice[0]
    with pytest.raises(RefusedError, match="postern site invite door-70"):
        joining.accept(fleet.folder, "door-70", clock=fleet.clock)
    fresh = request(fleet, tmp_path / "again", joining.invite(fleet.folder, "door-70", clock=fleet.clock))
    assert ask(fleet, "door-70", fresh).state == "waiting"
    joining.accept(fleet.folder, "door-70", clock=fleet.clock)
    assert ask(fleet, "door-70", fresh).state == "joined"


def test_a_broker_gives_no_unit_an_older_policy_nor_keeps_the_policy_back(fleet: Fleet, tmp_path: Path) -> None:
    """It puts a reply together: the answer of today, and a policy of the site that it kept, or none."""
    text = joining.invite(fleet.folder, "door-71", accepted=True, clock=fleet.clock)
    asked = request(fleet, tmp_path / "keys", text)
    reply, key = ask(fleet, "door-71", asked), token_key(read_invitation(text).token())
    assert _read(encode(reply), asked, key) == reply
    for altered in (
        msgspec.structs.replace(reply, policy="an.older.one"),
        msgspec.structs.replace(reply, policy=None, proof=None),
        msgspec.structs.replace(reply, answer="x.y.z"),
        msgspec.structs.replace(reply, proof=None),
    ):
        assert _read(encode(altered), asked, key) is None, "it is not heard, and asked again"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "", "\n\n \t"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8-sig", "utf-16"])
def test_an_invitation_is_read_from_any_editor(fleet: Fleet, encoding: str, ending: str) -> None:
    text = joining.invite(fleet.folder, "door-72", clock=fleet.clock)
    assert read_invitation(text_of((text + ending).encode(encoding))).unit == "door-72"


def test_an_invitation_has_a_length_and_a_long_file_of_something_else_is_none(fleet: Fleet) -> None:
    text = joining.invite(fleet.folder, "door-73", clock=fleet.clock)
    assert read_invitation(text.ljust(MAX_TEXT)).unit == "door-73"
    for long, told in ((text.ljust(MAX_TEXT + 1), "is damaged"), ("unit: {}\n" * MAX_TEXT, "this is no invitation")):
        with pytest.raises(RefusedError, match=told):
            read_invitation(long)


@given(st.binary(max_size=200))
def test_any_bytes_of_a_file_are_an_invitation_or_refused(content: bytes) -> None:
    for start in (b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        with pytest.raises(RefusedError):
            read_invitation(text_of(start + content))


def test_a_health_document_that_the_broker_kept_hides_nobodys_silence() -> None:
    blank = UnitSeen(version=1, unit="door-1")
    health = healthy("door-1", time="2026-01-05T08:00:00Z")
    assert with_health(blank, health, "2026-01-09T08:00:00Z").at == "2026-01-05T08:00:00Z"
    assert with_health(blank, health, "2026-01-04T08:00:00Z").at == "2026-01-04T08:00:00Z", "nobody is seen tomorrow"
    lost = msgspec.structs.replace(health, clock="unsynced")
    assert with_health(blank, lost, "2026-01-09T08:00:00Z").at == "2026-01-09T08:00:00Z"
    absurd = msgspec.structs.replace(health, time="2026-13-45T99:00:00Z")
    assert with_health(blank, absurd, "2026-01-09T08:00:00Z").at == "2026-01-09T08:00:00Z"
