# SPDX-License-Identifier: Apache-2.0
"""The hash chain of what was done to people's data and to the unit."""
