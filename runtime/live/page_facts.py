"""What the page is told, as JSON and bytes: once what there is to choose from, then the news as they come."""

from __future__ import annotations

import json
import time

import numpy as np
import numpy.typing as npt

from bitlens import __version__
from bitlens.runtime.explanation import Explanation
from bitlens.runtime.json_form import to_json
from bitlens.runtime.live.bulletin import News
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.session import PREDICTED
from bitlens.runtime.live.shown_frame import ShownFrame
from bitlens.runtime.methods import METHODS, Method
from bitlens.runtime.methods.heat_picture import heat_positions
from bitlens.runtime.network import Network, shown
from bitlens.runtime.pictures import COLOURS, colour_table
from bitlens.runtime.program import Program
from bitlens.runtime.top_classes import top_classes


def about(demo: LiveDemo, run: str) -> dict[str, object]:
    """Tell what does not change while the program runs; `run` names this run of it."""
    session = demo.session
    program = session.network.program
    channels, height, width = program.image_type.shape
    return {
        "run": run,
        "bitlens": __version__,
        "network": {
            "name": shown(session.network.source.name),
            "precision": shown(program.metadata.get("precision", "")),
            "channels": channels,
            "height": height,
            "width": width,
        },
        "labels": session.labels,
        "layers": session.layers,
        "methods": [_method_facts(each, program) for each in METHODS.values()],
        "engines": [{"name": name, "problem": problem} for name, problem in session.engine_problems().items()],
        "colours": {"signed": colour_table(True).tolist(), "unsigned": colour_table(False).tolist()},
        "snapshots": shown(demo.snapshots),
    }


def _method_facts(method: Method, program: Program) -> dict[str, object]:
    passes = method.passes(program)
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "forward": passes.forward,
        "backward": passes.backward,
        "at_most": passes.at_most,
        "meaning": method.meaning_for(program),
        "looks_at_layer": any(option.name == "layer" for option in method.options),
        "signed": method.signed,
    }


def news_bytes(demo: LiveDemo, news: News, run: str, seen: int, picture: ShownFrame) -> bytes:
    """Write the news: length of the JSON (4 bytes, little-endian), the JSON, and the parts whose lengths it lists.

    Parts, where there is an explained frame newer than version `seen`: the picture as JPEG, the map as one index per
    pixel into its colours, and the image as the network sees it, red, green and blue or grey.
    """
    now = time.monotonic()
    facts: dict[str, object] = {
        "run": run,
        "version": news.version,
        "explained_version": news.explained_version,
        "source": to_json(news.source),
        "settings": {
            "method": news.settings.method,
            "target": PREDICTED if news.settings.target is None else news.settings.target,
            "layer": news.settings.layer,
            "engine": news.settings.engine,
            "frozen": news.settings.is_frozen,
        },
        "source_frames_per_second": demo.capture.rate.per_second(now),
        "explained_frames_per_second": demo.explainer.rate.per_second(now),
        "board": {
            "temperature_celsius": news.board.temperature_celsius,
            "slowed_by": None if news.board.throttle_bits is None else news.board.slowed_by,
            "slowed_since_start": news.board.slowed_since_start,
        },
        "badge": to_json(demo.badge(news.settings.engine)),
        "why_not_verifiable": demo.why_not_verifiable(news.settings.engine),
        "verification": None if news.verification is None else to_json(news.verification),
        "progress": None if news.progress is None else to_json(news.progress),
        "problem": news.problem,
        "is_over": news.is_over,
        "explained": None if news.explained is None else _explained_facts(news.explained, demo.session.network),
        "parts": [],
    }
    parts: list[bytes] = []
    if news.explained is not None and news.explained_version > seen:
        parts = [picture.jpeg(news.explained.frame), _map_bytes(news.explained), news.explained.image.tobytes()]
        facts["parts"] = [len(part) for part in parts]
    text = json.dumps(facts, allow_nan=False).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *parts])


def _explained_facts(seen: ExplainedFrame, network: Network) -> dict[str, object]:
    explanation = seen.explanation
    return {
        "frame": seen.frame.number,
        "place": seen.frame.place,
        "target": seen.target,
        "label": network.label(seen.target),
        "is_predicted": seen.is_predicted,
        "classes": top_classes(seen.logits, network),
        "engine": seen.engine.name,
        "kernels": seen.engine.kernels,
        "method": None if explanation is None else explanation.method.name,
        "signed": explanation is not None and explanation.method.signed,
        "is_zero": explanation is not None and not explanation.values.any(),
        "refusal": seen.refusal,
        "preparation_latency_ms": seen.preparation_latency_ms,
        "forward_latency_ms": seen.forward_latency_ms,
        "map_latency_ms": seen.map_latency_ms,
    }


def _map_bytes(seen: ExplainedFrame) -> bytes:
    return b"" if seen.explanation is None else colour_indices(seen.explanation).tobytes()


def colour_indices(explanation: Explanation) -> npt.NDArray[np.uint8]:
    """Give the map as indices into `colour_table`, uint8 (H, W)."""
    positions = heat_positions(explanation.method, explanation.values)
    share = (positions + 1) / 2 if explanation.method.signed else positions
    return np.rint(share * (COLOURS - 1)).astype(np.uint8)
