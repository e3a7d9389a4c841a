# SPDX-License-Identifier: Apache-2.0
"""The site kit: certificate authority, unit provisioning, epoch keys."""
