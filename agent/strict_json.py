# SPDX-License-Identifier: Apache-2.0
"""JSON as RFC 7493 (I-JSON) wants it, and narrower: one reading of the bytes, and no floats.

Two parsers that disagree about a duplicate key or a big number are how a signed message says one
thing to the verifier and another to the application. Such input is refused instead.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 sec. 2.2: what every JSON implementation can hold exactly


class StrictJsonError(ValueError):
    """The bytes are not JSON with one reading; the message holds no text of the input."""


def loads(content: bytes, *, limit: int) -> Any:  # noqa: ANN401 - any JSON value; callers convert it to a typed record
    """Parse UTF-8 JSON of at most ``limit`` bytes; duplicate keys, floats, NaN and wide integers are refused."""
    if len(content) > limit:
        raise StrictJsonError(f"longer than {limit} bytes")
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_no_float,
            parse_int=_safe_integer,
            parse_constant=_no_float,
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("nested too deeply") from None
    except ValueError:
        raise StrictJsonError("not JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("a key stands twice in one object")
    return found


def _no_float(_: str) -> NoReturn:
    raise StrictJsonError("a number is not an integer")


def _safe_integer(digits: str) -> int:
    # 17 characters hold every safe integer with its sign; longer ones need not be converted to be refused.
    if len(digits) > 17 or abs(value := int(digits)) > MAX_SAFE_INTEGER:
        raise StrictJsonError("an integer is beyond 2^53-1")
    return value
