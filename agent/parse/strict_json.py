# SPDX-License-Identifier: Apache-2.0
"""JSON as RFC 7493 (I-JSON) wants it, and narrower: one reading of the bytes, and no floats.

Two parsers that disagree about a duplicate key or a big number are how a signed message says one
thing to the verifier and another to the application. Such input is refused instead.

``decode`` is the one way from bytes that somebody else made (a broker, a file, another program) to a typed record:
whatever the bytes are, it returns that record or raises ``StrictJsonError``.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import msgspec

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 sec. 2.2: what every JSON implementation can hold exactly
MAX_DEPTH = 32  # of objects and arrays in one another; the deepest known one has 6
MAX_FLOAT_DIGITS = 32  # 17 are enough for every double

T = TypeVar("T")
_known: set[object] = set()  # kinds whose fields the library has looked up; as many as there are types
_first = threading.RLock()


class StrictJsonError(ValueError):
    """The bytes are not JSON with one reading, or not of the form wanted; ``loads`` puts no text of the input into it.

    What ``decode`` says about the form may quote a member's name: pass it through ``printable``.
    """


def decode(content: bytes, kind: type[T], limit: int, *, floats: bool = False) -> T:
    """Read foreign bytes as a ``kind``, members and types checked; StrictJsonError for everything else."""
    try:
        return convert(loads(content, limit=limit, floats=floats), kind)
    except StrictJsonError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:  # msgspec.ValidationError is a ValueError
        raise StrictJsonError(str(error)) from None


def convert(
    value: object, kind: type[T], *, strict: bool = True, dec_hook: Callable[[type, Any], Any] | None = None
) -> T:
    """``msgspec.convert``, from any thread; raises what that raises.

    msgspec (0.22) looks a kind's fields up when it first meets it, and a second thread that meets it meanwhile follows
    what is half filled: the process ends with a segmentation fault. So the first time is one thread's.
    """
    if kind in _known:
        return msgspec.convert(value, kind, strict=strict, dec_hook=dec_hook)
    with _first:
        try:
            return msgspec.convert(value, kind, strict=strict, dec_hook=dec_hook)
        finally:
            _known.add(kind)


def loads(content: bytes, *, limit: int, floats: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Parse UTF-8 JSON of at most ``limit`` bytes.

    Refused are duplicate keys, NaN, integers beyond 2^53-1, more than ``MAX_DEPTH`` levels, and numbers with a point or
    an exponent unless ``floats``.
    """
    if len(content) > limit:
        raise StrictJsonError(f"longer than {limit} bytes")
    try:
        found = (_WITH_FLOATS if floats else _WITHOUT).decode(content.decode("utf-8"))
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("nested too deeply") from None
    except ValueError:
        raise StrictJsonError("not JSON in UTF-8") from None
    if content.count(b"{") + content.count(b"[") > MAX_DEPTH:
        _check_depth(found)
    return found


def dumps(value: object, *, indent: int | None = None) -> str:
    """Write a value as JSON that a terminal shows as it is: ASCII, and every control character escaped."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        members = (inner for one in level for inner in _members(one))
        level = [inner for inner in members if isinstance(inner, dict | list)]
        if not level:
            return
    raise StrictJsonError("nested too deeply")


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("a key stands twice in one object")
    return found


def _no_float(_: str) -> NoReturn:
    raise StrictJsonError("a number is not an integer")


def _finite(digits: str) -> float:
    if len(digits) > MAX_FLOAT_DIGITS or not math.isfinite(value := float(digits)):
        raise StrictJsonError("a number is too long or too large")
    return value


def _safe_integer(digits: str) -> int:
    # 17 characters hold every safe integer with its sign; longer ones need not be converted to be refused.
    if len(digits) > 17 or abs(value := int(digits)) > MAX_SAFE_INTEGER:
        raise StrictJsonError("an integer is beyond 2^53-1")
    return value


def _decoder(parse_float: Callable[[str], float]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_float=parse_float, parse_int=_safe_integer, parse_constant=_no_float
    )


_WITH_FLOATS, _WITHOUT = _decoder(_finite), _decoder(_no_float)  # making one takes longer than reading an event
