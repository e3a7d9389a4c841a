# SPDX-License-Identifier: Apache-2.0
"""Write the test vectors of tests/vectors, or check that they are current: ``tools/vectors``."""

import sys

from tools.lib.vectors.program import main

if __name__ == "__main__":
    sys.exit(main())
