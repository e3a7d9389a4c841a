# SPDX-License-Identifier: Apache-2.0
"""The one configuration file: schema, checks, reading."""
