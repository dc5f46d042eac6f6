"""The live path from a video: the map of each explained frame is, bit for bit, what `bitlens explain` gives for it.

What `bitlens demo --source film.avi` runs, less the browser and its server: decoder, capture loop, explainer loop.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitlens.runtime import cli
from bitlens.runtime.engines import present_engines
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.network import open_network
from bitlens.runtime.shipped import shipped_bundle
from bitlens.runtime.verbs import demo

cv2: Any = pytest.importorskip("cv2", reason="no OpenCV: pip install 'bitlens[camera]'")
pytest.importorskip("PIL", reason="no Pillow: pip install 'bitlens[image]'")

Codes = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Maps = Mapping[str, Map]

FRAMES = 3
WIDTH, HEIGHT = 320, 240
RATE = 5.0
PATIENCE_SECONDS = 300.0  # of an emulated board on a busy machine; a time is asserted nowhere


def pictures() -> list[Codes]:
    """Photographs of BITLENS_DATA, or drawn ones: blue first, as OpenCV has them."""
    folder = Path(os.environ.get("BITLENS_DATA") or "nowhere") / "photos"
    found = []
    for path in sorted(folder.glob("*.jpg"))[:FRAMES]:
        photograph = cv2.imread(str(path))
        top, left = (photograph.shape[0] - HEIGHT) // 2, (photograph.shape[1] - WIDTH) // 2
        found.append(np.ascontiguousarray(photograph[top : top + HEIGHT, left : left + WIDTH]))
    return found if len(found) == FRAMES else [drawn(number) for number in range(FRAMES)]


def drawn(number: int) -> Codes:
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    disc = (down - 120) ** 2 + (across - 80 * (number + 1)) ** 2 < (30 + 20 * number) ** 2
    ground = np.stack([across * 255 // WIDTH, down * 255 // HEIGHT, (across + down) % 256], axis=-1)
    return np.where(disc[..., None], [40, 200 - 60 * number, 90 + 80 * number], ground).astype(np.uint8)


def film(path: Path, codec: str) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), RATE, (WIDTH, HEIGHT))
    assert writer.isOpened(), f"this OpenCV writes no {codec}"
    for picture in pictures():
        writer.write(picture)
    writer.release()
    return path


def opened_demo(*arguments: str) -> LiveDemo:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo.opened_demo(parser.parse_args(arguments))


def live_maps(live: LiveDemo) -> Maps:
    """Map of each frame, by its place in the film; the newest frame wins, so it may take more than one showing."""
    found: dict[str, Map] = {}
    end = time.monotonic() + PATIENCE_SECONDS
    live.start()
    try:
        while len(found) < FRAMES:
            news = live.bulletin.news
            assert not news.problem, news.problem
            assert time.monotonic() < end, f"of {FRAMES} frames only {sorted(found)} were explained; {news.source}"
            if news.explained is not None:
                assert news.explained.explanation is not None, news.explained.refusal
                found[news.explained.frame.place] = news.explained.explanation.values
            time.sleep(0.02)
    finally:
        live.stop()
    return found


def explained_maps(network: Path, video: Path, method: str, engine: str, folder: Path) -> Maps:
    """The same by the command line, of frames that another run of the decoder has saved as PNG files."""
    found = {}
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    for number in range(FRAMES):
        is_read, frame = capture.read()
        assert is_read
        picture, values = folder / f"{number}.png", folder / f"{number}.npy"
        assert cv2.imwrite(str(picture), frame)
        options = ["--method", method, "--engine", engine, "--map", str(values), "--output", str(folder / "map.png")]
        assert cli.main(["explain", str(network), str(picture), *options]) == 0
        found[f"frame {number}"] = np.load(values)
    return found


def differing_frames(live: Maps, explained: Maps) -> list[str]:
    """Frames whose maps are not the same bits, or that one of them lacks."""
    bits = [
        {place: (values.shape, values.dtype, values.tobytes()) for place, values in each.items()}
        for each in (live, explained)
    ]
    return sorted(place for place in live.keys() | explained.keys() if bits[0].get(place) != bits[1].get(place))


@pytest.mark.parametrize(
    ("network", "method", "codec"),
    [
        ("fashion-mnist-lenet-w4a4", "gradient", "FFV1"),
        ("cifar10-resnet20-w4a4", demo.WITH_MAPS, "MJPG"),  # what `bitlens demo` begins with
    ],
)
def test_the_live_map_is_the_one_that_explain_gives(network: str, method: str, codec: str, tmp_path: Path) -> None:
    bundle = shipped_bundle(network)
    engine = "native" if "native" in present_engines(open_network(bundle)) else "reference"
    video = film(tmp_path / "film.avi", codec)
    live = live_maps(opened_demo(network, "--source", str(video), "--method", method, "--engine", engine))
    explained = explained_maps(bundle, video, method, engine, tmp_path)
    assert differing_frames(live, explained) == []
    assert all(values.any() for values in live.values())
    assert len({values.tobytes() for values in live.values()}) == FRAMES  # else all frames could be one


def test_another_map_is_found() -> None:
    one, other = np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32)
    other[0, 1, 1] = np.float32(1e-45)
    assert differing_frames({"a": one, "b": one}, {"a": one, "b": one.copy()}) == []
    assert differing_frames({"a": one, "b": one, "c": one}, {"a": one, "b": other}) == ["b", "c"]
