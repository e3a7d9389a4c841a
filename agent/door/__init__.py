# SPDX-License-Identifier: Apache-2.0
"""What a person meets at a door: acts, feedback, rules and what they open."""
