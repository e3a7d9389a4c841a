# SPDX-License-Identifier: Apache-2.0
"""A scenario's scene or video as a file for the camera of a unit somewhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import yaml

from agent.errors import ConfigError
from tools.lib.rig.remote import why_not
from tools.lib.rig.scenario import Scenario


def export(files: Sequence[Path], scenarios: Sequence[Scenario], folder: Path) -> Iterator[str]:
    """Write each into ``folder``; lines that say what to do with it. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, scenario in zip(files, scenarios, strict=True):
            if (reason := why_not(scenario)) is not None:
                yield f"{file.stem}: {reason}"
                continue
            people = ", ".join(one.who for one in scenario.enrolled) or "nobody"
            camera = _write(file.stem, scenario, folder)
            yield f"{file.stem}: enrol {people}, then start the unit with\n    camera: {camera}"
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there: {error.strerror}") from error


def _write(name: str, scenario: Scenario, folder: Path) -> str:
    """Write the file; what the unit's configuration says under ``camera``."""
    if scenario.video is not None:
        video = folder / f"{name}{scenario.video.suffix}"
        shutil.copyfile(scenario.video, video)
        return f"{{source: file, path: {video}, realtime: true}}"
    scene = folder / f"{name}.yaml"
    scene.write_text(yaml.safe_dump(msgspec.to_builtins(scenario.view()), sort_keys=False))
    return f"{{source: scene, script: {scene}}}"
