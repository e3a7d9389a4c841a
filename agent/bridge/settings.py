# SPDX-License-Identifier: Apache-2.0
"""The bridge's configuration: strict YAML in, frozen ``Settings`` out, or a ConfigError with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.check import Problem, convert, refusal
from agent.parse.strict_yaml import read_document
from agent.protocol import names

Name = Annotated[names.Name, Meta(description=f"1 to {names.MAX_NAME} of the letters a-z, the digits 0-9 and '-'")]
UNCHECKED = "a photograph of a face may open this door"  # what somebody has to write down who accepts that

ADVICE = "give its path, or begin with a copy of bridge.example.yaml"
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s]{1,2000}$", description="the whole address, such as https://siem.example.org/postern"
    ),
]
Database = Annotated[
    str,
    Meta(
        pattern=r"^(sqlite|postgresql\+psycopg)://[^\s]{0,2000}$",
        description="sqlite:////var/lib/postern-bridge/archive.db or postgresql+psycopg://USER@HOST/DATABASE",
    ),
]
Host = Annotated[
    str,
    Meta(
        pattern=r"^([^\s/:@\[\]]{1,255}|[0-9a-fA-F:.]{2,45}(%[^\s/:@\[\]]{1,32})?)$",
        description="a name or an address alone, such as logs.example.org; the port has a key of its own",
    ),
]
Port = Annotated[int, Meta(ge=1, le=65_535, description="a whole number from 1 to 65535, without quotes")]


class Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: Host
    port: Port = 8883


class _Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """``people``: this output is told who it was, where that is known here.

    ``liveness_not_checked``: the words by which somebody accepts that nothing tells a photograph from a person.
    """

    name: Name
    people: bool = False
    liveness_not_checked: Annotated[
        Literal["a photograph of a face may open this door"] | None,
        Meta(description=f"only these very words: {UNCHECKED}"),
    ] = None


class _Receiver(_Output, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``ca``: file in PEM of who vouches for the receiver's certificate; by default whom the system believes."""

    ca: Path | None = None


class Webhook(_Receiver, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="webhook"):
    url: Url
    secret: Path  # file, mode 0600, of at least 16 bytes


class Sql(_Receiver, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="sql"):
    url: Database
    password: Path | None = None  # file, mode 0600; the URL holds none; of PostgreSQL alone, as is ``ca``


class HomeAssistant(_Output, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="home-assistant"):
    keys: Path  # files of a program with the role announcer
    presence_s: Annotated[int, Meta(ge=10, le=86_400, description="whole seconds from 10 to 86400")] = 600


class Metrics(_Output, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="metrics"):
    listen: str = "127.0.0.1"
    port: Port = 9464


class Otlp(_Receiver, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="otlp"):
    url: Url  # the whole of it: …/v1/logs
    token: Path | None = None  # file, mode 0600, of a bearer token


class Syslog(_Receiver, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="syslog"):
    host: Host
    port: Port = 6514  # RFC 5425
    keys: Path | None = None  # folder with tls.crt and tls.key, where the receiver asks for them


Output = Webhook | Sql | HomeAssistant | Metrics | Otlp | Syslog


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``bridge.yaml``."""

    site: Name
    broker: Broker
    keys: Path  # files of a program with the role auditor, as the site kit made them
    state: Path  # folder of the bridge's own files
    people: Path | None = None  # who is behind which subject ids
    epoch_keys: Path | None = None  # folder of keys that 'postern site epoch-key' took out
    consumer_key: Path | None = None
    outputs: Annotated[tuple[Output, ...], Meta(min_length=1, max_length=32, description="1 to 32 outputs")]


def load_settings(file: Path) -> Settings:
    """Read the file; paths in it are relative to its folder. ConfigError names what is wrong with its line."""
    document = read_document(file, ADVICE)
    settings = convert(document, Settings)
    problems: list[Problem] = []
    names = [output.name for output in settings.outputs]
    for number, output in enumerate(settings.outputs):
        if output.name in names[:number]:
            problems.append(
                (("outputs", number, "name"), f"two outputs have the name {output.name}: each keeps its place by it")
            )
        if settings.people is None and (output.people or isinstance(output, HomeAssistant)):
            problems.append((("outputs", number), "it tells who it was: name the file of people"))
    if settings.people is not None and settings.epoch_keys is None:
        problems.append((("people",), "nobody is resolved without keys: name the folder epoch_keys"))
    if problems:
        raise refusal(document, problems)
    return settings
