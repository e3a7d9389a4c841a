# SPDX-License-Identifier: Apache-2.0
"""Pictures for the virtual camera to show: a demo person before the door, who does not exist, as JPEG files 0 to 4.

python -m tools.lib.arm64.shown FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from agent.camera.scene.render import SceneRenderer
from tools.lib.arm64.installed import PERSON
from tools.lib.enrolment_scene import enrolment_script

PICTURES = 5  # the virtual camera shows them in turns; the person looks straight ahead in all of them
QUALITY = 95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    renderer = SceneRenderer(enrolment_script(PERSON))
    for number in range(PICTURES):
        Image.fromarray(renderer.frame(number)).save(folder / f"{number}.jpg", quality=QUALITY, subsampling=0)


if __name__ == "__main__":
    main()
