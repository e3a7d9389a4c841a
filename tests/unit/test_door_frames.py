# SPDX-License-Identifier: Apache-2.0
"""What reaches the library of what comes over a controller's line: whole commands, unharmed, ours, each once."""

from __future__ import annotations

import binascii
import random

import pytest

from agent.door.frames import AGAIN_NS, ANSWER_NS, BROADCAST, CRC_BEGIN, GAP_NS, HAS_CRC, MAX_BYTES, START, Commands

OURS, OTHER = 5, 6
FRESH_NS = AGAIN_NS
ANSWER = b"an answer"


def command(sequence: int, data: bytes = b"\x60", *, address: int = OURS, crc: bool = True) -> bytes:
    """One of the standard's form, with the CRC or the sum of its end."""
    length = 5 + len(data) + (2 if crc else 1)
    frame = bytes([START, address, length & 0xFF, length >> 8, sequence | (HAS_CRC if crc else 0)]) + data
    if crc:
        return frame + binascii.crc_hqx(frame, CRC_BEGIN).to_bytes(2, "little")
    return frame + bytes([-sum(frame) & 0xFF])


def test_a_poll_of_another_programs_tests_is_a_command() -> None:
    poll = bytes.fromhex("53 65 08 00 04 60 60 90")  # libosdp, tests/unit-tests/test-cp-phy.c
    assert Commands(0x65).take(b"\xff" + poll, 0) == (poll, b"")


@pytest.mark.parametrize("crc", [True, False])
def test_a_command_is_handed_over_when_it_is_whole_wherever_it_was_cut(crc: bool) -> None:
    whole = command(1, crc=crc) + command(2, b"\x61SS", crc=crc)
    for cut in range(len(whole) + 1):
        commands = Commands(OURS)
        first, _ = commands.take(whole[:cut], 0)
        rest, _ = commands.take(whole[cut:], GAP_NS)
        assert first + rest == whole
        assert commands.take(b"", 2 * GAP_NS) == (b"", b"")


def test_half_a_command_is_dropped_when_the_rest_does_not_come() -> None:
    commands = Commands(OURS)
    commands.take(command(1)[:5], 0)
    assert commands.take(command(2), GAP_NS + 1) == (command(2), b"")


def test_a_harmed_command_is_none_and_harms_no_other() -> None:
    good = command(2)
    for place in range(len(command(1, b"\x6a1234"))):
        for bit in range(8):
            bad = bytearray(command(1, b"\x6a1234"))
            bad[place] ^= 1 << bit
            commands = Commands(OURS)
            taken, repeat = commands.take(bytes(bad), 0)
            assert (taken, repeat) == (b"", b""), (place, bit)
            assert commands.take(good, GAP_NS + 1) == (good, b"")


def test_noise_before_a_command_is_skipped() -> None:
    noise = bytes([0xFF, START, 0, 0xFF, 0xFF, START, 0, 0, 0, 0])
    assert Commands(OURS).take(noise + command(1), 0) == (command(1), b"")


def test_noise_that_looks_like_a_beginning_costs_one_repetition() -> None:
    commands = Commands(OURS)
    assert commands.take(bytes([START, OURS, 200, 0]) + command(1), 0) == (b"", b"")
    assert commands.take(command(1), GAP_NS + 1) == (command(1), b"")


def test_what_is_for_another_reader_or_from_one_is_left_out() -> None:
    line = command(1, address=OTHER) + command(1, address=OTHER | 0x80) + command(1, address=OURS | 0x80)
    everybody = command(0, address=BROADCAST)
    assert Commands(OURS).take(line + everybody + command(1), 0) == (everybody + command(1), b"")


def test_a_command_that_comes_again_is_obeyed_once_and_answered_again() -> None:
    commands = Commands(OURS)
    assert commands.take(command(1), 0) == (command(1), b"")
    commands.answered(ANSWER[:2], 1)
    commands.answered(ANSWER[2:], FRESH_NS)
    assert commands.take(command(1), FRESH_NS) == (b"", ANSWER)
    assert commands.take(command(1), FRESH_NS + 1) == (b"", ANSWER), "as often as it is asked for"
    assert commands.take(command(2), FRESH_NS + 1) == (command(2), b"")
    assert commands.take(command(1), FRESH_NS + 2) == (command(1), b""), "in its turn it is another"


@pytest.mark.parametrize("holds_report", [True, False])
def test_an_answer_that_is_no_longer_for_the_moment_is_not_said_again(*, holds_report: bool) -> None:
    """No door opens for somebody who left; what holds no report is said again while a channel lasts."""
    commands = Commands(OURS)
    commands.take(command(1), 0)
    commands.answered(ANSWER, 0)
    within_ns = FRESH_NS
    if holds_report:
        within_ns = FRESH_NS // 4
        commands.reported(within_ns)
    assert commands.take(command(1), within_ns) == (b"", ANSWER)
    assert commands.take(command(1), within_ns + 1) == (command(1), b"")
    commands.answered(ANSWER, within_ns + 1)
    assert commands.take(command(1), within_ns + 1 + FRESH_NS) == (b"", ANSWER), "the next holds none"


def test_a_command_that_came_twice_before_it_could_be_answered_is_obeyed_once() -> None:
    commands = Commands(OURS)
    assert commands.take(2 * command(1), 0) == (command(1), b"")
    assert commands.take(command(1), ANSWER_NS) == (b"", b"")
    assert commands.take(command(1), ANSWER_NS + 1) == (command(1), b""), "one that the library left unanswered"


def test_a_controller_that_begins_anew_is_listened_to_each_time() -> None:
    commands = Commands(OURS)
    for _ in range(3):
        assert commands.take(command(0), 0) == (command(0), b"")
        commands.answered(ANSWER, 0)


def test_whatever_comes_over_the_line_is_held_within_a_bound() -> None:
    dice = random.Random(1)
    commands = Commands(OURS)
    for now in range(300):
        noise = dice.randbytes(500).replace(bytes([dice.randrange(256)]), bytes([START]))
        commands.take(noise, now)
        commands.answered(noise, now)
    held = [len(one) for one in vars(commands).values() if isinstance(one, bytes)]
    assert max(held) <= MAX_BYTES + 5
