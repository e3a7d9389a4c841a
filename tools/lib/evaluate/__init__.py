# SPDX-License-Identifier: Apache-2.0
"""Measuring models on pictures: metrics, peers, and the commands of ``tools/evaluate``."""
