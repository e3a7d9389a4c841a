# SPDX-License-Identifier: Apache-2.0
"""What tools/arm64 and tools/camera-stack run inside of the emulated arm64 system, and compare with outside."""

from __future__ import annotations

from pathlib import Path

MANIFEST = Path(__file__).resolve().parents[3] / "models" / "manifest.yaml"

# libcamera 0.7.1's virtual camera ends its process (SIGSEGV in its own thread) once somebody holds a picture behind a
# queue, with gst-launch-1.0 alone too: "libcamerasrc ! video/x-raw,format=NV12 ! queue ! fakesink sync=true". So each
# picture is copied before it goes on.
LIBCAMERA_PIPELINE = (
    "libcamerasrc ! video/x-raw,format=NV12,width=1280,height=720"
    " ! videoconvert ! video/x-raw,format=I420 ! videoconvert"
)
