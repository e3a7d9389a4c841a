# SPDX-License-Identifier: Apache-2.0
"""Scenes: what a script says, drawn as a camera would see it."""
