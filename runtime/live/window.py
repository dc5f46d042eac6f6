"""A native window instead of a page, with OpenCV: for a board with a screen and no browser."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bitlens.runtime.errors import BitlensError, how_to_install
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.opencv import opencv
from bitlens.runtime.live.session import PREDICTED
from bitlens.runtime.live.shown_frame import seen_part
from bitlens.runtime.methods import METHODS
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.network import shown
from bitlens.runtime.pictures import Picture, overlay
from bitlens.runtime.top_classes import top_classes

TITLE = "bitlens"
SIDE = 480  # pixels of the picture's shorter side
LINE = 26  # pixels
KEYS = "m method   t class   space freeze   + - opacity   s snapshot   v verify   q end"
EXTRA = "window"
_WAIT_MS = 30
_STEP = 0.1


def window_library() -> Any:
    """Import OpenCV with windows.

    Raises
    ------
    BitlensError
        If it is missing, or was built without; the message names the extra.
    """
    cv2 = opencv("--window", EXTRA)
    interfaces = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    if not interfaces or interfaces[0].split()[-1] == "NONE":
        raise BitlensError(
            "this OpenCV was built without windows: `pip uninstall opencv-python-headless`, then "
            f"{how_to_install(EXTRA)}, or leave --window out"
        )
    return cv2


def window_picture(cv2: Any, seen: ExplainedFrame, demo: LiveDemo, opacity: float) -> Picture:
    """Compose what the window shows: the frame with its map, and lines below."""
    height, width = seen.image.shape[1:]
    scale = SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    base = cv2.resize(np.ascontiguousarray(seen_part(seen.frame.pixels, height, width)), size)
    title, explanation = seen.refusal, seen.explanation
    if explanation is not None:
        heat = cv2.resize(heat_picture(explanation.method, explanation.values), size, interpolation=cv2.INTER_NEAREST)
        base = overlay(base, heat, opacity)
        title = f"{explanation.method.title} for {demo.session.network.label(seen.target)}"
    best = [f"{each['label']} {each['softmax']:.0%}" for each in top_classes(seen.logits, demo.session.network)[:3]]
    now = time.monotonic()
    lines = [
        "   ".join(best),
        title,
        f"forward {seen.forward_latency_ms:.1f} ms   map {seen.map_latency_ms:.1f} ms   "
        f"{demo.explainer.rate.per_second(now):.1f} of {demo.capture.rate.per_second(now):.1f} frames a second",
        parity_line(demo, seen.engine.name),
        demo.bulletin.news.source.message or KEYS,
    ]
    below = np.full((LINE * len(lines) + LINE // 2, base.shape[1], 3), 24, np.uint8)
    for number, line in enumerate(lines):
        place = (10, LINE * (number + 1) - 6)
        cv2.putText(below, ascii(line)[1:-1], place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([base, below])


def parity_line(demo: LiveDemo, engine: str) -> str:
    """Say whether an engine was verified here, or how far that is."""
    verification = demo.bulletin.news.verification
    if verification is not None and verification.is_running:
        return f"verifying {verification.engine}, {verification.share:.0%}"
    return demo.badge(engine).text


def run_window(cv2: Any, demo: LiveDemo, ending: threading.Event) -> None:
    """Show the demo until the window is closed, q is pressed or it is to end; call it from the main thread.

    Raises
    ------
    BitlensError
        If no window can be opened.
    """
    opacity = 0.5
    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE)
    except cv2.error as error:
        raise BitlensError("no window can be opened: start it on the board's own screen, or leave --window out") from (
            error
        )
    try:
        while not ending.is_set():
            seen = demo.bulletin.news.explained
            if seen is not None:
                picture = window_picture(cv2, seen, demo, opacity)
                cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(_WAIT_MS) & 0xFF
            if key in (ord("q"), 27) or (seen is not None and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1):
                return
            opacity = min(1.0, max(0.0, opacity + _STEP * ((key == ord("+")) - (key == ord("-")))))
            try:
                if key == ord("s"):
                    print(f"saved {shown(demo.save())}", flush=True)
                elif key == ord("v"):
                    demo.verify()
                else:
                    demo.choose(wishes_of_key(key, demo))
            except BitlensError as error:
                print(f"bitlens: {error}", flush=True)
    finally:
        cv2.destroyAllWindows()


def wishes_of_key(key: int, demo: LiveDemo) -> dict[str, object]:
    """Say what a key changes; empty for one that changes nothing."""
    settings = demo.session.settings
    if key == ord("m"):
        names = list(METHODS)
        return {"method": names[(names.index(settings.method) + 1) % len(names)]}
    if key == ord("t"):
        following = 0 if settings.target is None else settings.target + 1
        return {"target": following if following < len(demo.session.labels) else PREDICTED}
    if key == ord(" "):
        return {"frozen": not settings.is_frozen}
    return {}
