# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` plays: a site, a unit and a subscriber, with real keys, a real broker and a simulated view."""
