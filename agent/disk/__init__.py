# SPDX-License-Identifier: Apache-2.0
"""What lies on the disk: files and folders that survive a cut, one process at a time, databases."""
