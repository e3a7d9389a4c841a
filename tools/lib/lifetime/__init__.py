# SPDX-License-Identifier: Apache-2.0
"""Many units of one site: how long they live by themselves, and how fast they join."""
