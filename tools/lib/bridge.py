# SPDX-License-Identifier: Apache-2.0
"""``tools/bridge``: the command of an installed bridge, from the checkout."""

from __future__ import annotations

import sys

from agent.cli import main

if __name__ == "__main__":
    sys.exit(main(["bridge", *sys.argv[1:]]))
