# SPDX-License-Identifier: Apache-2.0
"""What an operator prints: the notice that people read, and the impact assessment; both say what the unit does."""
