# SPDX-License-Identifier: Apache-2.0
"""Every error of the product, arranged by what to do next.

PosternError
    RefusedError      the input is wrong; nothing was changed; a human corrects it (exit status 2)
        ConfigError, ModelError, ConsentError, VerificationError, PolicyError, CaptureRefusedError
    RetryError        the world is in the way; try again later, with back-off (exit status 75)
        CameraLostError, BrokerError
    StopError         going on would break a promise; stop and tell a human (exit status 70)
        StorageError, KeyStoreError

A message is one sentence for a person: what is wrong, where, and what to do. It never holds a
secret, personal data, a score or text of a peer that was not passed through ``printable``.
"""

from __future__ import annotations

import unicodedata

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


class StorageError(StopError):
    """The disk is full, read-only or its contents are damaged."""


class KeyStoreError(StopError):
    """A key or certificate is missing, unreadable, expired or does not fit."""


def printable(text: str, most: int = MAX_PEER_TEXT) -> str:
    """Foreign text made fit for a terminal or a log line: printable characters and blanks only, ``most`` of them."""
    cleaned = "".join(c if _is_printable(c) else "?" for c in text[: most + 1])
    return cleaned if len(cleaned) <= most else cleaned[:most] + "…"


def _is_printable(character: str) -> bool:
    """No control, format (such as a change of direction), surrogate, private or line-ending character."""
    return character.isprintable() or unicodedata.category(character) == "Zs"
