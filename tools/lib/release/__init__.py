# SPDX-License-Identifier: Apache-2.0
"""Releases: the changelog and its version, archive, packages and a bill of materials that can be built again."""
