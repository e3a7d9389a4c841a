# SPDX-License-Identifier: Apache-2.0
"""Simulated units by the dozen: real outbox, uplink and certificates, no camera; and what became of their events."""
