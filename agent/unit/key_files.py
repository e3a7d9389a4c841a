# SPDX-License-Identifier: Apache-2.0
"""Where the keys of a unit lie, and what else it keeps beside its outbox."""

from __future__ import annotations

from pathlib import Path

from agent.disk.files import REVOKED_BROKERS


class UnitFiles:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.event_key = folder / "unit.key"
        self.tls_key = folder / "tls.key"
        self.seal_key = folder / "seal.key"
        self.next_seal_key = folder / "seal.key.next"
        self.seal_state = folder / "seal.json"
        self.tls_crt = folder / "tls.crt"
        self.ca_crt = folder / "ca.crt"
        self.revoked_brokers = self.ca_crt.with_name(REVOKED_BROKERS)
        self.site_jwk = folder / "site.jwk"
        self.epoch_keys = folder / "epoch-keys.json"
        self.token_key = folder / "token.key"
        self.card_secret = folder / "card.key"
        self.token_list = folder / "token-list.jws"
        self.pending = folder / "pending.json"
        self.site_change = folder / "site-change.json"
        self.mandate = folder / "mandate.json"
        self.request = folder / "request.jws"
        self.joined = folder / "joined.json"

    @property
    def waiting(self) -> UnitFiles:
        """Where the new ones lie until the site has answered."""
        return UnitFiles(self.folder / "waiting")


class KeptFiles:
    """Small files beside the outbox at ``outbox``."""

    def __init__(self, outbox: Path) -> None:
        self.commands = outbox.with_name("commands.json")
        self.time = outbox.with_name("time.json")
        self.generation = outbox.with_name("generation.json")
        self.pause = outbox.with_name("paused")
        self.policy = outbox.with_name("policy.json")
        self.console_opened = outbox.with_name("console-opened")
