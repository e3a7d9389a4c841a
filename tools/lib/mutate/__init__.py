# SPDX-License-Identifier: Apache-2.0
"""How much of what can go wrong in a line the tests notice."""
