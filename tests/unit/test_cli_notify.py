# SPDX-License-Identifier: Apache-2.0
"""The service manager hears READY once, signs of life in time, and nothing when the loop hangs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.unit.notify import SHARE, Notifier

WATCHDOG_S = 8.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(100).decode())
        except BlockingIOError:
            return messages


def test_ready_is_said_with_the_first_sign_of_life(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname(), 0, SimulatedClock())
    assert heard(manager) == []
    notifier.alive()
    notifier.alive()
    assert heard(manager) == ["READY=1\nWATCHDOG=1"]


def test_signs_of_life_are_bounded_and_in_time(manager: socket.socket) -> None:
    clock = SimulatedClock()
    notifier = Notifier(manager.getsockname(), int(WATCHDOG_S * 1e6), clock)
    messages = []
    for _ in range(1000):  # 40 s at 25 frames per second
        notifier.alive()
        messages += heard(manager)
        clock.advance(0.04)
    assert messages[0] == "READY=1\nWATCHDOG=1"
    assert 40 / WATCHDOG_S * SHARE - 2 <= len(messages) <= 40 / WATCHDOG_S * SHARE + 1


def test_an_abstract_address_is_understood() -> None:
    name = "postern-test-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}-{id(listening)}")
        listening.setblocking(False)
        Notifier(f"@{name}-{id(listening)}", 0, SimulatedClock()).stopping()
        assert heard(listening) == ["STOPPING=1"]


def test_a_manager_that_does_not_listen_never_holds_up_the_pipeline(manager: socket.socket) -> None:
    clock = SimulatedClock()
    notifier = Notifier(manager.getsockname(), int(WATCHDOG_S * 1e6), clock)
    for _ in range(100):
        notifier.alive()
        clock.advance(WATCHDOG_S)
    assert len(heard(manager)) < 100, "the socket took everything: this test proves nothing"


@pytest.mark.parametrize("address", [None, "", "/nonexistent/notify"])
def test_no_manager_is_no_problem(address: str | None) -> None:
    notifier = Notifier(address, 0, SimulatedClock())
    notifier.alive()
    notifier.stopping()
