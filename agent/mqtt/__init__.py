# SPDX-License-Identifier: Apache-2.0
"""One connection to a broker: TLS, credentials, and what a refusal means."""
