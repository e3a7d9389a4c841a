# SPDX-License-Identifier: Apache-2.0
"""Releases: the changelog and its version, a source archive and Debian packages that anybody can build again, a SBOM."""
