# SPDX-License-Identifier: Apache-2.0
"""Run as ``python -m tools.lib.vectors``."""

import sys

from tools.lib.vectors.program import main

sys.exit(main())
