# SPDX-License-Identifier: Apache-2.0
"""Postern: a camera unit that recognises only the people who asked it to.

The folders are the data path: ``camera`` yields frames, ``detect`` finds faces and gates who may be
embedded, ``embed`` aligns and embeds, ``gallery`` holds protected references, ``match`` decides,
``outbox`` signs and queues events, ``uplink`` delivers them. ``pipeline`` is the loop.
"""

__version__ = "0.1.0"
