# SPDX-License-Identifier: Apache-2.0
"""Foreign text with one reading."""
