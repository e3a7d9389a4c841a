# SPDX-License-Identifier: Apache-2.0
"""Frames in: every source behind one interface."""
