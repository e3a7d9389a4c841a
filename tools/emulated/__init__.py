# SPDX-License-Identifier: Apache-2.0
"""What tools/arm64 and tools/camera-stack run inside of the emulated arm64 system, and compare with outside."""

from __future__ import annotations

from pathlib import Path

MANIFEST = Path(__file__).resolve().parents[2] / "models" / "manifest.yaml"
