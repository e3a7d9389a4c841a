# SPDX-License-Identifier: Apache-2.0
"""The epoch keys of a unit, if they are of the site that the configuration names."""

from __future__ import annotations

from agent.config.schema import Config
from agent.errors import KeyStoreError
from agent.outbox.epoch_keys import EpochKeys
from agent.unit.key_files import UnitFiles


def load_epoch_keys(config: Config) -> EpochKeys:
    """The epoch keys of this unit; KeyStoreError also when they are of another site than the configuration's."""
    path = UnitFiles(config.keys.folder).epoch_keys
    keys = EpochKeys.load(path)
    for site in keys.sites() - {config.unit.site}:
        raise KeyStoreError(
            f"{path} is of site '{site}', this is '{config.unit.site}': correct unit.site, or join that site (postern"
            " unit request)"
        )
    return keys
