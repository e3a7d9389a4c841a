# SPDX-License-Identifier: Apache-2.0
"""``postern run`` in a world that a rig controls: a clock that can be set, a camera that can be unplugged.

``python -m tools.lib.rig.unit run -c FILE`` with POSTERN_RIG_CONTROL naming a folder: ``clock.json`` says by how much
the wall clock is off and whether somebody vouches for it, a file ``unplugged`` means what it says, and ``began`` keeps
when the scene started, so that a new process sees the scene as it is by then; ``board`` is the socket of the lines.
Whoever obeys in the scene turns as the unit's door asks.
Everything else is the product.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from agent.camera.scene.script import load_script
from agent.config.camera import SceneCamera
from agent.config.load import load_file
from agent.errors import PosternError
from agent.unit.notify import Notifier
from agent.unit.running import run_unit
from agent.unit.world import World
from tools.lib.rig.board import BoardOfAUnit
from tools.lib.rig.camera import SceneView, source_of
from tools.lib.rig.clock import OffsetClock

CONTROL = "POSTERN_RIG_CONTROL"
CLOCK, UNPLUGGED, BEGAN, BOARD = "clock.json", "unplugged", "began", "board"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("run",))
    parser.add_argument("-c", "--config", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    control = Path(os.environ[CONTROL])
    clock = OffsetClock(control / CLOCK)
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"), 0, clock)
    try:
        config = load_file(arguments.config)
        if not isinstance(config.camera, SceneCamera):
            print("tools.lib.rig.unit plays scenes only", file=sys.stderr)
            return 2
        began = control / BEGAN
        view = SceneView(
            load_script(config.camera.script),
            clock,
            plugged=lambda: not (control / UNPLUGGED).exists(),
            began_ns=int(began.read_text()) if began.exists() else None,
        )

        def on_frame() -> None:
            if not began.exists():  # the scene begins with the first frame, not with the loading of models
                began.write_text(str(view.began_ns()))
            notifier.alive()

        board = BoardOfAUnit(control / BOARD)
        world = World(clock=clock, open_source=source_of(view, threaded=True), lines=board, prompt=view.obedient.prompt)
        return run_unit(config, world=world, on_frame=on_frame, reread=lambda: load_file(arguments.config))
    except PosternError as error:
        print("\n".join(f"postern: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
