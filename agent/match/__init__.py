# SPDX-License-Identifier: Apache-2.0
"""Decisions: probe of a visit, comparison, threshold policy, presence."""
