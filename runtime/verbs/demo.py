"""`bitlens demo`: live saliency of a camera or another source, on one web page or in a window."""

from __future__ import annotations

import argparse
import os
import threading
import webbrowser
from pathlib import Path

from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.default_source import default_source
from bitlens.runtime.live.door import addresses, door_for
from bitlens.runtime.live.ending import ending_signals
from bitlens.runtime.live.frame_source import open_source, source_forms, source_kind
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.parity_badge import certificate_beside, named_certificate
from bitlens.runtime.live.service_manager import tell_ready
from bitlens.runtime.live.session import PREDICTED, Session
from bitlens.runtime.live.window import run_window, window_library
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network
from bitlens.runtime.verbs.options import add_engine, add_optional_network, chosen_target, note, opened_engine

HELP = "show a camera's picture live, with what a network says of it and why, on a web page"
NEEDS = ()

LOOPBACK = "127.0.0.1"
PORT = 8765
WITH_MAPS, WITHOUT_MAPS = "layer_cam", "gradient"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens demo`."""
    add_optional_network(parser)
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help=f"{source_forms()} (default: the first camera that opens, else synthetic)",
    )
    parser.add_argument(
        "--method",
        help=f"{', '.join(METHODS)} (default: {WITH_MAPS}, or {WITHOUT_MAPS} for a network without feature maps)",
    )
    parser.add_argument(
        "--target", default=PREDICTED, help="'predicted', a class number or a label (default: %(default)s)"
    )
    parser.add_argument("--layer", help="for grad_cam and its kin: a feature map by its name (default: the last)")
    add_engine(parser)
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE.json",
        help="what `bitlens verify` wrote for this network (default: one beside it; the page can verify, too)",
    )
    parser.add_argument(
        "--snapshots",
        type=Path,
        default=Path("snapshots"),
        metavar="FOLDER",
        help="where the page's button saves to (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default=LOOPBACK,
        help="address to listen on; any but this machine's own demands a token, 0.0.0.0 is all (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=PORT, help="0 for any that is free (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser where there is a display")
    parser.add_argument("--window", action="store_true", help="a window in place of the page (bitlens[window])")


def opened_demo(arguments: argparse.Namespace) -> LiveDemo:
    """Put together what the arguments ask for; nothing runs yet.

    Raises
    ------
    BitlensError
        If something does not exist or does not open.
    """
    network, engine = opened_engine(arguments)
    session = _session(network, engine, arguments)
    certificate = certificate_beside(network)
    if arguments.certificate is not None:
        certificate = named_certificate(arguments.certificate, network)
    source = arguments.source
    if source is None:
        source, why = default_source()
        note(f"--source {source}, because {why}" if source == "synthetic" else f"--source {source}: {why}")
    else:
        open_source(source).close()  # what is misspelt or missing is said now; what is lost later is tried again
    return LiveDemo(
        session, source_kind(source).name, lambda: open_source(source), certificate=certificate,
        snapshots=arguments.snapshots,
    )  # fmt: skip


def _session(network: Network, engine: Engine, arguments: argparse.Namespace) -> Session:
    name = arguments.method or (WITH_MAPS if engine.feature_names else WITHOUT_MAPS)
    target = None
    if arguments.target != PREDICTED:
        target = chosen_target(arguments.target, network, 0, engine.classes)
    return Session(network, engine, name, target, arguments.layer)


def has_display() -> bool:
    """Whether there is a screen on which a browser could open."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def run(arguments: argparse.Namespace) -> int:
    """Show it until it is interrupted."""
    if arguments.window:
        cv2 = window_library()
        demo = opened_demo(arguments)
        with ending_signals() as ending:
            demo.start()
            try:
                run_window(cv2, demo, ending)
            finally:
                demo.stop()
        return 0
    return served(arguments)


def served(arguments: argparse.Namespace) -> int:
    """Show it on a page until it is interrupted."""
    # Here alone: asyncio takes memory and time, which no other verb should pay for.
    from bitlens.runtime.live.server import PageServer, check_web, listening_socket

    check_web()
    demo = opened_demo(arguments)
    bound = listening_socket(arguments.host, arguments.port)
    door = door_for(arguments.host, bound)
    server = PageServer(demo, door, bound)
    with ending_signals() as ending:
        demo.start()
        server.start()
        try:
            announce(arguments, demo, addresses(arguments.host, door), needs_token=bool(door.token))
            tell_ready()
            while not ending.wait(0.5):
                if not server.is_alive:
                    raise BitlensError("the page's server has ended by itself: start it again")
        finally:
            demo.say_over()
            server.stop()
            demo.stop()
    print("ended", flush=True)
    return 0


def announce(arguments: argparse.Namespace, demo: LiveDemo, places: list[str], *, needs_token: bool) -> None:
    """Print where the page is, and open a browser there where there is a display."""
    engine = demo.session.settings.engine
    badge = demo.badge(engine)
    is_open = badge.kind in ("none", "elsewhere") and not demo.why_not_verifiable(engine)
    hint = ": press v on the page to verify it" if is_open else ""
    print(f"{demo.session.network.source.name} on {engine}, {badge.text}{hint}")
    for place in places:
        print(f"  {place}")
    print("Whoever knows this address sees the camera." if needs_token else "Only this machine can open it.")
    print("Ctrl-C ends it.", flush=True)
    if has_display() and not arguments.no_browser:
        threading.Thread(target=webbrowser.open, args=(places[0],), name="browser", daemon=True).start()
