# SPDX-License-Identifier: Apache-2.0
"""The bridge put together: a subscriber that asks for what it missed, the store, and a thread for each output.

Whatever the subscriber hands over is in the store, on disk, before the broker hears that it was taken. A full disk, a
broker that is away and a list of units that has ended stop no output: each is told once and tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass

from agent.bridge import settings as wanted
from agent.bridge.outputs import Output
from agent.bridge.people import Resolving
from agent.bridge.pump import Pump
from agent.bridge.records import notice, records_of, withdrawn
from agent.bridge.settings import Settings
from agent.bridge.status import Status
from agent.bridge.store import Store
from agent.bridge.week_keys import WeekKeys
from agent.clock import Bounds, Clock, full_jitter
from agent.errors import BrokerError, PosternError, RefusedError
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials, load_identity
from agent.mqtt.records import BrokerSettings
from agent.protocol.health import Health
from agent.protocol.program import check_role
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.replay import Replays
from agent.subscribe.subscriber import Handed, Subscriber
from agent.subscribe.verify import VerifiedEvent

AGAIN_S = Bounds(1.0, 2.0, 60.0)  # pauses after a broker that cannot be reached, or a disk that is full
STOP_S = 10  # for all outputs together to end what they have in hand; the service manager waits longer
LOOK_S = 5  # between two looks at people, keys and what is missing


@dataclass(eq=False)
class Bridge:
    """See the module. ``run`` blocks until ``stop``; ``on_notice`` may be called from any thread."""

    settings: Settings
    _: KW_ONLY
    clock: Clock
    random: Callable[[int], bytes]
    on_notice: Callable[[str], None]

    def __post_init__(self) -> None:
        """Read every file and open the store; PosternError says what is wrong with which."""
        settings = self.settings
        self._stopping = threading.Event()
        self._subscriber: Subscriber | None = None
        self._looked_ns: int | None = None
        self._failures, self._told = 0, ""  # since the last records that were kept, and what was told of it
        self.status = Status()
        self._resolving = Resolving(settings.people, settings.epoch_keys, settings.consumer_key)
        check_role(settings.keys, "auditor", site=settings.site)
        self._credentials = Credentials.in_folder(settings.keys)
        identity = load_identity(self._credentials, self.clock)
        self._name = identity.common_name
        self._week_keys = self._of_weeks()
        self.status.facts.certificate_s = int(identity.expires.timestamp())
        if not settings.state.is_dir():
            raise RefusedError(
                f"the folder {settings.state} of the bridge's own files is not there: make it with mode 0700 for the"
                " user that the bridge runs as, and run this as that user"
            )
        self.store = Store(
            settings.state / "bridge.db",
            outputs=[output.name for output in settings.outputs],
            clock=self.clock,
            random=self.random,
        )
        with ExitStack() as stack:
            stack.callback(self.store.close)
            outputs = [(one, self._made(one)) for one in settings.outputs]
            stack.pop_all()
        self._pumps = [
            Pump(
                one.name,
                output,
                store=self.store,
                clock=self.clock,
                random=self.random,
                person=self._resolving.person if one.people or isinstance(one, wanted.HomeAssistant) else None,
                on_notice=self.on_notice,
                on_state=self._note_state,
            )
            for one, output in outputs
        ]

    def check(self) -> None:
        """Read what is else read once the broker is there; PosternError says what is wrong with which file."""
        self._trust().load(site=self.settings.site)
        if self._replays() is None:
            raise RefusedError(
                f"{self.settings.keys} holds no grant.jws, so that units tell this bridge nothing that it missed: these"
                " are not an auditor's files, or those of a release before ('postern site add-program NAME')"
            )

    def stop(self) -> None:
        """End soon; may be called from any thread."""
        self._stopping.set()
        if self._subscriber is not None:
            self._subscriber.stop()

    def run(self) -> None:
        """Receive and hand over until stopped. Raises PosternError for what a person has to correct."""
        listened = False  # before, a mistake in the files is for the person who starts it
        self.store.keep_only(output.name for output in self.settings.outputs)
        if self.store.put_back is not None:
            self._note(self.store.put_back)
        for pump in self._pumps:
            pump.start()
        try:
            while not self._stopping.is_set():
                try:
                    self._listen()
                    listened = True
                except PosternError as error:
                    listened = listened or self._subscriber is not None
                    if not (listened or isinstance(error, BrokerError)):
                        raise
                    if str(error) != self._told:
                        self._told = str(error)
                        self.on_notice(self._told)
                    self._failures += 1
                    self._look_at_outputs()
                    self._stopping.wait(full_jitter(self._failures, AGAIN_S, self.random))
        finally:
            self.close()

    def close(self) -> None:
        """Let the outputs end what they have in hand, and let go of the store."""
        for pump in self._pumps:
            pump.end()
        end_ns = self.clock.monotonic_ns() + STOP_S * 1_000_000_000
        for pump in self._pumps:
            pump.stop(max(end_ns - self.clock.monotonic_ns(), 0) / 1e9)
        self.store.close()

    def _listen(self) -> None:
        settings = self.settings
        broker = BrokerSettings(settings.broker.host, self._credentials, port=settings.broker.port)
        subscriber = Subscriber(
            broker,
            site=settings.site,
            trust=self._trust(),
            clock=self.clock,
            state=StateFile(settings.state / "seen.db"),
            durable=True,
            replays=self._replays(),
            on_notice=self._note,
            on_health=self._note_health,
            on_turn=self._look,
            on_keys=self._week_keys.take if self._week_keys else None,
        )
        with subscriber:
            self._subscriber = subscriber
            if self._stopping.is_set():  # it was asked for while the broker was being reached
                return
            self.on_notice(f"listening to site {settings.site} at {broker.host}:{broker.port}")
            for batch in subscriber.batches():
                self._keep(batch)

    def _trust(self) -> TrustFile:
        keys = self.settings.keys
        return TrustFile(keys / "trust.jws", load_public_key(keys / "site.jwk"))

    def _replays(self) -> Replays | None:
        settings = self.settings
        return Replays.from_folder(settings.keys, site=settings.site, clock=self.clock, random=self.random)

    def _of_weeks(self) -> WeekKeys | None:
        """What takes the keys of each week, where the site lets this bridge resolve and there is a folder for them."""
        keys, folder = self.settings.keys, self.settings.epoch_keys
        if folder is None or not WeekKeys.there(keys):
            return None
        return WeekKeys(keys, folder, site=self.settings.site, program=self._name, clock=self.clock)

    def _keep(self, batch: Sequence[Handed]) -> None:
        """One commit for all that came together: what waited at the broker for a day is written in seconds."""
        now_s, site, serial = int(self.clock.now().timestamp()), self.settings.site, self.store.serial
        self.store.put((item for handed in batch for item in records_of(handed, site, serial=serial)), now_s)
        self._failures, self._told = 0, ""  # what was in the way is gone: the next time is news again
        with self.status.lock:
            for handed in batch:
                if isinstance(handed, VerifiedEvent):
                    self.status.facts.event_s[handed.unit] = now_s

    def _note(self, text: str) -> None:
        """What a subscriber tells a person is a record as well."""
        self.on_notice(text)
        self.store.put([notice(text, serial=self.store.serial())], int(self.clock.now().timestamp()))

    def _note_health(self, unit: str, report: Health) -> None:
        with self.status.lock:
            self.status.facts.health[unit] = (int(self.clock.now().timestamp()), report)

    def _note_state(self, output: str, failing: bool) -> None:  # noqa: FBT001 - what it says of it
        with self.status.lock:
            self.status.facts.problems[output] = failing

    def _look(self) -> None:
        """Read people and keys again, say who is known no more, and count what is missing."""
        now_ns = self.clock.monotonic_ns()
        if self._looked_ns is not None and now_ns - self._looked_ns < LOOK_S * 1_000_000_000:
            return
        first, self._looked_ns = self._looked_ns is None, now_ns
        self._look_at_outputs()
        if self._resolving.refresh() or first:
            for name in sorted(self.store.people(frozenset(self._resolving.everybody()))):
                item = withdrawn(name, serial=self.store.serial())
                self.store.forget_person(name, item, int(self.clock.now().timestamp()))
        if self._resolving.refusal is not None:
            self.on_notice(f"the people and keys that were read before stay: {self._resolving.refusal}")
            self._resolving.refusal = None
        if (subscriber := self._subscriber) is None:
            return
        verifier = subscriber.verifier
        missing = {unit: sum(gap.count for gap in gaps) for unit, gaps in verifier.all_missing().items()}
        with self.status.lock:
            facts = self.status.facts
            facts.missing, facts.withheld = missing, subscriber.withheld()
            facts.quarantined = frozenset(verifier.quarantined())
            facts.units = verifier.trust.units_in_service()
            facts.list_s = None if verifier.trust.expires is None else int(verifier.trust.expires.timestamp())
            facts.epoch_keys, facts.epoch_keys_s = self._resolving.epochs(), self._resolving.until_s()

    def _look_at_outputs(self) -> None:
        for pump in self._pumps:
            pump.look()

    def _made(self, one: wanted.Output) -> Output:
        """An output, or a RefusedError that says which of them does not do."""
        try:
            made = self._make(one)
            _keep_names(one, made)
        except RefusedError as error:
            raise RefusedError(f"output {one.name}: {error}", reason=error.reason) from error
        return made

    def _make(self, one: wanted.Output) -> Output:
        """Each output loads what it needs alone."""
        broker, words = self.settings.broker, one.liveness_not_checked
        try:
            match one:
                case wanted.Webhook():
                    from agent.bridge.webhook import Webhook  # noqa: PLC0415

                    return Webhook(one.url, one.secret, words, self.clock, ca=one.ca)
                case wanted.Sql():
                    from agent.bridge.sql import Sql  # noqa: PLC0415

                    return Sql(one.url, one.password, one.ca)
                case wanted.Metrics():
                    from agent.bridge.metrics import Metrics  # noqa: PLC0415

                    return Metrics(one.listen, one.port, status=self.status, store=self.store, now_s=self._now_s)
                case wanted.Otlp():
                    from agent.bridge.otlp import Otlp  # noqa: PLC0415

                    return Otlp(
                        one.url, site=self.settings.site, token=one.token, ca=one.ca, words=words, clock=self.clock
                    )
                case wanted.Syslog():
                    from agent.bridge.syslog import Syslog  # noqa: PLC0415

                    return Syslog(one.host, one.port, ca=one.ca, keys=one.keys, words=words)
                case wanted.HomeAssistant():
                    from agent.bridge.home_assistant import HomeAssistant  # noqa: PLC0415

                    return HomeAssistant(
                        BrokerSettings(broker.host, self._announcers(one), port=broker.port),
                        site=self.settings.site,
                        presence_s=one.presence_s,
                        words=words,
                        everybody=lambda: self._resolving.everybody().values(),
                        clock=self.clock,
                    )
        except ImportError as error:
            raise RefusedError(
                f"it needs a library that is not installed ({error.name}): pip install 'postern[bridge]'"
            ) from error

    def _announcers(self, one: wanted.HomeAssistant) -> Credentials:
        """Files of a program that may tell Home Assistant of people; RefusedError where they are another's."""
        check_role(one.keys, "announcer", site=self.settings.site)
        credentials = Credentials.in_folder(one.keys)
        if load_identity(credentials, self.clock).common_name == self._name:
            raise RefusedError(
                f"it has the bridge's own keys ({self._name}), and the broker ends the former of two"
                " sessions of one name: give it a program of its own ('postern site add-program NAME --role announcer')"
            )
        return credentials

    def _now_s(self) -> int:
        return int(self.clock.now().timestamp())


def _keep_names(one: wanted.Output, made: Output) -> None:
    """RefusedError where somebody on the way would read the names of people."""
    if one.people and not made.private:
        made.close()
        raise RefusedError(
            "whoever listens on the way would read who it was: give the URL with https (for a database 'ca'),"
            " or 'people: false'"
        )
