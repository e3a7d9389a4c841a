# SPDX-License-Identifier: Apache-2.0
"""Faces: detection, short-lived tracks, and the gate that decides who may be embedded."""
