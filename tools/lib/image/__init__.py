# SPDX-License-Identifier: Apache-2.0
"""The image of ``tools/image``: it is booted under QEMU, joins a site of this machine, and announces a match."""
