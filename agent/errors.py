# SPDX-License-Identifier: Apache-2.0
"""Every error of the product, arranged by what to do next.

PosternError
    RefusedError      the input is wrong; nothing was changed; a human corrects it (exit status 2)
        ConfigError, ModelError, ConsentError, VerificationError, PolicyError, CaptureRefusedError
    RetryError        the world is in the way; try again later, with back-off (exit status 75)
        CameraLostError, BrokerError, DeviceLostError
    StopError         going on would break a promise; stop and tell a human (exit status 70: a restart may help)
        StorageError, InUseError
        DamagedError, KeyStoreError: waiting mends nothing, a human has to (exit status 78; never restarted)

A message is one sentence for a person: what is wrong, where, and what to do. It never holds a
secret, personal data, a score or text of a peer that was not passed through ``printable``.
"""

from __future__ import annotations

import os
import traceback
import unicodedata

NEEDS_A_HUMAN = 78  # EX_CONFIG, sysexits.h: the service is not started again by itself
MAX_PEER_TEXT = 200  # characters of foreign text that may reach a log line


class PosternError(Exception):
    """Root of all errors that this program raises on purpose."""

    exit_status = 1


class RefusedError(PosternError):
    """The input is wrong; nothing was changed. ``reason`` is a stable code for machines."""

    exit_status = 2

    def __init__(self, message: str, *, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class RetryError(PosternError):
    """The world is in the way; the same call may succeed later."""

    exit_status = 75  # EX_TEMPFAIL, sysexits.h


class StopError(PosternError):
    """Going on would break a promise."""

    exit_status = 70  # EX_SOFTWARE, sysexits.h


class ConfigError(RefusedError):
    """The configuration file is not acceptable."""


class ModelError(RefusedError):
    """A model file or its manifest entry is missing, altered, wrongly shaped or of an unknown kind."""


class ConsentError(RefusedError):
    """No valid consent record covers what was asked."""


class PolicyError(RefusedError):
    """The matching policy is unsigned, foreign or does not fit the model."""


class CaptureRefusedError(RefusedError):
    """A picture is not good enough to enrol from; the message says why."""


class VerificationError(RefusedError):
    """A signed object was refused; ``reason`` is a stable code for machines."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


class CameraLostError(RetryError):
    """The camera or its stream went away."""


class BrokerError(RetryError):
    """The broker cannot be reached or refused the session."""


class DeviceLostError(RetryError):
    """A button or a line is missing, taken or went away."""


class StorageError(StopError):
    """The disk is full, read-only or its contents are damaged."""


class InUseError(StorageError):
    """Another process holds the store."""


class DamagedError(StorageError):
    """A store is damaged, or of another unit or version: only a human mends that."""

    exit_status = NEEDS_A_HUMAN


class KeyStoreError(StopError):
    """A key or certificate is missing, unreadable, expired or does not fit: only a human mends that."""

    exit_status = NEEDS_A_HUMAN


def printable(text: str, most: int = MAX_PEER_TEXT) -> str:
    """Foreign text made fit for a terminal or a log line: printable characters and blanks only, ``most`` of them."""
    cleaned = "".join(c if _is_printable(c) else "?" for c in text[: most + 1])
    return cleaned if len(cleaned) <= most else cleaned[:most] + "…"


def _is_printable(character: str) -> bool:
    """No control, format (such as a change of direction), surrogate, private or line-ending character."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def in_one_sentence(error: BaseException) -> tuple[str, int]:
    """What to tell a person about ``error``, which nothing handled, and the exit status.

    2 where a file cannot be used: a person corrects that. 78 where a library does not fit. 70 otherwise: it is a fault
    of this program, and starting again may help. No text of the error itself but its class and a file's name is told:
    it may quote secrets or people.
    """
    if isinstance(error, OSError) and error.filename is not None:
        name = printable(os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else "a file")
        advice = "run this as the user that it belongs to, or name another place"
        return (
            f"cannot use {name} ({printable(error.strerror or 'unknown reason')}): {advice}",
            RefusedError.exit_status,
        )
    if isinstance(error, ImportError):
        what = printable(error.name or "a library")
        return f"{what} cannot be loaded: install what this command needs, or install the package again", NEEDS_A_HUMAN
    if isinstance(error, MemoryError):
        return "there is not enough memory: end other programs, or set smaller sizes", StopError.exit_status
    advice = "report it; POSTERN_DEBUG=1 before the command shows the details"
    return f"a fault of this program ({type(error).__name__} {_place(error)}): {advice}", StopError.exit_status


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/agent/" in frame.filename or "/tools/" in frame.filename] or list(frames)
    if not own:
        return "at an unknown place"
    path = own[-1].filename
    for root in ("/agent/", "/tools/"):
        if root in path:
            path = root[1:] + path.rpartition(root)[2]
            break
    return f"at {printable(path)}:{own[-1].lineno}"
