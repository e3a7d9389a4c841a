# SPDX-License-Identifier: Apache-2.0
"""Stands in for pykms, which is in Raspberry Pi's archive alone: picamera2 imports it for previews; none is shown."""

from __future__ import annotations

from unittest.mock import sentinel

PixelFormat = sentinel
