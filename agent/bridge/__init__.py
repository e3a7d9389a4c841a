# SPDX-License-Identifier: Apache-2.0
"""Verified events for people and programs: one verifying core, many outputs, each with a place of its own."""
