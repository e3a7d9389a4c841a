# SPDX-License-Identifier: Apache-2.0
"""Decisions: comparison, threshold policy, votes, presence."""
