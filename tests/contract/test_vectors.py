# SPDX-License-Identifier: Apache-2.0
"""The vectors of tests/vectors are current, whole, and what the product says: the contract with other languages."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from agent.cli.schema import SCHEMAS
from agent.clock import SimulatedClock
from agent.errors import ConfigError, KeyStoreError, VerificationError
from agent.keys import DETERMINISTIC, PublicKey, SigningKey, UnitKey, decode_base64url
from agent.protocol.event import EVENT_TYPES
from agent.protocol.pseudonym import EpochKey, Resolver, epoch_of, pseudonym, spell
from agent.protocol.response import Asked, command_digest, read_response
from agent.protocol.topics import Topics
from agent.protocol.trust import TrustedUnits
from agent.protocol.trust_file import TrustFile
from agent.site.withdraw import check_receipt
from agent.subscribe.verify import VerifiedEvent, Verifier
from agent.uplink import commands
from agent.uplink.commands import CommandCounter, Commands
from tests.simulators import node
from tests.simulators.answering import ENVELOPE, answers, signed_content
from tests.simulators.signing_unit import REASONS
from tools.lib.vectors.program import SUBJECTS, main, render
from tools.lib.vectors.signing import Key, ecdsa, multiply

try:
    from agent.protocol.sealed import unseal
except ConfigError:
    unseal = None  # an older cryptography

FOLDER = Path(__file__).parents[1] / "vectors"
EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
FILES = {subject: json.loads((FOLDER / f"{subject}.json").read_text()) for subject in SUBJECTS}

Case = dict[str, Any]


def cases(subject: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", FILES[subject]["cases"], ids=lambda case: case["name"])


def payload(message: Case) -> bytes:
    if "payload" in message:
        return message["payload"].encode()
    return decode_base64url(message["payload_base64url"])


def unit_key(jwk: dict[str, str]) -> UnitKey:
    """The private key that a vector file shows."""
    return UnitKey(ec.derive_private_key(int.from_bytes(decode_base64url(jwk["d"]), "big"), ec.SECP256R1()))


def told(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the product says, as a vector spells it."""
    try:
        return check()
    except VerificationError as error:
        return {"refused": error.reason}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_files_are_what_the_generator_writes(subject: str) -> None:
    assert (FOLDER / f"{subject}.json").read_text(encoding="ascii") == render(subject), "write them: tools/vectors"


def test_folder_holds_these_files_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in SUBJECTS} | {"README.md", "run.mjs"}


def test_every_case_says_what_it_is_about() -> None:
    for subject, file in FILES.items():
        assert (file["format"], file["subject"]) == (1, subject)
        for case in file["cases"]:
            assert case["name"]
            assert case["comment"]


def test_generators_signatures_are_those_of_rfc_6979() -> None:
    """Appendix A.2.5: P-256, SHA-256, message "sample"; and what the product itself signs where it can."""
    secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    r, s = ecdsa(secret, b"sample")
    assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    assert s == 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
    assert multiply(secret)[0] == 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
    key = Key("of this test")
    own = SigningKey(ec.derive_private_key(key.secret, ec.SECP256R1()))
    assert own.public_jwk() == key.jwk
    assert own.kid == key.kid
    if DETERMINISTIC:
        assert own.sign(b"sample", typ="x") == key.sign(b"sample", key.header("x"))


def test_generator_says_what_is_not_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--folder", str(tmp_path), "--check"]) == 0
    (tmp_path / "trust.json").write_text("{}")
    assert main(["--folder", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err.endswith("tools/vectors: trust.json\n")


def reasons(node: object, name: str = "refused") -> Iterator[str]:
    """Every reason that stands under ``name``, as often as it stands there."""
    if isinstance(node, dict):
        if isinstance(node.get(name), str):
            yield node[name]
        node = list(node.values())
    for inner in node if isinstance(node, list) else ():
        yield from reasons(inner, name)


def test_every_reason_to_refuse_an_event_has_its_hostile_case() -> None:
    found = Counter([*reasons(FILES["events"]["cases"]), *reasons(FILES["chains"]["cases"])])
    assert set(found) == REASONS
    for reason in ("unsigned", "unsecured", "wrong_algorithm", "wrong_type", "wrong_key", "bad_signature", "fork"):
        assert found[reason] >= 3, reason
    assert min(found.values()) >= 2, found


def test_every_other_reason_has_its_hostile_case() -> None:
    signature = {"malformed", "unsecured", "wrong_algorithm", "wrong_type", "unsigned", "bad_signature"}
    assert set(reasons(FILES["trust"]["cases"])) == signature | {
        *("wrong_key", "replayed", "wrong_site", "not_granted", "superseded"),
    }
    assert set(reasons(FILES["receipts"]["cases"])) == signature | {"wrong_subject", "unknown_key"}
    told = signature | {"wrong_key", "too_large", "wrong_site", "wrong_unit", "wrong_verb", "out_of_order", "replayed"}
    told |= {"bad_nonce", "challenge", "number_ahead", "too_long_valid", "expired", "not_yet_valid", "not_available"}
    assert set(reasons(FILES["commands"]["cases"], "error")) == told
    answered = [step["expect"]["answer"] for case in FILES["commands"]["cases"] for step in case["requests"]]
    assert None in answered


def test_every_kind_and_verb_is_accepted_somewhere() -> None:
    kinds = {case["expect"]["accepted"]["kind"] for case in FILES["events"]["cases"] if "accepted" in case["expect"]}
    assert kinds == set(EVENT_TYPES)
    assert {
        *FILES["commands"]["verbs"],
        "key/rotate",
        "unit/renew",
        "unit/configure",
        "console/open",
        "console/close",
    } == set(commands.VERBS)


# The same in JavaScript


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.install_verifier(tmp_path_factory.mktemp("verifier"))


def test_verifier_in_javascript_says_the_same(javascript: Path) -> None:
    result = node.run(FOLDER / "run.mjs", javascript)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = dict(line.removesuffix(" cases").split(": ") for line in result.stdout.splitlines())
    for subject in ("events", "chains", "trust", "receipts"):
        assert counts[subject] == str(len(FILES[subject]["cases"]))


LONG = (  # two seconds of a processor each
    ("chains", "    [chain.quarantined, 'quarantined'],"),
    ("events", "  ensure(+now <= this.ends, 'expired');"),
    ("trust", " && marks(text) === marks(JSON.stringify(value))"),
    ("events", "  ensure(isEvent(event) && event.id === `${data.boot}-${data.seq}`);"),
)


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        ("events", "  checkSignature(key, parts, signed);"),
        ("chains", "    [differs(known, seq - 1, prev), 'fork'],"),
        ("trust", "  ensure(serial >= this.serial || (this.by > 0 && number > this.by), 'replayed');"),
        ("receipts", "  checkHeader(header, 'receipt');"),
        *(LONG if EXHAUSTIVE else ()),
    ],
)
def test_vectors_notice_a_verifier_that_leaves_a_check_out(
    javascript: Path, tmp_path: Path, subject: str, check: str
) -> None:
    for path in javascript.glob("*.js*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "node_modules").symlink_to(javascript / "node_modules")
    (file,) = [path for path in tmp_path.glob("postern-*.js") if check in path.read_text()]
    file.write_text(file.read_text().replace(check, ""))
    result = node.run(FOLDER / "run.mjs", tmp_path, subject)
    assert result.returncode == 1
    assert ", not " in result.stdout
    assert f"{subject}: {len(FILES[subject]['cases'])} cases" in result.stdout, "it went on to the end"


def test_verifier_in_javascript_is_short_and_needs_two_libraries() -> None:
    bounds = {"postern-verify.js": 150, "postern-chain.js": 55}  # lines
    assert bounds.keys() == {path.name for path in node.VERIFIER.glob("*.js")}
    for name, most in bounds.items():
        lines = (node.VERIFIER / name).read_text().splitlines()
        assert len(lines) <= most
        assert max(map(len, lines)) <= 120
    package = json.loads((node.VERIFIER / "package.json").read_text())
    assert package["files"] == [*bounds, "event.schema.json", "trust.schema.json"]
    assert list(package["dependencies"]) == ["ajv", "canonicalize"]
    lock = (node.VERIFIER / "package-lock.json").read_text()
    assert '"integrity": "sha512-' in lock
    assert "resolved" not in lock, "an address of one registry is of no use with another"


@pytest.mark.parametrize("name", ["event", "trust"])
def test_schemas_beside_the_verifier_are_those_of_the_product(name: str) -> None:
    written = json.loads((node.VERIFIER / f"{name}.schema.json").read_text())
    assert written == SCHEMAS[name](), f"write it: postern schema {name} > deploy/node-red/{name}.schema.json"


# The project's own verifier


def trusted_units(file: Case) -> TrustedUnits:
    return TrustedUnits.from_signed(file["trust"].encode(), PublicKey.from_jwk(file["site_key"]))


def facts(event: VerifiedEvent) -> dict[str, Any]:
    gap = None if event.gap is None else [event.gap.first, event.gap.last]
    said = {"unit": event.unit, "kind": event.kind, "seq": event.event.data.seq, "backlog": event.backlog}
    said |= {"fresh": event.fresh, "age_s": event.age_s, "late": event.late, "gap": gap, "digest": event.digest}
    return {"accepted": said}


def heard(verifier: Verifier, message: Case) -> dict[str, Any]:
    return told(lambda: facts(verifier.check(message["topic"], payload(message), moment(message["now"]))))


@cases("events")
def test_product_says_of_each_event_what_the_vector_says(case: Case) -> None:
    trust = trusted_units({**FILES["events"], "trust": case.get("trust", FILES["events"]["trust"])})
    verifier = Verifier(trust, time_step_s=case.get("time_step_s", 1))
    assert heard(verifier, case) == case["expect"]


@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarted"])
@cases("chains")
def test_product_remembers_of_each_chain_what_the_vector_says(case: Case, restarts: bool) -> None:
    trust = trusted_units(FILES["chains"])
    verifier = Verifier(trust)
    for number, message in enumerate(case["messages"]):
        if restarts:
            verifier = Verifier(trust, state=verifier.export())
        assert heard(verifier, message) == message["expect"], number
    missing = {unit: [[gap.first, gap.last] for gap in verifier.missing(unit)] for unit in case["missing"]}
    assert missing == case["missing"]


def listed(trusted: TrustedUnits) -> dict[str, Any]:
    keys = {}
    for kid, key in trusted._keys.items():
        until = None if key.until is None else key.until.strftime("%Y-%m-%dT%H:%M:%SZ")
        status = "revoked" if key.revoked else "active"
        keys[kid] = {"unit": key.unit, "status": status, "until": until, "last_seq": key.last_seq}
    ends = None if trusted.expires is None else trusted.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"accepted": {"site": trusted.site, "serial": trusted.serial, "expires_at": ends, "keys": keys}}


@cases("trust")
def test_product_takes_the_lists_that_the_vector_says(case: Case, tmp_path: Path) -> None:
    path, site_key = tmp_path / "trust.jws", PublicKey.from_jwk(FILES["trust"]["site_key"])
    for number, step in enumerate(case["lists"]):
        path.write_text(step["list"])
        holder = TrustFile(path, site_key)  # a restart before each list must change nothing
        assert told(lambda holder=holder: listed(holder.load())) == step["expect"], number


@cases("commands")
def test_product_answers_each_command_as_the_vector_says(case: Case, tmp_path: Path) -> None:
    file = FILES["commands"]
    clock = SimulatedClock(datetime.fromtimestamp(case["requests"][0]["at"], UTC), case["clock"])
    nonces = iter(case["nonces"])
    key = unit_key(file["keys"]["door-3"])
    done: list[str] = []
    unit = Commands(
        site=file["site"],
        unit=file["unit"],
        key=PublicKey.from_jwk(file["site_key"]),
        answers=answers(key, file["unit"], file["site"]),
        counter=CommandCounter(tmp_path / "command.json"),
        clock=clock,
        random=lambda count: bytes.fromhex(next(nonces)[: 2 * count]),
        on_outcome=lambda _: None,
    )
    unit.bind({verb: lambda command: done.append(command.transaction) or {} for verb in file["verbs"]})
    expected_done = []
    for number, request in enumerate(case["requests"]):
        clock.advance(request["at"] - int(clock.now().timestamp()))
        verb = Topics(file["site"], file["unit"]).verb(request["topic"])
        assert verb is not None
        sent = payload(request)
        raw = unit.handle(verb, sent)
        answer = None if raw is None else signed_content(raw, key)
        if answer is not None:
            place = [answer.pop(name) for name in ENVELOPE]
            assert place == [file["site"], file["unit"], verb, command_digest(sent), 1]
            answer = {name: value for name, value in answer.items() if name not in ("data", "message")}
        assert {"answer": answer} == request["expect"], number
        if answer is not None and answer["status"] == "ok":
            expected_done.append(answer["transaction"])
    assert done == expected_done, "what is not answered with ok is not done"


@cases("answers")
def test_operators_tool_takes_the_answers_that_the_vector_says(case: Case) -> None:
    file = FILES["answers"]
    trusted = TrustedUnits.from_signed(file["trust"].encode(), PublicKey.from_jwk(file["site_key"]))
    sent = file["asked"]
    asked = Asked(sent["site"], sent["unit"], sent["verb"], sent["transaction"], command_digest(sent["token"].encode()))
    try:
        answer = read_response(payload(case), asked, trusted, above=case["above"])
    except VerificationError as error:
        outcome: dict[str, Any] = {"left": error.reason}
    else:
        facts = ("status", "transaction", "error", "nonce", "next_seq", "data", "number")
        outcome = {"taken": {name: getattr(answer, name) for name in facts}}
    assert outcome == case["expect"]


@cases("receipts")
def test_product_believes_the_receipts_that_the_vector_says(case: Case) -> None:
    trust, asked = trusted_units(FILES["receipts"]), case["asked"]

    def check() -> dict[str, Any]:
        receipt = check_receipt({"receipt": case["receipt"]}, asked["unit"], bytes.fromhex(asked["subject"]), trust)
        return {"accepted": {"unit": receipt.unit, "subject": receipt.subject, "reason": receipt.reason}}

    assert told(check) == case["expect"]


def computed(case: Case) -> dict[str, Any]:
    if "epoch_of" in case:
        return {"epoch": epoch_of(moment(case["epoch_of"]))}
    if "make" in case:
        try:
            key, subject = decode_base64url(case["make"]["key"]), bytes.fromhex(case["make"]["subject"])
            return {"pseudonym": spell(pseudonym(key, subject))}
        except ValueError:
            return {"refused": "length"}
    given = case["resolve"]
    resolver = Resolver(msgspec.convert(given["key"], EpochKey), map(bytes.fromhex, given["subjects"]))
    try:
        found = resolver.resolve(given["pseudonym"], audience=given["audience"], epoch=given["epoch"])
    except KeyStoreError:
        return {"refused": "other_key"}
    return {"subject": None if found is None else found.hex()}


@cases("pseudonyms")
def test_product_computes_the_pseudonyms_of_the_vector(case: Case) -> None:
    assert computed(case) == case["expect"]


@pytest.mark.skipif(unseal is None, reason="sealed subjects need cryptography 47")
@cases("sealed")
def test_product_opens_the_sealed_subjects_of_the_vector(case: Case) -> None:
    secret = FILES["sealed"]["keys"][case["key"]]["d"]
    key = x25519.X25519PrivateKey.from_private_bytes(decode_base64url(secret))
    context = {name: case[name] for name in ("site", "audience", "epoch")}
    assert told(lambda: {"pseudonym": unseal(case["sealed"], key, **context)}) == case["expect"]
