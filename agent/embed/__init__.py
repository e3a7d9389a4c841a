# SPDX-License-Identifier: Apache-2.0
"""Embeddings: five-point alignment and the int8 embedder."""
