# SPDX-License-Identifier: Apache-2.0
"""What both ends of the wire share: names, events, commands, topics, and what a site signs."""
