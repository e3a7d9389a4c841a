# SPDX-License-Identifier: Apache-2.0
"""Events: pseudonyms, signatures, the durable queue, and the verifier."""
