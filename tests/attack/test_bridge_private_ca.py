# SPDX-License-Identifier: Apache-2.0
"""A receiver behind an authority of one's own is believed by 'ca', and by nothing else; real TLS on the loopback."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.bridge.otlp import Otlp
from agent.bridge.outputs import Output
from agent.bridge.sql import Sql
from agent.bridge.webhook import Webhook
from agent.disk.files import write_atomic
from agent.errors import KeyStoreError, RefusedError
from tests.simulators.broker import PATIENCE_S
from tests.simulators.log_receivers import Collector
from tests.simulators.pki import Authority
from tests.simulators.receiver import Receiver
from tests.unit.test_bridge_outputs import Bench, bench  # noqa: F401 - a fixture

SSL_REQUEST, CLEARTEXT = bytes.fromhex("04d2162f"), 3  # of PostgreSQL's protocol, 3.0
Making = Callable[[str, Path | None], Output]  # of the URL and 'ca'


def posting(bench: Bench) -> dict[str, Making]:  # noqa: F811
    """Every output that posts."""
    return {
        "webhook": lambda url, ca: Webhook(url, bench.folder / "secret", None, bench.clock, ca=ca),
        "otlp": lambda url, ca: Otlp(url, site="hq", token=None, ca=ca, words=None, clock=bench.clock),
    }


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def receivers(authority: Authority) -> Iterator[dict[str, Receiver | Collector]]:
    files = authority.issue("receiver", server=True)
    both: dict[str, Receiver | Collector] = {"webhook": Receiver(files=files), "otlp": Collector(files)}
    yield both
    both["webhook"].stop()
    both["otlp"].close()


@pytest.mark.parametrize("kind", ["webhook", "otlp"])
def test_receiver_behind_a_private_authority_is_believed_by_its_ca_alone(
    bench: Bench,  # noqa: F811
    authority: Authority,
    receivers: dict[str, Receiver | Collector],
    kind: str,
) -> None:
    make, receiver = posting(bench)[kind], receivers[kind]
    foreign = Authority(bench.folder / "foreign")
    bench.hear()
    for ca in (None, foreign.ca):
        assert bench.pump("hook", make(receiver.url, ca)).step() > 0
    assert receiver.taken == []
    assert len(bench.notices) == 2
    assert all("its certificate is not believed" in one for one in bench.notices)
    assert all("name who vouches for it with 'ca'" in one for one in bench.notices)

    assert bench.pump("hook", make(receiver.url, authority.ca)).step() == 0
    assert len(receiver.taken) == 1

    other_name = receiver.url.replace("localhost", "127.0.0.2")
    bench.hear()
    assert bench.pump("hook", make(other_name, authority.ca)).step() > 0
    assert len(receiver.taken) == 1


@pytest.mark.parametrize("kind", ["webhook", "otlp"])
def test_an_authority_that_can_vouch_for_nobody_is_refused(bench: Bench, authority: Authority, kind: str) -> None:  # noqa: F811
    make = posting(bench)[kind]
    with pytest.raises(RefusedError, match="nobody vouches for h over http: give the URL with https, or no 'ca'"):
        make("http://h/", authority.ca)
    with pytest.raises(KeyStoreError, match="secret is not a certificate authority in PEM"):
        make("https://h/", bench.folder / "secret")


def test_a_database_that_is_a_file_takes_no_words_for_a_server(tmp_path: Path, authority: Authority) -> None:
    """Whoever writes a password there may believe that the file is encrypted."""
    for password, ca in ((tmp_path / "password", None), (None, authority.ca)):
        with pytest.raises(RefusedError, match="SQLite is a file and asks for no password and no 'ca'"):
            Sql(f"sqlite:///{tmp_path}/archive.db", password, ca)
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(KeyStoreError, match="is not a certificate authority in PEM"):
        Sql("postgresql+psycopg://postern@db/postern", None, tmp_path / "ca.crt")


def test_a_database_that_nobody_vouches_for_is_told_no_password_in_clear(bench: Bench) -> None:  # noqa: F811
    """It answers at the database's address, has no TLS, and asks for the password as it stands."""
    heard: list[bytes] = []

    def impostor() -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(PATIENCE_S)
            if client.recv(1024)[4:8] == SSL_REQUEST:
                client.sendall(b"N")
                client.recv(1024)
            client.sendall(struct.pack("!cII", b"R", 8, CLEARTEXT))
            with suppress(OSError):
                heard.append(client.recv(1024))

    write_atomic(bench.folder / "password", b"s3cret")
    bench.hear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=impostor)
        thread.start()
        url = f"postgresql+psycopg://postern@0.0.0.0:{listener.getsockname()[1]}/postern"
        assert bench.pump("archive", Sql(url, bench.folder / "password")).step() > 0
        thread.join(PATIENCE_S)
    assert heard == [b""], "it was told"
    assert "does not take records" in bench.notices[0]
    assert "s3cret" not in bench.notices[0]
