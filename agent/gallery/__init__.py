# SPDX-License-Identifier: Apache-2.0
"""References: consent records, enrolment, protected templates, erasure."""
