# SPDX-License-Identifier: Apache-2.0
"""``python -m agent`` is ``postern``."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the first moments shows no traceback of the imports
    from agent.cli import main

    sys.exit(main())
