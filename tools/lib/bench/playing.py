# SPDX-License-Identifier: Apache-2.0
"""A recording played in real time and looked at by nobody: what of an empty door's share is the file's, no camera's.

python -m tools.lib.bench.playing CLIP SECONDS prints the share of a core in percent
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import FileCamera

LORES = (320, 240)  # of which none is made


def share(clip: Path, seconds: float) -> float:
    """Percent of a core for ``seconds`` after the first frame; what opened the file is no frame's share."""
    began_s = began_cpu_s = 0.0
    with open_camera(FileCamera(path=clip, realtime=True, loop=True), lores_size=LORES, clock=SystemClock()) as camera:
        for frame in camera.frames():
            frame.close()
            now_s, cpu_s = time.monotonic(), time.process_time()
            if not began_s:
                began_s, began_cpu_s = now_s, cpu_s
            elif now_s - began_s >= seconds:
                break
    return 100 * (cpu_s - began_cpu_s) / (now_s - began_s)


if __name__ == "__main__":
    print(share(Path(sys.argv[1]), float(sys.argv[2])))
