"""A network camera as many are: MJPEG over HTTP. `python mjpeg_server.py PORT` prints the port and serves the scene."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bitlens.runtime.live.shown_frame import jpeg_bytes
from bitlens.runtime.live.synthetic_source import synthetic_frame

RATE = 12


class Camera(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        try:
            while True:
                content = jpeg_bytes(synthetic_frame(6 * number), 320)
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content))
                self.wfile.write(content + b"\r\n")
                number += 1
                time.sleep(1 / RATE)
        except OSError:
            pass  # the viewer has gone

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Camera)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
