# SPDX-License-Identifier: Apache-2.0
"""See ``camdefs``."""

from __future__ import annotations


class PICAM2DNG:
    """Named by picamera2, never made."""
