# SPDX-License-Identifier: Apache-2.0
"""``python -m agent`` is ``postern``."""

from __future__ import annotations

import sys

from agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
