# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` for Prometheus: what an operator wants to be woken for. No person and no pseudonym is in it.

What can be counted is told as 0 before it happens: of a series that begins at 1, ``increase()`` counts nothing, so that
the first forgery, loss or dead letter would wake nobody.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.bridge.outputs import Item, Sent
from agent.bridge.records import RecordKind
from agent.bridge.status import Status
from agent.bridge.store import Store
from agent.errors import RefusedError

DAY_S = 24 * 3600
AWAY_S = 180  # three reports of health that did not come
MAX_QUESTIONS = 16  # at once; more are hung up on
TIMEOUT_S, DEADLINE_S = 10, 30  # for one step of a question, and for all of it
REASONS = (  # of a refusal: those of agent.subscribe.verify, and of what the broker had kept
    *("too_large", "malformed", "unsigned", "wrong_type", "unsecured", "wrong_algorithm", "unknown_unit", "wrong_key"),
    *("wrong_unit", "wrong_topic", "bad_signature", "expired", "revoked", "quarantined", "replayed", "duplicate"),
    *("fork", "overtaken", "jump", "retained"),
)


class Metrics:
    """An output that counts, and the server that tells."""

    batch = 1000
    private = True  # counts, of nobody

    def __init__(
        self,
        listen: str,
        port: int,
        *,
        status: Status,
        store: Store,
        now_s: Callable[[], int],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Begin to serve; RefusedError when the address cannot be used."""
        self._gathered = Gathered(status, store, now_s)
        registry = CollectorRegistry()
        registry.register(self._gathered)
        try:
            self._server = _Server(listen, port, registry, deadline_s)
        except OSError as error:
            raise RefusedError(
                f"cannot serve metrics on {listen} port {port} ({error.strerror}): choose another"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="postern-metrics", daemon=True)
        self._thread.start()

    def send(self, items: Sequence[Item], now_s: int) -> Sent:  # noqa: ARG002
        for item in items:
            body = item.record.body
            self._gathered.records[body.kind] += 1
            if body.kind == "refusal":
                self._gathered.refusals[body.reason or ""] += 1
            elif body.kind == "loss":
                self._gathered.lost[body.unit or ""] += body.count or 0
            elif body.kind == "unit" and body.count:
                self._gathered.owned_up[body.unit or ""] += body.count
        return Sent(through=items[-1].record.number)

    def idle(self, now_s: int) -> None:
        """Nothing is due."""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


Asked = socket.socket | tuple[bytes, socket.socket]  # as socketserver types it; the pair is of UDP


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S  # of one read or write

    def log_message(self, *_: object) -> None:
        """Who asks is nobody's business."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each question, few at once and for a short time: whoever reaches the port holds up no output."""

    daemon_threads = True

    def __init__(self, listen: str, port: int, registry: CollectorRegistry, deadline_s: float) -> None:
        """Listen; raises OSError."""
        self._deadline_s = deadline_s
        self._places = threading.BoundedSemaphore(MAX_QUESTIONS)
        self.address_family = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        super().__init__((listen, port), _Handler)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Asked, client_address: object) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Asked, client_address: object) -> None:
        watch = threading.Timer(self._deadline_s, _cut, [request])
        watch.daemon = True
        watch.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            watch.cancel()
            self._places.release()

    def handle_error(self, request: Asked, client_address: object) -> None:
        """Whoever hangs up in the middle of a question is none of ours."""


def _cut(request: Asked) -> None:
    if isinstance(request, socket.socket):
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class Gathered(Collector):
    """All that is told, each time that somebody asks."""

    def __init__(self, status: Status, store: Store, now_s: Callable[[], int]) -> None:
        self._status, self._store, self._now_s = status, store, now_s
        self.records: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.owned_up: Counter[str] = Counter()

    def collect(self) -> Iterator[Metric]:
        now_s = self._now_s()
        with self._status.lock:
            facts = self._status.facts
            units = facts.units
            none = dict.fromkeys(units, 0)
            health = {unit: facts.health[unit] for unit in units if unit in facts.health}
            ages = {unit: max(now_s - facts.event_s[unit], 0) for unit in units if unit in facts.event_s}
            missing, withheld = none | facts.missing, none | facts.withheld
            quarantined = {unit: int(unit in facts.quarantined) for unit in units}
            ends, list_s, problems = facts.certificate_s, facts.list_s, dict(facts.problems)
            keys, keys_s = facts.epoch_keys, facts.epoch_keys_s
        yield _gauge("postern_unit_event_age_seconds", "since the last event of a unit", "unit", ages)
        heard = {unit: max(now_s - at, 0) for unit, (at, _) in health.items()}
        yield _gauge(
            "postern_unit_health_age_seconds", f"since a unit's health; above {AWAY_S} it is away", "unit", heard
        )
        up = {unit: int(unit in heard and heard[unit] <= AWAY_S) for unit in units}
        yield _gauge("postern_unit_available", "1 while a unit's signed health comes", "unit", up)
        ends_in = {u: one.certificate_days for u, (_, one) in health.items() if one.certificate_days is not None}
        yield _gauge("postern_unit_certificate_days_left", "then a unit falls silent", "unit", ends_in)
        queue = {unit: report.queue_depth for unit, (_, report) in health.items()}
        yield _gauge("postern_unit_queue_events", "events that wait at a unit", "unit", queue)
        weeks = {unit: report.epochs for unit, (_, report) in health.items() if report.epochs is not None}
        yield _gauge("postern_unit_epochs", "weeks that a unit has keys for; at 0 it announces nobody", "unit", weeks)
        yield _gauge("postern_unit_missing_events", "events that did not come yet", "unit", missing)
        yield _gauge("postern_unit_withheld_events", "events that a unit says it sent", "unit", withheld)
        yield _gauge("postern_unit_quarantined", "1 while a person has to look at a unit", "unit", quarantined)
        behind = self._store.behind()
        yield _gauge("postern_output_behind_records", "records that an output has still to get", "output", behind)
        outputs = dict.fromkeys(behind, 0)
        dead = outputs | self._store.dead_counts()
        yield _gauge("postern_output_dead_letters", "records that an output refused", "output", dead)
        failing = outputs | {output: int(failing) for output, failing in problems.items()}
        yield _gauge("postern_output_failing", "1 while an output is tried again", "output", failing)
        days = {"certificate": (ends - now_s) // DAY_S}
        if list_s is not None:
            days["list_of_units"] = (list_s - now_s) // DAY_S
        if keys_s is not None:
            days["epoch_keys"] = (keys_s - now_s) // DAY_S
        yield _gauge("postern_key_days_left", "until a person has to renew it", "what", days)
        yield GaugeMetricFamily("postern_epoch_keys", "epoch keys that the bridge holds", value=keys)
        yield _count("postern_records", "records by kind, since the start", "kind", self.records, get_args(RecordKind))
        text = "refused messages by reason, since the start"
        yield _count("postern_refusals", text, "reason", self.refusals, REASONS)
        text = "events that nobody keeps any more, since the start"
        yield _count("postern_lost_events", text, "unit", self.lost, units)
        text = "events that a unit says it dropped itself, since the start"
        yield _count("postern_owned_up_events", text, "unit", self.owned_up, units)


def _gauge(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family


def _count(name: str, text: str, label: str, values: Counter[str], known: Iterable[str]) -> Metric:
    """A counter; ``known`` are the label's values that are told before anything was counted."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in sorted((dict.fromkeys(known, 0) | values.copy()).items()):
        family.add_metric([value], number)
    return family
