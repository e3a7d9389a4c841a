# SPDX-License-Identifier: Apache-2.0
"""An RTSP camera on loopback; runs under the distribution's Python: rtsp_server.py PORT [USER PASSWORD [basic]].

Serves /live in H.264, /h265 and /jpeg, which then need USER and PASSWORD if given. Prints ``ready`` once it listens,
exits 3 where an element is missing.
"""

import sys

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
except (ImportError, ValueError):
    sys.exit(3)

PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=180,framerate=25/1"
PATHS = {
    "/live": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 bitrate=500 threads=1 ! "
    "rtph264pay name=pay0 pt=96 config-interval=1",
    "/h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=5 bitrate=500 ! "
    "rtph265pay name=pay0 pt=96 config-interval=1",
    "/jpeg": "jpegenc quality=80 ! rtpjpegpay name=pay0 pt=26",
}


def main(port: str, user: str = "", password: str = "", basic: str = "") -> None:
    Gst.init(None)
    if any(Gst.ElementFactory.find(name) is None for name in ("videotestsrc", "x264enc", "rtph264pay")):
        sys.exit(3)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    if user:
        allowed = Gst.Structure.new_empty("user")
        allowed.set_value("media.factory.access", True)
        allowed.set_value("media.factory.construct", True)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC if basic else GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        auth.add_digest(user, password, token)
        server.set_auth(auth)
    for path, coded in PATHS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {PICTURES} ! {coded} )")
        factory.set_shared(True)
        if user:
            factory.add_role_from_structure(allowed)
        server.get_mount_points().add_factory(path, factory)
    if server.attach(None) == 0:
        sys.exit(4)
    print("ready", flush=True)
    GLib.MainLoop().run()


main(*sys.argv[1:])
