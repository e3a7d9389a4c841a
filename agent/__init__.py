# SPDX-License-Identifier: Apache-2.0
"""Postern: a camera unit that recognises only the people who asked it to.

The folders are the data path: ``camera`` yields frames, ``detect`` finds faces and gates who may be
embedded, ``embed`` aligns and embeds, ``gallery`` holds protected references, ``match`` decides,
``outbox`` signs and queues events, ``uplink`` delivers them. ``pipeline`` is the loop, ``unit`` puts one together;
``site`` holds the installer's keys and papers, ``subscribe`` is the other end, ``protocol`` what both ends share.
"""

__version__ = "0.1.0"
