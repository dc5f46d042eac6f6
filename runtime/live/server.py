"""The page's server: Starlette on uvicorn. It trusts nothing that comes in, and sends nothing from anywhere else.

News go out by long polling: the page asks for what is newer than what it has, and the answer waits until there is some.
A page that is slow asks less often, so nothing queues up for it, and one that lost the server asks again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.live.door import Door
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.page_facts import about, news_bytes
from bitlens.runtime.live.shown_frame import ShownFrame
from bitlens.runtime.network import shown
from bitlens.runtime.picture_file import check_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PUBLIC = frozenset(("/page.css", "/icon.svg"))  # the page that asks for a token needs them

WAIT_SECONDS = 10.0
LOOK_SECONDS = 0.02
MOST_WAITING = 16
"""Requests that may wait for news at a time: two for each of eight viewers."""
MOST_CONNECTIONS = 64
SILENT_SECONDS = 10
"""A connection on which no request comes for so long, or twice as long, is closed: others wait for its place."""
MOST_BODY_BYTES = 4096
SNAPSHOT_SECONDS = 0.5
"""Between two snapshots, so that no page fills the disk in a moment."""
PICTURE_SIDE, CAMERA_SIDE = 512, 320

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_DOORSTEP = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>bitlens</title><link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/page.css"></head>
<body class="doorstep"><main><h1>bitlens</h1>
<p>This page shows a camera, so it asks for the token that <code>bitlens demo</code> printed when it was started.</p>
<form method="get" action="/"><label for="token">Token</label>
<input id="token" name="token" autocomplete="off" autocapitalize="off" spellcheck="false" required autofocus>
<button>Open</button></form>WRONG</main></body></html>
"""
_WRONG = '<p role="alert">That token is of another start of the program, or mistyped.</p>'


def check_web() -> None:
    """Refuse to begin where the server's packages are missing.

    Raises
    ------
    MissingExtraError
        If one is not installed; the message names the extra.
    """
    for module in ("starlette", "uvicorn"):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError("the page", module, "web") from error
    check_decoder()


def _whole(text: str | None, otherwise: int = 0) -> int:
    """Read a count from a query; `otherwise` for anything else."""
    return int(text) if text is not None and len(text) <= 15 and text.isascii() and text.isdecimal() else otherwise


class CrowdedError(Exception):
    """More requests wait than are served."""


class WaitingRoom:
    """Counts the requests that wait."""

    def __init__(self, most: int) -> None:
        self._most, self.waiting = most, 0

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Take a place, and give it back.

        Raises
        ------
        CrowdedError
            If there is none.
        """
        if self.waiting >= self._most:
            raise CrowdedError
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


def application(demo: LiveDemo, door: Door) -> ASGIApp:
    """Make the web application of a demo behind a door."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
    from starlette.routing import Route

    run = secrets.token_hex(8)
    shape = demo.session.network.program.image_type.shape
    picture, camera = ShownFrame(PICTURE_SIDE, (shape[1], shape[2])), ShownFrame(CAMERA_SIDE)
    room = WaitingRoom(MOST_WAITING)
    snapshot_times = [0.0]

    async def until(request: Request, holds: Callable[[], bool]) -> None:
        """Wait until something holds, time is over, or the visitor has gone."""
        end = time.monotonic() + WAIT_SECONDS
        with room.seat():
            while not holds() and not demo.bulletin.news.is_over and time.monotonic() < end:
                await asyncio.sleep(LOOK_SECONDS)
                if await request.is_disconnected():
                    return

    async def file(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return Response((PAGE / name).read_bytes(), media_type=kind)

    async def facts(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(about, demo, run))

    async def news(request: Request) -> Response:
        known = request.query_params
        version, seen = _whole(known.get("version"), -1), _whole(known.get("seen"))
        if known.get("run") != run:  # of another run: its numbers mean nothing here
            version, seen = -1, 0
        await until(request, lambda: demo.bulletin.news.version > version)
        content = await run_in_threadpool(news_bytes, demo, demo.bulletin.news, run, seen, picture)
        return Response(content, media_type="application/octet-stream")

    async def camera_frame(request: Request) -> Response:
        number = _whole(request.query_params.get("frame")) if request.query_params.get("run") == run else 0

        def is_newer() -> bool:
            frame = demo.newest.frame
            return frame is not None and frame.number > number

        await until(request, is_newer)
        frame = demo.newest.frame
        if frame is None or frame.number <= number:
            return Response(status_code=204)
        content = await run_in_threadpool(camera.jpeg, frame)
        return Response(content, media_type="image/jpeg", headers={"X-Frame": str(frame.number)})

    async def settings(request: Request) -> Response:
        wishes = await _wishes(request)
        await run_in_threadpool(demo.choose, wishes)
        return JSONResponse({"error": "", "version": demo.bulletin.news.version})

    async def snapshot(request: Request) -> Response:
        now = time.monotonic()
        if now - snapshot_times[0] < SNAPSHOT_SECONDS:
            return JSONResponse({"error": "one snapshot at a time: try again in a second"}, 429)
        snapshot_times[0] = now
        folder = await run_in_threadpool(demo.save)
        return JSONResponse({"error": "", "folder": shown(folder)})

    async def verify(request: Request) -> Response:
        await _wishes(request)  # of the engine that is chosen: there is nothing else to say
        await run_in_threadpool(demo.verify)
        return JSONResponse({"error": ""})

    async def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": " ".join(str(error).split())}, 400)

    async def crowded(request: Request, error: Exception) -> Response:
        return PlainTextResponse("too many viewers: close one", 503, {"Retry-After": "3"})

    inner = Starlette(
        routes=[
            *(Route(path, file) for path in FILES),
            Route("/about", facts),
            Route("/news", news),
            Route("/camera", camera_frame),
            Route("/settings", settings, methods=["POST"]),
            Route("/snapshot", snapshot, methods=["POST"]),
            Route("/verify", verify, methods=["POST"]),
        ],
        exception_handlers={BitlensError: refused, CrowdedError: crowded},
    )

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # the server is told to take nothing else

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *own]}
            await send(message)

        given = scope["headers"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in given}
        answer: Response | None = None
        if sum(name == b"host" for name, _ in given) != 1:
            answer = PlainTextResponse("expected one Host header", 400)
        else:
            verdict = door.verdict(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers)
            if verdict == "foreign":
                answer = PlainTextResponse("this page is not served to others: open the address bitlens printed", 403)
            elif verdict == "take token":
                answer = RedirectResponse("/", 303)  # so that the token leaves the address bar
                answer.set_cookie(door.cookie, door.token, httponly=True, samesite="lax")
            elif verdict == "no token" and scope["path"] not in PUBLIC:
                is_wrong = scope["path"] == "/" and b"token=" in scope["query_string"]
                page = _DOORSTEP.replace("WRONG", _WRONG if is_wrong else "")
                answer = Response(page, 401, media_type="text/html")
        await (answer or inner)(scope, receive, sent)

    return guarded


async def _wishes(request: Request) -> dict[str, object]:
    """Read settings from a body of bounded size."""
    if request.headers.get("content-type") != "application/json":
        raise BitlensError("expected settings as application/json")
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BODY_BYTES:
            raise BitlensError(f"expected settings in at most {MOST_BODY_BYTES} bytes")
    try:
        wishes = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BitlensError("expected settings as a JSON object") from error
    if not isinstance(wishes, dict):
        raise BitlensError("expected settings as a JSON object")
    return wishes


def listening_socket(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises
    ------
    BitlensError
        If it is none of this machine's, or in use.
    """
    if not 0 <= port < 2**16:
        raise BitlensError(f"--port is {port}, expected 0 to {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()  # from now on a browser that is quicker than the server waits
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BitlensError(
            f"cannot listen on {host}, port {port} ({reason}): choose another --port (0 for any), or another --host"
        ) from error
    return bound


class PageServer:
    """Serves a demo from a thread of its own.

    Parameters
    ----------
    demo : LiveDemo
    door : Door
    bound : socket
        See `listening_socket`; it is closed in the end.
    """

    def __init__(self, demo: LiveDemo, door: Door, bound: socket.socket) -> None:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol

        config = uvicorn.Config(
            application(demo, door),
            log_config=None,
            access_log=False,
            log_level="error",
            lifespan="off",
            http="h11",  # the one that uvicorn brings, whatever else is installed
            ws="none",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            timeout_notify=SILENT_SECONDS,
            callback_notify=self._close_silent,
        )
        self._connection, self._silent = H11Protocol, set[Any]()
        self._server = uvicorn.Server(config)
        self._bound = bound
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="page", daemon=True)

    async def _close_silent(self) -> None:
        """Close connections that had no request at the last look either; uvicorn keeps them for ever."""
        connections = [each for each in self._server.server_state.connections if isinstance(each, self._connection)]
        silent = {each for each in connections if each.cycle is None}
        for each in silent & self._silent:
            each.transport.close()
        self._silent = silent

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Answer what is waiting, then close."""
        self._server.should_exit = True
        self._thread.join(5)
        self._bound.close()
