# SPDX-License-Identifier: Apache-2.0
"""A share of something counted, with how sure it is."""

from __future__ import annotations

import math

Z = 1.96  # of a normal distribution: 95 %


def rate(name: str, hits: int, count: int) -> dict[str, float]:
    """A share with its 95 % interval (Wilson 1927), as ``name``, ``name_low`` and ``name_high``."""
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return {
        name: share,
        f"{name}_low": max(0.0, min(share, middle - half)),
        f"{name}_high": min(1.0, max(share, middle + half)),
    }
