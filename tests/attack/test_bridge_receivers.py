# SPDX-License-Identifier: Apache-2.0
"""Attacks on a bridge by who receives: answers without end, halves of answers, slow ones, outputs that hang."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from agent.bridge.outputs import ACT_WITHIN_S
from agent.bridge.post import Poster
from agent.bridge.pump import STUCK_NS, Pump
from agent.bridge.settings import UNCHECKED
from agent.bridge.sql import Sql
from agent.bridge.webhook import Webhook
from agent.errors import RefusedError
from tests.simulators.broker import PATIENCE_S
from tests.unit.test_bridge_outputs import OUTPUTS, Bench, Known, bench  # noqa: F401 - a fixture

TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


@contextmanager
def receiving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """A receiver that reads one request at a time and answers as it likes; its URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while request := self._read():
                    answer(self.request, request)

        def _read(self) -> bytes:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := self.request.recv(65536)):
                    return b""
                head += more
            head, _, body = head.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            while len(body) < length:
                body += self.request.recv(65536)
            return body

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        finally:
            server.shutdown()


def hook(bench: Bench, url: str, **bounds: float) -> Pump:  # noqa: F811
    return bench.pump("hook", Webhook(url, bench.folder / "secret", UNCHECKED, bench.clock, **bounds))


def step(pump: Pump, within_s: float = 8.0) -> float:
    """One step of an output on a thread of its own, as in the bridge; it has to come back."""
    waits: list[float] = []
    thread = threading.Thread(target=lambda: waits.append(pump.step()), daemon=True)
    thread.start()
    thread.join(within_s)
    assert waits, "the output never comes back, and nobody is told"
    return waits[0]


# -- receivers --------------------------------------------------------------------------------------------------------


def drip(connection: socket.socket, _: bytes) -> None:
    for sign in b"HTTP/1.1 204 No Content\r\nX-Slow: " + b"x" * 1000:
        connection.sendall(bytes([sign]))
        time.sleep(0.05)


def interim(connection: socket.socket, _: bytes) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.001)


def endless(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 204 No Content\r\n")
    while True:
        connection.sendall(b"Set-Cookie: " + b"x" * 50_000)
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip, interim, endless])
def test_a_receiver_that_answers_without_end_is_told_and_waited_for(
    bench: Bench,  # noqa: F811
    answer: Callable[[socket.socket, bytes], None],
) -> None:
    bench.hear()
    with receiving(answer) as url:
        assert step(hook(bench, url, deadline_s=0.5)) > 0
    assert len(bench.notices) == 1
    assert bench.store.behind()["hook"] == 1, "it is kept"


def test_a_receiver_whose_answer_never_ends_is_not_told_the_same_again(bench: Bench) -> None:  # noqa: F811
    """As small web servers do: the status is right, and more is promised than comes."""
    heard: list[bytes] = []

    def answer(connection: socket.socket, body: bytes) -> None:
        heard.append(body)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok")

    bench.hear()
    bench.hear()
    with receiving(answer) as url:
        assert step(hook(bench, url)) == 0
    assert [json.loads(one)["seq"] for one in heard] == [1, 2]
    assert bench.store.behind()["hook"] == 0


def test_an_interim_answer_is_not_taken_for_the_answer(bench: Bench) -> None:  # noqa: F811
    """103 and what comes behind it: or the answer to one record would be taken for that to the next."""
    answers = [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", TAKEN]

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        time.sleep(0.05)
        connection.sendall(answers.pop(0))

    bench.hear()
    bench.hear()
    with receiving(answer) as url:
        assert step(hook(bench, url)) == 0
    assert [(letter.body.seq, letter.reason) for letter in bench.store.dead()] == [(1, "the receiver answered 400")]


def test_a_slow_receiver_hears_what_is_true_when_it_hears_it(bench: Bench) -> None:  # noqa: F811
    """It takes nine seconds for each record: the fifth of them is no more of this moment."""
    heard: list[tuple[bool, int, int]] = []

    def answer(connection: socket.socket, body: bytes) -> None:
        said = json.loads(body)
        heard.append((said["may_open"], bench.now_s - said["taken_s"], said["seq"]))
        bench.clock.advance(9)
        connection.sendall(TAKEN)

    for _ in range(5):
        bench.hear()
    with receiving(answer) as url:
        pump = hook(bench, url)
        while bench.store.behind()["hook"]:
            assert step(pump) == 0
    assert [seq for _, _, seq in heard] == [1, 2, 3, 4, 5]
    assert all(opens == (age_s <= ACT_WITHIN_S) for opens, age_s, _ in heard), heard


@pytest.mark.parametrize(
    "url",
    ["http://h:99999/x", "http://[::1/x", f"http://{'a' * 70}.example/x", "http://h/\x01", "http://h/ö", "http://:80/"],
)
def test_a_url_that_cannot_be_is_refused_before_the_start(url: str) -> None:
    with pytest.raises(RefusedError, match="the URL of an output"):
        Poster(url)


def test_an_output_that_never_comes_back_is_told(bench: Bench) -> None:  # noqa: F811
    """As a database behind a lock that somebody holds."""
    let, states = threading.Event(), dict[str, bool]()

    class Hanging(Sql):
        def send(self, *args: object) -> object:  # type: ignore[override]
            let.wait(PATIENCE_S)
            return super().send(*args)  # type: ignore[arg-type]

    bench.hear()
    pump = bench.pump("archive", Hanging(f"sqlite:///{bench.folder}/archive.db", None))
    pump.on_state = states.__setitem__
    thread = threading.Thread(target=pump.step)
    thread.start()
    try:
        while pump._busy_ns is None:
            time.sleep(0.01)
        pump.look()
        assert not bench.notices
        bench.clock.advance(STUCK_NS / 1e9)
        pump.look()
        pump.look()
        assert len(bench.notices) == 1
        assert states == {"archive": True}
    finally:
        let.set()
        thread.join()
    assert bench.notices[-1] == "output archive works again"
