# SPDX-License-Identifier: Apache-2.0
"""Models: manifest, integrity, and the int8 engine."""
