# SPDX-License-Identifier: Apache-2.0
"""A parsed file against the schema: every problem at once, each with line, key, expectation and nearest key.

The schema is the msgspec structs and nothing else; this module walks them beside the data only to find the
places, and asks msgspec about each value. It knows no key by name.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from agent.errors import ConfigError
from agent.parse import strict_json
from agent.parse.strict_yaml import Document, Place, dotted

MAX_REPORTED = 20  # problems in one message: a screenful

Problem = tuple[Place, str]
T = TypeVar("T", bound=msgspec.Struct)


def convert(document: Document, schema: type[T]) -> T:
    """Turn the document into a frozen ``schema``; raises ConfigError naming every problem.

    ``Path`` values resolve against the folder of the file.
    """
    if problems := problems_in(document, schema):
        raise refusal(document, problems)
    folder = document.file.resolve().parent
    return strict_json.convert(document.data, schema, dec_hook=_path_hook(folder))


def problems_in(document: Document, schema: type[msgspec.Struct]) -> list[Problem]:
    """Everything in which the document differs from ``schema``; empty when ``convert`` takes it."""
    problems: list[Problem] = []
    _check_struct(document.data, schema, (), problems)
    return problems


def refusal(document: Document, problems: list[Problem]) -> ConfigError:
    """One error with one line per problem, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: document.line(problem[0]))
    lines = [f"{document.file}:{document.line(place)}: {dotted(place)}: {text}" for place, text in ordered]
    if len(lines) > MAX_REPORTED:
        lines = [*lines[:MAX_REPORTED], f"{document.file}: and {len(ordered) - MAX_REPORTED} more"]
    return ConfigError("\n".join(lines))


def _check_struct(data: object, schema: type[msgspec.Struct], place: Place, problems: list[Problem]) -> None:
    if not isinstance(data, dict):
        problems.append((place, f"expected keys and values: {', '.join(schema.__struct_encode_fields__)}"))
        return
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    hints = typing.get_type_hints(schema, include_extras=True)
    config = schema.__struct_config__
    known = [*([config.tag_field] if config.tag_field else []), *fields]
    problems.extend(((*place, key), _unknown(key, known)) for key in data if key not in known)
    for key, field in fields.items():
        if key in data:
            _check_value(data[key], hints[field.name], (*place, key), problems)
        elif field.required:
            problems.append(((*place, key), f"is missing{_meaning(hints[field.name])}"))
    if hasattr(schema, "__post_init__") and len(problems) == before:  # a rule between the fields of this struct
        _check_leaf(data, schema, place, problems)


def _check_value(value: object, hint: object, place: Place, problems: list[Problem]) -> None:
    choices = _structs(hint)
    if (inner := _inside(value, hint)) is not None:
        before = len(problems)
        for key, one in value.items() if isinstance(value, dict) else enumerate(typing.cast("list[object]", value)):
            _check_value(one, inner, (*place, key), problems)
        if len(problems) == before:  # how many there may be, and their names
            _check_leaf(value, hint, place, problems)
        return
    if value is None and type(None) in _options(hint):
        return
    if len(choices) == 1 and choices[0].__struct_config__.tag_field is None:
        _check_struct(value, choices[0], place, problems)
    elif choices:
        _check_tagged(value, choices, place, problems)
    elif (literals := _literals(hint)) and not (isinstance(value, str) and value in literals):
        advice = "; put it in quotes" if str(value) in literals else _nearest(value, literals)
        problems.append((place, f"expected one of {', '.join(literals)}{advice}{_meaning(hint)}"))
    else:
        _check_leaf(value, hint, place, problems)


def _structs(hint: object) -> list[type[msgspec.Struct]]:
    """List the structs among the members of a union, or the one struct."""
    return [option for option in _options(hint) if isinstance(option, type) and issubclass(option, msgspec.Struct)]


def _inside(value: object, hint: object) -> object | None:
    """What the list or the mapping ``value`` holds, where that is structs; None for every other type."""
    for option in _options(hint):
        if typing.get_origin(option) in (tuple, dict) and isinstance(value, list | dict):
            inner: object = typing.get_args(option)[int(isinstance(value, dict))]
            return inner if _structs(inner) else None
    return None


def _check_tagged(value: object, choices: list[type[msgspec.Struct]], place: Place, problems: list[Problem]) -> None:
    tag_field = str(choices[0].__struct_config__.tag_field)
    tags = {str(choice.__struct_config__.tag): choice for choice in choices}
    if not isinstance(value, dict):
        problems.append((place, f"expected keys and values with '{tag_field}' set to one of {', '.join(tags)}"))
        return
    tag = value.get(tag_field)
    if isinstance(tag, str) and tag in tags:
        _check_struct(value, tags[tag], place, problems)
    elif tag_field in value:
        problems.append(((*place, tag_field), f"expected one of {', '.join(tags)}{_nearest(tag, list(tags))}"))
    else:
        problems.append(((*place, tag_field), f"is missing: one of {', '.join(tags)}"))


def _check_leaf(value: object, hint: object, place: Place, problems: list[Problem]) -> None:
    try:
        strict_json.convert(value, hint, dec_hook=_path_hook(Path("/")))  # type: ignore[arg-type]  # any annotation
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        reason, _, inner = str(error).partition(" - at `$")
        index, _, _ = inner.removeprefix("[").partition("]")
        if index.isdigit():
            place = (*place, int(index))
        if "`str`, got" in reason and not isinstance(value, dict | list):
            reason += "; put it in quotes if it is text"
        meaning = _meaning(hint)
        if meaning and "matching regex" in reason:  # the words say it to a person
            reason = "is not of this form"
        problems.append((place, f"{reason[:1].lower()}{reason[1:]}{meaning}"))


def _unknown(key: str, known: list[str]) -> str:
    nearest = get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key; the nearest valid key is '{nearest[0]}'" if nearest else "unknown key"


def _nearest(value: object, choices: list[str]) -> str:
    nearest = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _meaning(hint: object) -> str:
    """Quote the schema, so that the reader of the message needs no other page."""
    notes = [note.description for note in _notes(hint) if note.description]
    return f" ({notes[0]})" if notes else ""


def _notes(hint: object) -> list[msgspec.Meta]:
    if typing.get_origin(hint) is Annotated:
        return [note for note in typing.get_args(hint)[1:] if isinstance(note, msgspec.Meta)]
    return []


def _options(hint: object) -> tuple[object, ...]:
    """List the members of a union, or the one type."""
    if typing.get_origin(hint) is Annotated:
        return _options(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(option for member in typing.get_args(hint) for option in _options(member))
    return (hint,)


def _literals(hint: object) -> list[str]:
    options = _options(hint)
    if len(options) == 1 and typing.get_origin(options[0]) is Literal:
        return [str(value) for value in typing.get_args(options[0])]
    return []


def _path_hook(folder: Path) -> Callable[[type, object], object]:
    def decode(wanted: type, value: object) -> object:
        if wanted is not Path:
            raise TypeError(f"the schema has an unknown type {wanted!r}")
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError("expected a path")
        return folder / value

    return decode
