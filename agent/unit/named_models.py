# SPDX-License-Identifier: Apache-2.0
"""Whether the models that a configuration names are there, without loading one: a mistake in it has a line."""

from __future__ import annotations

from pathlib import Path

from agent.config.schema import Config, Models
from agent.errors import ConfigError, ModelError
from agent.inference.manifest import load_manifest
from agent.parse.strict_yaml import read_document


def check_named_models(config: Config, file: Path) -> bool:
    """Compare ``models`` of the configuration read from ``file`` with their manifest and the files beside it.

    False where the manifest is that of the package and nothing is installed: this is another machine than the unit.
    Raises ConfigError with line and key.
    """
    lines, models = read_document(file), config.models
    if models.manifest == Models().manifest and not models.manifest.exists():
        return False

    def refused(key: str, error: ModelError) -> ConfigError:
        return ConfigError(f"{file}:{lines.line(('models', key))}: models.{key}: {error}")

    try:
        manifest = load_manifest(models.manifest)
    except ModelError as error:
        raise refused("manifest", error) from error
    named = [("detector", models.detector), ("embedder", models.embedder)]
    named += [("pad", models.pad)] if "passive" in config.liveness_parts else []
    for key, name in named:
        try:
            entry = manifest.entry(name)
            manifest.read(entry)
        except ModelError as error:
            raise refused(key, error) from error
        if entry.task != key:
            raise refused(key, ModelError(f"{name} is a model for '{entry.task}': name one for '{key}'"))
    return True
