# SPDX-License-Identifier: Apache-2.0
"""The test vectors of ``tests/vectors``: what any verifier, in any language, must say to which bytes.

Nothing here imports the product. What a case expects is written beside it by hand, from ``tests/vectors/README.md``;
so a change of the product cannot change the contract unnoticed.
"""
