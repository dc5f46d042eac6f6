"""The live path: what it computes, and how it keeps pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_place import LABELS, Codes, colour_network_file, photographs, scenes, wait_for, write_video
from PIL import Image

from bitlens.runtime import cli
from bitlens.runtime.board_state import BoardState
from bitlens.runtime.engines import open_engine, present_engines
from bitlens.runtime.live import open_source
from bitlens.runtime.live.bulletin import Bulletin
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.explainer_loop import ExplainerLoop, explained
from bitlens.runtime.live.frame import Frame
from bitlens.runtime.live.frame_rate import FrameRate
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.session import Session
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Array

FRAMES = 4


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return open_network(colour_network_file(tmp_path_factory.mktemp("network")))


def session_of(network: Network, method: str, engine: str = "reference") -> Session:
    return Session(network, open_engine(network, engine), method, None, None)


def slow_session_of(network: Network, method: str) -> Session:
    """One whose forward passes take long enough on any machine for progress to be told."""
    engine = open_engine(network, "reference")

    def run_forward(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        time.sleep(0.2)
        return engine.run_forward(feeds, outputs)

    def run_gradient(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        time.sleep(0.2)
        return engine.run_gradient(feeds, outputs)

    slow = replace(engine, run_forward=run_forward, run_gradient=run_gradient)
    return Session(network, slow, method, None, None)


def live_maps(network: Network, video: Path, method: str, engine: str) -> dict[str, ExplainedFrame]:
    """Explanation of every frame of a video, by its place, as the running demo gives them."""
    session = session_of(network, method, engine)
    demo = LiveDemo(session, "video", lambda: open_source(str(video)), certificate=None, snapshots=video.parent)
    found: dict[str, ExplainedFrame] = {}

    def all_there() -> bool:
        seen = demo.bulletin.news.explained
        if seen is not None:
            found[seen.frame.place] = seen
        return len(found) == FRAMES

    demo.start()
    try:
        wait_for(all_there, "every frame of the video")  # the newest wins, so some are missed in the first round
    finally:
        demo.stop()
    return found


@pytest.mark.parametrize(
    ("method", "engine", "codec", "pictures"),
    [
        ("gradient", "native", "FFV1", photographs),
        ("grad_cam", "native", "FFV1", photographs),
        ("smoothgrad", "native", "MJPG", photographs),
        ("occlusion", "reference", "FFV1", photographs),
        ("integrated_gradients", "reference", "FFV1", scenes),
    ],
)
def test_the_live_map_is_the_one_that_explain_gives(
    method: str,
    engine: str,
    codec: str,
    pictures: Callable[[int], list[Codes]],
    network: Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cv2 = pytest.importorskip("cv2")
    if engine not in present_engines(network):
        pytest.skip(f"no engine {engine} here")
    video = write_video(tmp_path / "film.avi", pictures(FRAMES), codec, rate=8.0)
    live = live_maps(network, video, method, engine)
    # Another decoder run, and the file in between: what a user would do.
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    for number in range(FRAMES):
        _, frame = capture.read()
        picture, values = tmp_path / f"{number}.png", tmp_path / f"{number}.npy"
        Image.fromarray(frame[..., ::-1]).save(picture)
        arguments = ["--method", method, "--engine", engine, "--map", str(values), "--output", str(tmp_path / "x.png")]
        assert cli.main(["explain", str(network.source), str(picture), *arguments]) == 0
        explanation = live[f"frame {number}"].explanation
        assert explanation is not None
        expected = np.load(values)
        assert expected.any()
        assert explanation.values.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(explanation.values, expected)
    maps = [each.explanation.values.tobytes() for each in live.values() if each.explanation]
    assert len(set(maps)) == FRAMES  # else all frames could be one


def test_the_comparison_of_maps_can_fail(network: Network) -> None:
    engine = open_engine(network, "reference")
    settings = session_of(network, "gradient").settings
    first, second = (explained(engine, Frame(1, "", scene), settings).explanation for scene in scenes(2))
    assert first is not None
    assert second is not None
    assert (first.values != second.values).any()


def test_a_method_that_refuses_leaves_the_prediction(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from bitlens.runtime.errors import BitlensError

    def refuse(*_: object, **__: object) -> np.ndarray:
        raise BitlensError("not today")

    monkeypatch.setitem(METHODS, "gradient", replace(METHODS["gradient"], function=refuse))
    engine = open_engine(network, "reference")
    seen = explained(engine, Frame(1, "", scenes(1)[0]), session_of(network, "gradient").settings)
    assert seen.explanation is None
    assert seen.refusal == "not today"
    assert len(seen.logits) == len(LABELS)


def running(session: Session) -> tuple[ExplainerLoop, NewestFrame, Bulletin]:
    newest = NewestFrame()
    bulletin = Bulletin(SourceState("test", "live"), session.settings, BoardState(None, None, ""))
    return ExplainerLoop(session, newest, bulletin), newest, bulletin


def explained_frames(bulletin: Bulletin) -> int:
    return 0 if bulletin.news.explained is None else bulletin.news.explained.frame.number


def test_a_long_map_is_abandoned_when_another_method_is_chosen(network: Network) -> None:
    session = slow_session_of(network, "rise")
    loop, newest, bulletin = running(session)
    loop.start()
    try:
        newest.put(Frame(1, "", scenes(1)[0]))
        wait_for(lambda: bulletin.news.progress, "progress of a long map")
        progress = bulletin.news.progress
        assert progress is not None
        assert 0 <= progress.done <= progress.of == 1000
        session.choose({"method": "gradient"})
        wait_for(lambda: bulletin.news.explained, "the other map")
        seen = bulletin.news.explained
        assert seen is not None
        assert seen.explanation is not None
        assert seen.explanation.method.name == "gradient"
        assert bulletin.news.progress is None
    finally:
        loop.stop()


def test_a_long_map_does_not_hold_up_the_end(network: Network) -> None:
    loop, newest, bulletin = running(slow_session_of(network, "adaptive_smooth_taylor"))
    loop.start()
    newest.put(Frame(1, "", scenes(1)[0]))
    wait_for(lambda: bulletin.news.progress, "progress of a long map")
    loop.stop()
    assert "explainer" not in {thread.name for thread in threading.enumerate()}
    assert bulletin.news.explained is None


def test_a_frozen_frame_stays_and_is_explained_anew(network: Network) -> None:
    session = session_of(network, "gradient")
    loop, newest, bulletin = running(session)
    loop.start()
    try:
        newest.put(Frame(1, "", scenes(1)[0]))
        wait_for(lambda: explained_frames(bulletin) == 1, "the first frame")
        session.choose({"frozen": True})
        newest.put(Frame(2, "", scenes(2)[1]))
        session.choose({"method": "grad_cam"})

        def method() -> str:
            seen = bulletin.news.explained
            return seen.explanation.method.name if seen is not None and seen.explanation is not None else ""

        wait_for(lambda: method() == "grad_cam", "the other method")
        assert explained_frames(bulletin) == 1
        session.choose({"frozen": False})
        wait_for(lambda: explained_frames(bulletin) == 2, "the newest frame")
    finally:
        loop.stop()


def test_an_unforeseen_error_does_not_end_the_loop(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def break_down(*_: object, **__: object) -> np.ndarray:
        raise RuntimeError("kernel trouble")

    monkeypatch.setitem(METHODS, "gradient", replace(METHODS["gradient"], function=break_down))
    session = session_of(network, "gradient")
    loop, newest, bulletin = running(session)
    loop.start()
    try:
        newest.put(Frame(1, "", scenes(1)[0]))
        wait_for(lambda: bulletin.news.problem, "the problem")
        assert bulletin.news.problem == "RuntimeError: kernel trouble"
        session.choose({"method": "gradient_x_input"})
        wait_for(lambda: not bulletin.news.problem, "the problem to go")
        newest.put(Frame(2, "", scenes(1)[0]))
        session.choose({"method": "grad_cam"})
        wait_for(lambda: explained_frames(bulletin) == 2, "the next frame")
    finally:
        loop.stop()


def test_telling_the_same_again_is_no_news(network: Network) -> None:
    _, _, bulletin = running(session_of(network, "gradient"))
    bulletin.tell(problem="one")
    version = bulletin.news.version
    bulletin.tell(problem="one", source=SourceState("test", "live"))
    assert bulletin.news.version == version
    bulletin.tell(problem="two")
    assert bulletin.news.version == version + 1


def test_frame_rate_of_few_and_of_many() -> None:
    rate = FrameRate()
    assert rate.per_second(0.0) == 0.0
    for number in range(100):
        rate.tick(0.1 * number)
    assert rate.per_second(9.9) == pytest.approx(10.0)
    slow = FrameRate()
    slow.tick(0.0)
    slow.tick(4.0)
    assert slow.per_second(5.0) == 0.25
    assert slow.per_second(20.0) == 0.0
