# SPDX-License-Identifier: Apache-2.0
"""Stands in for pidng, which comes as source alone: picamera2 imports it for raw files, which are not written."""

from __future__ import annotations


class Picamera2Camera:
    """Named by picamera2, never made."""
