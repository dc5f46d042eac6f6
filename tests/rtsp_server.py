"""A network camera that speaks RTSP: GStreamer's own server, with a film that a test wrote, for one user.

`/usr/bin/python3 rtsp_server.py PORT FILM USER PASSWORD` prints the port and serves rtsp://127.0.0.1:PORT/live. The
system's Python has the bindings (Debian: `gir1.2-gst-rtsp-server-1.0 python3-gi`), so nothing of bitlens is here.
"""

from __future__ import annotations

import sys
from typing import Any


def serve(port: str, film: str, user: str, password: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server: Any = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    camera = GstRtspServer.RTSPMediaFactory.new()
    camera.set_launch(f'( filesrc location="{film}" ! qtdemux ! rtpmp4vpay name=pay0 pt=96 config-interval=1 )')
    if user:
        role = GstRtspServer.RTSPToken()
        role.set_string("media.factory.role", "viewer")
        access = GstRtspServer.RTSPAuth.new()
        access.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), role)
        server.set_auth(access)
        camera.add_role_from_structure(
            Gst.Structure.from_string("viewer, media.factory.access=true, media.factory.construct=true")[0]
        )
    server.get_mount_points().add_factory("/live", camera)
    if not server.attach(None):
        raise SystemExit(f"cannot listen on port {port}")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
