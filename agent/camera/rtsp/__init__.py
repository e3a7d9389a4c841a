# SPDX-License-Identifier: Apache-2.0
"""A network camera over RTSP: the unit's own conversation, and coded pictures out of what comes.

FFmpeg's client follows redirections, sends a password however it is asked, and lets the server choose demuxer and
decoder. It has no part in this: it is given coded pictures of one codec that was settled before, and decodes them.
No library fits: aiortsp 1.4 (2024, LGPL) sends Basic, answers Digest without ``qop`` and reads without bounds, and the
Digest clients of requests, httpx and aiohttp are bound to HTTP's requests.
"""
