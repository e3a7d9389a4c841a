# SPDX-License-Identifier: Apache-2.0
"""The broker: session, topics, health, Home Assistant discovery."""
