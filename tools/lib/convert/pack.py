# SPDX-License-Identifier: Apache-2.0
"""Packs: where somebody else's network lies, its digest, its licence, and what it expects of pixels.

A pack is a short YAML file. It holds no weights: who uses one fetches them from where their authors publish them, after
reading and accepting their licence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import ConfigError, RefusedError, printable
from agent.parse.strict_yaml import read_document
from tools.lib.convert.material import MIN_PICTURES
from tools.lib.convert.outputs import TASKS
from tools.lib.convert.packs import find_pack
from tools.lib.evaluate import pictures
from tools.lib.evaluate.calibrate import CAPTURES

MAX_PACK_BYTES = 512 * 1024 * 1024  # of the network that a pack names: what tools/convert reads at most
# The tail of a policy is read from pairs of people with three pictures each, some six hundred at least.
MIN_PEOPLE = 36
# What a pack says itself, by the name of the option that says it otherwise.
SAID_BY_PACK = (
    "name", "decoder", "mean", "std", "colour", "size", "output", "licence", "training_data", "teacher",
    "score_threshold",
)  # fmt: skip

Text = Annotated[str, Meta(min_length=1, max_length=1000)]
Https = Annotated[str, Meta(pattern=r"^https://[!-~]+$", max_length=1000)]
Triple = tuple[float, float, float]


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network. ``size`` (bytes) and ``sha256`` are of its ONNX file, ``licence`` is an SPDX expression.

    The network sees (pixel - mean) / std, pixels 0 to 255 in the order ``colour``; ``input_size`` (width, height) is
    for one that leaves it open, ``outputs`` (name of the decoder: name in the file) for one whose outputs cannot be
    told.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: Text
    address: Https
    size: Annotated[int, Meta(ge=1, le=MAX_PACK_BYTES)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    licence: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.()+ -]{1,100}$")]
    licence_address: Https
    training_data: Text
    decoder: Literal["embedding", "scrfd", "yunet"]
    mean: Triple
    std: Triple
    colour: Literal["RGB", "BGR"]
    remarks: Text | None = None
    input_size: tuple[int, int] | None = None
    outputs: dict[str, Text] = {}
    score_threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None


def read_pack(named: str) -> Pack:
    """The pack called ``named`` in ``models/packs``, or the file of that name; ConfigError says what is wrong."""
    path = find_pack(named)
    document = read_document(path)
    try:
        return msgspec.convert(document.data, Pack, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is not an acceptable pack: {printable(str(error))}") from error


def take_over(args: argparse.Namespace, pack: Pack) -> None:
    """Fill the arguments with what the pack says; RefusedError where the command says it otherwise."""
    if said := [name for name in SAID_BY_PACK if getattr(args, name) not in (None, {})]:
        raise RefusedError(f"the pack says --{said[0].replace('_', '-')} itself: leave it out")
    if args.aligned:
        raise RefusedError("a policy is measured on whole pictures: leave --aligned out with --pack")
    args.name, args.decoder, args.licence = pack.name, pack.decoder, pack.licence
    args.mean, args.std, args.colour = pack.mean, pack.std, pack.colour
    args.size, args.output, args.score_threshold = pack.input_size, pack.outputs, pack.score_threshold
    args.training_data = pack.training_data


def check_material(pack: Pack, folder: Path | None, people: Path | None) -> Path:
    """Return the folder of the people; RefusedError when there are too few pictures for ranges and policy."""
    if folder is None:
        raise RefusedError(
            f"{pack.name} needs pictures of faces like those of your cameras: give --pictures FOLDER, with a folder for"
            f" each of {MIN_PEOPLE} people or more and {CAPTURES} pictures of each, better twice as many"
        )
    listed = _listed(folder)
    if len(listed) < MIN_PICTURES:
        raise RefusedError(
            f"{folder} holds {len(listed)} pictures; at least {MIN_PICTURES}, better some hundred, set the ranges"
        )
    if people is not None:
        listed = _listed(people)
    enough = len(_with_pictures(listed, CAPTURES))
    if enough < MIN_PEOPLE:
        raise RefusedError(
            f"{people or folder} holds {enough} people with {CAPTURES} pictures or more; the policy is measured on"
            f" {MIN_PEOPLE} at least, each in a folder of their own: add people, or name other ones with --people"
        )
    return people or folder


def _listed(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        raise RefusedError(f"there is no folder {folder}")
    try:
        return pictures.find(folder)
    except SystemExit:
        return []


def _with_pictures(paths: Sequence[Path], count: int) -> list[str]:
    names = [path.parent.name for path in paths]
    return [name for name in sorted(set(names)) if names.count(name) >= count]


def accept_licence(pack: Pack, given: str | None, *, say: Callable[[str], None], ask: Callable[[str], str]) -> None:
    """Show whose the network is and have its licence accepted; RefusedError when it is not.

    ``given`` is an answer given beforehand. ``ask`` returns an empty text when nobody is there to answer.
    """
    task = TASKS[pack.decoder]
    say(f"{pack.name}: {pack.title}; {task}, {pack.size} bytes\n  from         {pack.address}")
    say(f"  licence      {pack.licence}, {pack.licence_address}\n  learned from {pack.training_data}")
    if pack.remarks is not None:
        say(f"  {pack.remarks}")
    answer = ask(f"Type {pack.licence} to accept this licence: ") if given is None else given
    if answer.strip() != pack.licence:
        raise RefusedError(
            f"the licence of {pack.name} was not accepted, and nothing was fetched: read {pack.licence_address}, then"
            f" type {pack.licence} when asked or give --accept-licence '{pack.licence}'"
        )
