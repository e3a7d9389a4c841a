# SPDX-License-Identifier: Apache-2.0
"""Records as OpenTelemetry logs: OTLP over HTTP, binary, each with its key as an attribute.

2xx is taken; 429, 502, 503 and 504 are tried again (OTLP 1.5, "failures"); what a collector rejects for good is a dead
letter. Of a batch that it took in part it does not say which: each record of it is sent again alone, so that some come
twice, with the same key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber as Severity
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent import __version__
from agent.bridge.outputs import BATCH_NS, Item, Sent, told
from agent.bridge.post import MOVED, Poster, UnreachableError
from agent.bridge.records import Record
from agent.clock import Clock
from agent.disk.files import read_brought
from agent.errors import RefusedError, printable
from agent.parse.strict_json import dumps

AGAIN = (429, 502, 503, 504)
# It is the sender or the address that is wrong: every record would be refused.
NOT_FROM_US = (*MOVED, 401, 403, 404, 407)
NANOSECONDS = 1_000_000_000
SEVERITIES = {
    "gap": Severity.SEVERITY_NUMBER_WARN,
    "refusal": Severity.SEVERITY_NUMBER_WARN,
    "notice": Severity.SEVERITY_NUMBER_INFO2,
    "loss": Severity.SEVERITY_NUMBER_ERROR,
}


class Otlp:
    """See the module."""

    batch = 128

    def __init__(
        self, url: str, *, site: str, token: Path | None, ca: Path | None, words: str | None, clock: Clock
    ) -> None:
        """Read the token; RefusedError or KeyStoreError says what is wrong."""
        self._poster = Poster(url, ca)
        self._headers = {"Content-Type": "application/x-protobuf"}
        self.private = self._poster.private
        if token is not None:
            if not self.private:
                raise RefusedError(f"the token would go to {self._poster.host} in clear: give the URL with https")
            self._headers["Authorization"] = f"Bearer {_read_token(token)}"
        self._words, self._clock = words, clock
        self._resource = Resource(attributes=[_attribute("service.name", "postern"), _attribute("postern.site", site)])
        self._scope = InstrumentationScope(name="postern.bridge", version=__version__)

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        sent, began_ns = Sent(), self._clock.monotonic_ns()
        try:
            refused = self._export(items, now_s)
            if refused is None:
                sent.through = items[-1].record.number
                return sent
            for item in items:
                if self._clock.monotonic_ns() - began_ns > BATCH_NS and sent.through:
                    break
                alone = refused if len(items) == 1 else self._export([item], now_s)
                if alone is not None:
                    sent.dead.append((item.record, alone))
                sent.through = item.record.number
        except UnreachableError as error:
            sent.problem = str(error)
        return sent

    def idle(self, now_s: int) -> None:
        """Nothing is due."""

    def close(self) -> None:
        self._poster.close()

    def _export(self, items: Sequence[Item], now_s: int) -> str | None:
        """Why not all of it was taken for good; None when it was. UnreachableError when another time may do."""
        records = [_record(item.record, told(item, now_s, self._words)) for item in items]
        scoped = ScopeLogs(scope=self._scope, log_records=records)
        request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=self._resource, scope_logs=[scoped])])
        status, answer = self._poster.post(request.SerializeToString(), self._headers)
        if status in AGAIN:
            raise UnreachableError(f"the collector {self._poster.host} answers {status}: it is tried again")
        if status in NOT_FROM_US:
            raise UnreachableError(
                f"the collector {self._poster.host} answers {status}: correct the token or the URL and restart the"
                " bridge, until then everything waits"
            )
        if not 200 <= status < 300:
            return f"the collector answered {status}"
        try:
            partial = ExportLogsServiceResponse.FromString(answer).partial_success
        except DecodeError:
            return "the collector answered what is no OTLP: check the URL"
        if partial.rejected_log_records:
            return f"the collector rejected it: {printable(partial.error_message) or 'it does not say why'}"
        return None


def _read_token(file: Path) -> str:
    """The bearer token; RefusedError, which holds nothing of it, when it can be none."""
    token = read_brought(file, secret=True).strip()
    if not token or not all(0x21 <= byte <= 0x7E for byte in token):
        raise RefusedError(f"{file} holds no token: one line of printable ASCII without spaces, and nothing else")
    return token.decode()


def _record(record: Record, content: dict[str, Any]) -> LogRecord:
    body = record.body
    signed = content.pop("event", None)
    attributes = [_attribute(f"postern.{name}", value) for name, value in content.items() if value is not None]
    if signed is not None:
        attributes.append(_attribute("postern.event", dumps(signed)))
    taken = record.taken_s * NANOSECONDS
    happened = taken if body.time is None else int(datetime.fromisoformat(body.time).timestamp()) * NANOSECONDS
    return LogRecord(
        time_unix_nano=happened,
        observed_time_unix_nano=taken,
        severity_number=SEVERITIES.get(body.kind, Severity.SEVERITY_NUMBER_INFO),
        event_name=f"postern.{body.kind}",
        body=AnyValue(string_value=" ".join(filter(None, (body.kind, body.unit, body.text)))),
        attributes=attributes,
    )


def _attribute(name: str, value: object) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    return KeyValue(key=name, value=AnyValue(string_value=str(value)))
