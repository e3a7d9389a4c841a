# SPDX-License-Identifier: Apache-2.0
"""What tools/arm64 and tools/camera-stack run inside of the emulated arm64 system, and compare with outside."""
