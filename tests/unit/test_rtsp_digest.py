# SPDX-License-Identifier: Apache-2.0
"""Digest answers: the RFCs' own examples, what is chosen of several challenges, and what is never answered."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.rtsp.digest import Digest, challenges
from agent.camera.rtsp.wire import RtspError

# RFC 7616, section 3.9.1
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
CLIENT_NONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


class FixedNonce(bytes):
    """Random bytes whose hexadecimal form is the example's text."""

    def hex(self, *_: object) -> str:
        return CLIENT_NONCE


def rfc7616(algorithm: str) -> str:
    return (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="{NONCE}",'
        f' opaque="{OPAQUE}"'
    )


def fields(header: str | None) -> dict[str, str]:
    assert header is not None
    assert header.startswith("Digest ")
    return {name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^",]+))', header)}


def answered(challenge: list[str], user: str, password: str, verb: str, uri: str) -> dict[str, str]:
    digest = Digest(user, password, lambda count: FixedNonce(count))
    assert digest.header(verb, uri) is None
    digest.take(challenge)
    return fields(digest.header(verb, uri))


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    said = answered([rfc7616(algorithm)], "Mufasa", "Circle of Life", "GET", "/dir/index.html")
    assert said["response"] == response
    assert (said["nc"], said["qop"], said["cnonce"], said["opaque"]) == ("00000001", "auth", CLIENT_NONCE, OPAQUE)
    assert said["algorithm"] == algorithm


def test_answer_without_qop_is_that_of_rfc_2617() -> None:
    """As most cameras ask; computed with Python's hashlib by hand."""
    said = answered(['Digest realm="r", nonce="n"'], "cam", "secret", "DESCRIBE", "rtsp://x/live")
    assert said["response"] == "e8c72bd97b3634d60d77360e3a8ce562"
    assert set(said) == {"username", "realm", "nonce", "uri", "response"}


def test_the_stronger_of_several_is_answered_and_basic_is_none() -> None:
    said = answered(['Basic realm="x"', rfc7616("MD5"), rfc7616("SHA-256")], "a", "b", "GET", "/")
    assert said["algorithm"] == "SHA-256"
    one_line = f'Basic realm="x", {rfc7616("MD5")}, Negotiate'
    assert answered([one_line], "a", "b", "GET", "/")["algorithm"] == "MD5"


def test_answers_to_one_nonce_are_counted() -> None:
    digest = Digest("a", "b", lambda count: bytes(count))
    digest.take([rfc7616("MD5")])
    assert [fields(digest.header("GET", "/"))["nc"] for _ in range(3)] == ["00000001", "00000002", "00000003"]
    digest.take([rfc7616("MD5").replace(NONCE, "other")])
    assert fields(digest.header("GET", "/"))["nc"] == "00000001"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (['Basic realm="x"'], "in clear"),
        (["basic"], "in clear"),
        ([], "a way that this unit does not know"),
        (["Negotiate"], "does not know"),
        (['Bearer realm="x", Basic realm="x"'], "does not know"),
        (['Digest realm="x", nonce="n", algorithm=SHA-1'], "does not know"),
        (['Digest realm="x", nonce="n", qop="auth-int"'], "does not know"),
        (['Digest realm="x"'], "does not know"),
        (['Digest nonce="x"'], "does not know"),
        (['Digest realm="x, nonce=n'], "does not know"),
    ],
)
def test_everything_else_is_refused(said: list[str], reason: str) -> None:
    with pytest.raises(RtspError, match=reason):
        Digest("cam", "hunter2", lambda count: bytes(count)).take(said)


@pytest.mark.parametrize("said", ["Digest" + " " * 7900 + '"', "Digest realm=" + " " * 7900 + '"'])
def test_question_is_read_in_time_in_proportion_to_its_length(said: str) -> None:
    began = time.process_time()
    for _ in range(4):
        with pytest.raises(RtspError):
            challenges([said])
    assert time.process_time() - began < 0.5


@settings(max_examples=120, deadline=None)
@given(said=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=200), max_size=4))
def test_no_text_ends_it_otherwise_than_in_words(said: list[str]) -> None:
    try:
        found = challenges([f"Digest {one}" for one in said])
    except RtspError:
        return
    assert found


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30))
def test_no_name_and_no_realm_leaves_its_quotes(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    digest = Digest(text, "hunter2", lambda count: bytes(count))
    digest.take([f'Digest realm="{escaped}", nonce="n"'])
    header = digest.header("GET", "/")
    assert header is not None
    assert header.startswith(f'Digest username="{escaped}", realm="{escaped}", nonce="n", uri="/", response="')
    assert "hunter2" not in header or "hunter2" in text
