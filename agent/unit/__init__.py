# SPDX-License-Identifier: Apache-2.0
"""One unit put together: assembly, service, and what happens beside the pipeline."""
