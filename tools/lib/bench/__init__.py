# SPDX-License-Identifier: Apache-2.0
"""What ``tools/bench`` measures: the product and its peers, alternating in one run on one machine."""
