# SPDX-License-Identifier: Apache-2.0
"""The rig: scenarios with faults against a unit, in this process, as a service, or far away; soak and kill tests."""
