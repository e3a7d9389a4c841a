# SPDX-License-Identifier: Apache-2.0
"""Write a scene as an H.264 clip, for benches and for trying the file camera.

tools/scene-to-video tools/scenes/demo.yaml demo.mp4
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import av

from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import load_script
from agent.errors import PosternError


def main() -> int:
    """Exit status 0, or the error's own with one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="tools/scene-to-video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", type=Path)
    parser.add_argument("out", type=Path, help="the file; its ending decides the container (.mp4, .mkv)")
    parser.add_argument("--crf", type=int, default=23, help="x264 quality, 0 best to 51")
    args = parser.parse_args()
    try:
        script = load_script(args.script)
        renderer = SceneRenderer(script)
    except PosternError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    width, height = script.size
    if width % 2 or height % 2:
        print(f"{args.script}: size: H.264 needs even sides", file=sys.stderr)
        return 2
    with av.open(str(args.out), "w") as container:
        rate = Fraction(script.frames_per_second).limit_denominator(1001)
        # A key frame each second and no pictures out of order, as network cameras send them.
        options = {"crf": str(args.crf), "preset": "veryfast", "g": str(round(script.frames_per_second)), "bf": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # so that a build machine stays usable
        for number in range(script.frame_count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(renderer.frame(number), format="rgb24")))
        container.mux(stream.encode())
    print(f"{args.out}: {script.frame_count} frames, {width}x{height}, {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
