# SPDX-License-Identifier: Apache-2.0
"""Keys: nobody else can read them, their names are RFC 7638's, and a signature serves one purpose."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from agent.disk.files import destroy, overwrite, read_bounded, write_atomic
from agent.errors import KeyStoreError, StorageError, VerificationError
from agent.keys import (
    DETERMINISTIC,
    PublicKey,
    SigningKey,
    UnitKey,
    decode_base64url,
    encode_base64url,
    load_public_key,
    read_header,
)
from agent.parse import strict_json

KEY = UnitKey.generate()


def test_key_survives_saving_and_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "unit.key"
    KEY.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert UnitKey.load(path).kid == KEY.kid
    assert [file.name for file in tmp_path.iterdir()] == ["unit.key"]


def test_key_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "unit.key"
    KEY.save(path)
    path.chmod(0o644)
    with pytest.raises(KeyStoreError, match=r"chmod 600 .*unit\.key"):
        UnitKey.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
def test_service_credentials_of_systemd_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "unit.key"
    KEY.save(path)
    path.chmod(0o440)  # root:root with an access list shows as this
    assert UnitKey.load(path).kid == KEY.kid
    os.chown(path, 0, 65534)
    with pytest.raises(KeyStoreError):
        UnitKey.load(path)


def test_passphrase_protects_the_file(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    KEY.save(path, b"correct horse")
    assert b"ENCRYPTED" in path.read_bytes()
    assert SigningKey.load(path, b"correct horse").kid == KEY.kid
    with pytest.raises(KeyStoreError, match="give its passphrase"):
        SigningKey.load(path)
    with pytest.raises(KeyStoreError, match="check the passphrase"):
        SigningKey.load(path, b"wrong")


def test_passphrase_for_a_plain_key_is_refused(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k")
    with pytest.raises(KeyStoreError, match="remove the passphrase"):
        SigningKey.load(tmp_path / "k", b"needless")


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", bytes(range(64))]
)
def test_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    write_atomic(tmp_path / "k", content)
    with pytest.raises(KeyStoreError):
        UnitKey.load(tmp_path / "k")


def test_key_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(tmp_path / "k", pem)
    with pytest.raises(KeyStoreError, match="not a P-256 key"):
        UnitKey.load(tmp_path / "k")


def test_missing_key_says_which(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match=r"nothing\.key"):
        UnitKey.load(tmp_path / "nothing.key")


def test_key_id_is_the_rfc_7638_thumbprint() -> None:
    # P-256 public key of RFC 7515 App. A.3 and its SHA-256 thumbprint, computed by hand from RFC 7638 sec. 3.
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    canonical = json.dumps(dict(sorted(jwk.items())), separators=(",", ":")).encode()
    assert PublicKey.from_jwk(jwk).kid == encode_base64url(hashlib.sha256(canonical).digest())
    assert PublicKey.from_jwk(jwk).jwk() == jwk


@pytest.mark.parametrize(
    "change",
    [{"crv": "P-384"}, {"kty": "RSA"}, {"x": "AAAA"}, {"y": KEY.public_jwk()["x"]}, {"x": 7}, {"x": "=" * 43}],
)
def test_wrong_public_keys_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(KeyStoreError):
        PublicKey.from_jwk({**KEY.public_jwk(), **change})


def test_public_key_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "site.jwk").write_text(json.dumps(KEY.public_jwk()))
    assert load_public_key(tmp_path / "site.jwk").kid == KEY.kid
    (tmp_path / "site.jwk").write_text("{")
    with pytest.raises(KeyStoreError, match=r"site\.jwk"):
        load_public_key(tmp_path / "site.jwk")


def test_signature_of_the_rfc_verifies() -> None:
    # RFC 7515 App. A.3: another implementation's ES256 signature; only its header differs from ours.
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    token = (
        "eyJhbGciOiJFUzI1NiJ9"
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    assert jws.deserialize_compact(token, ECKey.import_key(jwk), algorithms=["ES256"]).payload.startswith(
        b'{"iss":"joe"'
    )
    with pytest.raises(VerificationError) as refusal:
        PublicKey.from_jwk(jwk).verify(token, typ="JWT")
    assert refusal.value.reason == "malformed"  # no typ and no kid


def test_signature_for_one_purpose_is_refused_for_another() -> None:
    token = KEY.sign(b"content", typ="postern-policy+jws")
    assert KEY.public.verify(token, typ="postern-policy+jws") == b"content"
    with pytest.raises(VerificationError) as refusal:
        KEY.public.verify(token, typ="postern-command+jws")
    assert refusal.value.reason == "wrong_type"


def test_the_same_content_is_signed_with_the_same_bytes_where_the_library_can() -> None:
    if not DETERMINISTIC:
        pytest.skip("needs cryptography 43 on OpenSSL 3.2")
    assert KEY.sign(b"content", typ="t") == KEY.sign(b"content", typ="t")
    assert KEY.sign(b"content", typ="t") != KEY.sign(b"contend", typ="t")


def test_another_key_is_refused() -> None:
    with pytest.raises(VerificationError) as refusal:
        UnitKey.generate().public.verify(KEY.sign(b"x", typ="t"), typ="t")
    assert refusal.value.reason == "wrong_key"


def test_header_that_names_its_own_key_is_refused() -> None:
    header = {"alg": "ES256", "kid": KEY.kid, "typ": "t", "jwk": KEY.public_jwk()}
    pem = KEY._private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    token = jws.serialize_compact(header, b"x", ECKey.import_key(pem), algorithms=["ES256"])
    with pytest.raises(VerificationError) as refusal:
        KEY.public.verify(token, typ="t")
    assert refusal.value.reason == "malformed"


def test_detached_signature_has_no_payload_in_it() -> None:
    signature = KEY.sign_detached(b"content", typ="t")
    assert signature.split(".")[1] == ""
    KEY.public.verify_detached(signature, b"content", typ="t")
    for payload in (b"contend", b""):
        with pytest.raises(VerificationError) as refusal:
            KEY.public.verify_detached(signature, payload, typ="t")
        assert refusal.value.reason == "bad_signature"


def test_second_spelling_of_a_signature_is_refused() -> None:
    signature = KEY.sign_detached(b"content", typ="t")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for extra in range(1, 16):  # 86 characters carry 516 bits: the last four are spare
        other = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ extra]
        with pytest.raises(VerificationError):
            KEY.public.verify_detached(other, b"content", typ="t")


def test_derived_secrets_depend_on_key_and_label() -> None:
    assert KEY.derive(b"a") == KEY.derive(b"a")
    assert len({KEY.derive(b"a"), KEY.derive(b"b"), UnitKey.generate().derive(b"a")}) == 3


def test_key_has_no_printable_form(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k")
    secret = KEY._private.private_numbers().private_value
    for text in (repr(KEY), str(KEY)):
        assert str(secret) not in text
        assert f"{secret:x}" not in text


@given(st.text(max_size=200))
def test_no_token_text_raises_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(VerificationError):
        KEY.public.verify(text, typ="t")
    with pytest.raises(VerificationError):
        KEY.public.verify_detached(text, b"", typ="t")
    with pytest.raises(VerificationError):
        read_header(text)


@given(st.binary(max_size=100))
def test_base64url_has_one_spelling(content: bytes) -> None:
    assert decode_base64url(encode_base64url(content)) == content


@pytest.mark.parametrize("text", ["AB==", "A", "AA\n", "A+", "AB", "ÄA"])
def test_other_spellings_of_base64url_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        decode_base64url(text)


TWO_READINGS = [
    '{"a":1,"a":2}',
    '{"a":1.0}',
    '{"a":1e3}',
    '{"a":NaN}',
    '{"a":Infinity}',
    '{"a":9007199254740992}',
    "",
    "{",
]


@pytest.mark.parametrize("text", [*TWO_READINGS, '"\ud800"', "[" * 4000, '{"a":' + "9" * 3000 + "}"])
def test_json_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(strict_json.StrictJsonError):
        strict_json.loads(text.encode("utf-8", errors="surrogatepass"), limit=4096)


@given(st.binary(max_size=300))
def test_no_json_bytes_raise_anything_but_a_refusal(content: bytes) -> None:
    with contextlib.suppress(strict_json.StrictJsonError):
        strict_json.loads(content, limit=256)


def test_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    tmp_path.chmod(0o500)
    try:
        if os.geteuid() != 0:
            with pytest.raises(StorageError, match="writable"):
                write_atomic(path, b"new")
            assert path.read_bytes() == b"old"
    finally:
        tmp_path.chmod(0o700)
    with pytest.raises(StorageError):
        write_atomic(tmp_path / "missing" / "file", b"x")


def test_destroyed_file_was_overwritten_first(tmp_path: Path) -> None:
    path, twin = tmp_path / "secret", tmp_path / "twin"
    path.write_bytes(b"s" * 100)
    os.link(path, twin)  # the same blocks under a second name
    destroy(path)
    assert not path.exists()
    assert twin.read_bytes() == bytes(100)
    overwrite(tmp_path / "nothing")
    destroy(tmp_path / "nothing")


def test_unexpectedly_large_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1001))
    with pytest.raises(KeyStoreError, match="larger than 1000 bytes"):
        read_bounded(tmp_path / "big", 1000)
