# SPDX-License-Identifier: Apache-2.0
"""The web console for whoever installs a unit: a process of its own that shows what the running unit hands it.

It has no camera, no model and no gallery, and cannot load them: pictures come covered, over a local socket, and all
that is done is done by the unit. It listens only while an opening stands (``agent.console.opening``).
"""
