# SPDX-License-Identifier: Apache-2.0
"""The whole way with nothing simulated but the camera: site kit, broker as deployed, unit, subscriber, operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import Bounds, SystemClock
from agent.errors import BrokerError
from agent.keys import UnitKey
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.outbox.queue import Outbox
from agent.protocol.program import Role
from agent.protocol.trust import TrustedUnits
from agent.site import units
from agent.site.creation import create_site
from agent.site.operator import Operator
from agent.site.programs import issue_broker, issue_client
from agent.site.records import SiteFiles
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from agent.unit.joining import install, new_unit_request
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import Uplink, UplinkNotice, UplinkSettings
from tests.simulators.broker import RealBroker, wait_until
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import unit_draft
from tests.simulators.unit_on_broker import SkippingClock

pytestmark = pytest.mark.broker


class Installed:
    """A site with one unit and three programs, as an installer leaves it."""

    def __init__(self, folder: Path) -> None:
        self.clock = SkippingClock()
        self.folder = folder / "site"
        self.files: SiteFiles = create_site(self.folder, "hq")
        issue_broker(self.folder, ["127.0.0.1"])
        self.keys = folder / "keys"
        request = new_unit_request(self.keys, "hq", "door-1", units.new_token(self.folder, "door-1"))
        install(self.keys, units.add_unit(self.folder, request), clock=SystemClock())
        roles: tuple[tuple[str, Role], ...] = (("guard", "auditor"), ("office", "operator"))
        self.programs = {name: issue_client(self.folder, name, role) for name, role in roles}
        self.broker = RealBroker(folder, Authority(folder / "replaced"))
        self.broker.use_site(self.files)
        self.broker.start()
        self.notices: list[UplinkNotice] = []
        key = UnitKey.load(self.keys / "unit.key")
        self.outbox = Outbox(folder / "outbox.db", signer=key, source="/postern/hq/door-1", clock=self.clock)
        self.mailbox = Mailbox()
        self.uplink = Uplink(
            UplinkSettings(self.settings(self.keys), "hq", "door-1", reconnect_s=Bounds(0.05, 0.1, 0.2)),
            outbox=self.outbox,
            mailbox=self.mailbox,
            clock=self.clock,
            random=lambda n: b"\x80" * n,
            info=lambda: b"{}",
            on_request=lambda *_: None,
            on_notice=self.notices.append,
        )

    def settings(self, keys: Path) -> BrokerSettings:
        return BrokerSettings("127.0.0.1", Credentials.in_folder(keys), port=self.broker.port)

    def say(self) -> int:
        seq = self.outbox.append(unit_draft(self.clock))  # type: ignore[arg-type]  # it only reads the clock
        self.mailbox.wake()
        return seq


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    installed = Installed(tmp_path)
    installed.uplink.start()
    wait_until(lambda: any(notice.kind == "connected" for notice in installed.notices))
    yield installed
    installed.uplink.stop()
    installed.outbox.close()
    installed.broker.stop()


def first(subscriber: Subscriber) -> VerifiedEvent | Refusal:
    return next(iter(subscriber))


def test_event_of_an_enrolled_unit_is_accepted_until_the_unit_is_revoked(installed: Installed) -> None:
    files, clock = installed.files, installed.clock
    trust = TrustFile(files.trust, units.load_site_key(installed.folder).public)
    with Subscriber(installed.settings(installed.programs["guard"]), site="hq", trust=trust, clock=clock) as subscriber:
        installed.say()
        accepted = first(subscriber)
        assert isinstance(accepted, VerifiedEvent)
        assert (accepted.unit, accepted.fresh) == ("door-1", True)
        units.revoke_unit(installed.folder, "door-1")
        clock.skipped_s += 6  # the subscriber looks at its list again
        installed.say()
        wait_until(lambda: installed.outbox.depth() == 0)
        outcomes = [first(subscriber)]
        if isinstance(outcomes[0], VerifiedEvent):  # received before the list was read again
            installed.say()
            outcomes.append(first(subscriber))
        assert isinstance(outcomes[-1], Refusal)
        assert outcomes[-1].reason == "revoked"


def test_revoked_unit_is_shut_out_by_the_broker(installed: Installed) -> None:
    units.revoke_unit(installed.folder, "door-1")
    installed.broker.use_site(installed.files)
    installed.broker.stop()
    installed.broker.start()
    with pytest.raises(BrokerError, match=r"revoked|may not accept"):
        Connection(installed.settings(installed.keys), client_id="door-1", clock=SystemClock()).open()
    installed.say()
    wait_until(lambda: any("revoked" in n.message or "may not accept" in n.message for n in installed.notices))
    assert installed.outbox.depth() == 1


def test_command_of_the_sites_operator_reaches_the_unit_and_another_program_sends_none(installed: Installed) -> None:
    key = units.load_site_key(installed.folder)
    trusted = TrustedUnits.from_signed(installed.files.trust.read_bytes(), key.public)
    operator = Operator(
        installed.settings(installed.programs["office"]), site="hq", key=key, trusted=trusted, clock=installed.clock
    )
    with pytest.raises(BrokerError, match="does not answer"):  # this unit hears and stays silent
        operator.ask("door-1", "selftest", timeout_s=0.5)
    guard = Operator(
        installed.settings(installed.programs["guard"]), site="hq", key=key, trusted=trusted, clock=installed.clock
    )
    with pytest.raises(BrokerError, match="role of an operator"):
        guard.ask("door-1", "selftest", timeout_s=5)
