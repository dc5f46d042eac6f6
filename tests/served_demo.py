"""A demo behind a door in this process, on a port of its own: quicker to start than one in a process, and in reach."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from bitlens.runtime.engines import open_engine
from bitlens.runtime.live import open_source
from bitlens.runtime.live.door import Door
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.server import PageServer, listening_socket
from bitlens.runtime.live.session import Session
from bitlens.runtime.network import open_network


class Served:
    """A demo of a network with the reference engine, running and served.

    Parameters
    ----------
    network, snapshots : Path
    token : str
        Empty for a door that is open.
    source : str
    engine : str
    port : int
        0 for any.
    """

    def __init__(
        self,
        network: Path,
        snapshots: Path,
        token: str = "",
        source: str = "synthetic",
        engine: str = "reference",
        port: int = 0,
    ) -> None:
        opened = open_network(network)
        session = Session(opened, open_engine(opened, engine), "gradient", None, None)
        self.demo = LiveDemo(session, source, lambda: open_source(source), certificate=None, snapshots=snapshots)
        bound = listening_socket("127.0.0.1", port)
        self.port = bound.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.server = PageServer(self.demo, Door(self.port, token, frozenset({"localhost"})), bound)
        self.demo.start()
        self.server.start()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path: str, content: object, **headers: str) -> tuple[int, Any, bytes]:
        """Send what the page would."""
        own = {"Origin": self.address[:-1], "Content_Type": "application/json"} | headers
        return self.ask("POST", path, json.dumps(content).encode(), **own)

    def choose(self, wishes: object, **headers: str) -> tuple[int, Any, bytes]:
        return self.post("/settings", wishes, **headers)

    def stop(self) -> None:
        self.demo.say_over()
        self.server.stop()
        self.demo.stop()
