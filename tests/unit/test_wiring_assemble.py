# SPDX-License-Identifier: Apache-2.0
"""What each part of a unit is given of its configuration, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

import agent
from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.errors import KeyStoreError, PolicyError
from agent.keys import SigningKey, load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.topics import Topics
from agent.unit.assemble import (
    credentials_of,
    load_policy,
    load_site_key,
    make_cards,
    make_seal,
    make_token_check,
    make_unit_discovery,
    uplink_settings,
)
from agent.unit.world import board
from agent.uplink.discovery import make_discovery
from agent.uplink.session import UplinkSettings
from tests.simulators.config import configured, example


def configured_in(folder: Path, **sections: Any) -> Config:
    return configured(folder, keys={"folder": str(folder)}, **sections)


def test_how_a_unit_speaks_to_its_broker_is_what_its_configuration_says(tmp_path: Path) -> None:
    broker = {"host": "broker.example", "port": 1234, "protocol": "3.1.1", "health_interval_s": 77}
    outbox = {**example()["outbox"], "live_window_s": 33}
    config = configured_in(tmp_path, broker=broker, outbox=outbox)
    lying = credentials_of(config)
    assert lying == Credentials(
        tmp_path / "ca.crt", tmp_path / "tls.crt", tmp_path / "tls.key", revoked=tmp_path / "brokers.crl"
    )
    assert uplink_settings(config, lying) == UplinkSettings(
        broker=BrokerSettings(host="broker.example", port=1234, protocol="3.1.1", credentials=lying),
        site=config.unit.site,
        unit=config.unit.id,
        live_window_s=33,
        health_interval_s=77,
    )
    elsewhere = {name: str(tmp_path / f"other.{name}") for name in ("ca", "certificate", "key")}
    moved = configured_in(tmp_path, broker={"host": "broker.example", "tls": elsewhere})
    assert credentials_of(moved) == Credentials(
        *(tmp_path / f"other.{name}" for name in ("ca", "certificate", "key")), revoked=tmp_path / "brokers.crl"
    )


def test_a_sites_key_that_is_none_and_a_policy_that_is_not_there_say_what_to_install(tmp_path: Path) -> None:
    config = configured_in(tmp_path, match={"policy": str(tmp_path / "policy.jws")})
    path = tmp_path / "site.jwk"
    for text in ("nothing", "{}", json.dumps({"kty": "EC", "crv": "P-256", "x": "a", "y": "b"})):
        path.write_text(text)
        with pytest.raises(KeyStoreError) as refused:
            load_site_key(config)
        said = f"{path} is no public key: install the site's answer again (postern unit install)"
        assert str(refused.value) == said
        with pytest.raises(KeyStoreError) as refused:
            load_public_key(path)
        assert str(refused.value) == (f"{path} is not the public JWK of a P-256 key: copy it from the site again"), (
            "which of many files it is"
        )
    key = SigningKey.generate()
    path.write_text(json.dumps(key.public_jwk()))
    assert load_site_key(config).kid == key.public.kid
    with pytest.raises(PolicyError) as missing:
        load_policy(config, cast("Any", None))
    wanted = tmp_path / "policy.jws"
    assert str(missing.value) == (
        f"{wanted} does not exist: install the policy that the site signed (postern site policy)"
    )


def test_home_assistant_is_told_of_the_unit_where_it_is_wanted(tmp_path: Path) -> None:
    topics = Topics("hq", "door-7")
    broker = {"host": "broker.example", "health_interval_s": 77}
    events = {**example()["events"], "presence": True}
    wanted = configured_in(tmp_path, broker={**broker, "home_assistant": True}, events=events)
    assert make_unit_discovery(configured_in(tmp_path, broker={**broker, "home_assistant": False}), topics) is None
    assert make_unit_discovery(wanted, topics) == make_discovery(
        topics, name=wanted.unit.name, model=board(), version=agent.__version__, presence=True, health_interval_s=77
    )


def test_what_a_unit_has_no_use_for_it_does_not_make(tmp_path: Path) -> None:
    config = configured_in(tmp_path)
    assert make_cards(config, bytes) is None
    assert not (tmp_path / "card.key").exists()
    assert make_token_check(config, "model", cast("Any", None), SimulatedClock()) is None
    assert make_seal(config) is None
    path = tmp_path / "consumer.jwk"
    sealed = configured_in(tmp_path, events={**example()["events"], "subject": "sealed", "consumer_key": str(path)})
    for text in ("nothing", "{}", json.dumps({"kty": "OKP", "crv": "X25519", "x": "a"})):
        path.write_text(text)
        with pytest.raises(KeyStoreError) as refused:
            make_seal(sealed)
        assert str(refused.value) == f"{path} is no public key: export it again at the consumer"
