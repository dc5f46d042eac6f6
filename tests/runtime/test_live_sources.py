"""Where frames come from."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from live_place import mjpeg_server, photographs, scenes, wait_for, write_video
from PIL import Image

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.live import SOURCES, camera_source, default_source, frame_source, open_source
from bitlens.runtime.live.address_source import shown_address
from bitlens.runtime.live.capture_loop import CaptureLoop
from bitlens.runtime.live.frame_source import FrameSource, source_kind
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.live.synthetic_source import HEIGHT, WIDTH, synthetic_frame


def everything(text: str) -> list[tuple[np.ndarray, str]]:
    source = open_source(text)
    try:
        return list(iter(source.read, None))
    finally:
        source.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", "camera"),
        ("/dev/video12", "camera"),
        ("picamera2", "picamera2"),
        ("synthetic", "synthetic"),
        ("http://board:8080/stream", "address"),
        ("rtsp://user:secret@camera/1", "address"),
        ("folder", "folder"),
        ("film.avi", "video"),
    ],
)
def test_what_a_text_means(text: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("film.avi").touch()
    assert source_kind(text).name == kind


@pytest.mark.parametrize("text", ["", "film", "-1", "1234", "file:///etc/passwd", "ftp://host/x", "concat:a|b"])
def test_what_no_text_means(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BitlensError, match="synthetic") as refusal:
        source_kind(text)
    assert all(kind.form in str(refusal.value) for kind in SOURCES.values())


def test_synthetic_frames_are_the_same_on_each_run_and_move() -> None:
    first, again, later = synthetic_frame(7), synthetic_frame(7), synthetic_frame(8)
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != later).mean() > 0.05
    assert (synthetic_frame(7, seed=1) != first).any()


@pytest.mark.parametrize("codec", ["FFV1", "MJPG"])
def test_a_video_decodes_to_the_same_frames_each_time(codec: str, tmp_path: Path) -> None:
    pictures = scenes(5)
    path = write_video(tmp_path / "film.avi", pictures, codec)
    first, again = everything(str(path)), everything(str(path))
    assert [place for _, place in first] == [f"frame {number}" for number in range(5)]
    for (one, _), (other, _), picture in zip(first, again, pictures, strict=True):
        np.testing.assert_array_equal(one, other)
        # Red is first: the wrong order would be far off; FFV1 is lossless but for the colours it is stored in.
        assert np.abs(one.astype(int) - picture).mean() < (8 if codec == "MJPG" else 2)
    assert open_source(str(path)).interval_seconds == pytest.approx(0.1)


def test_what_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    path.write_bytes(b"not at all" * 100)
    with pytest.raises(BitlensError, match=r"film\.avi is no video"):
        open_source(str(path))


def test_a_folder_gives_its_pictures_in_order_and_names_what_it_passes_over(tmp_path: Path) -> None:
    for name, picture in zip(("b.png", "a.png"), scenes(2), strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "aa.png").write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_text("no picture")
    found = everything(str(tmp_path))
    assert [place for _, place in found] == ["a.png", "b.png (aa.png cannot be read)"]
    np.testing.assert_array_equal(found[1][0], scenes(2)[0])


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="holds no picture"):
        open_source(str(tmp_path))


def test_a_camera_that_is_not_there() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(BitlensError, match="there is no camera 99"):
        open_source("99")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_source, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"bitlens\[camera\]"):
        open_source("0")


def test_picamera2_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(BitlensError, match=r"python3-picamera2.*--system-site-packages"):
        open_source("picamera2")


def test_picamera2_gives_red_first_and_says_when_the_camera_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real one needs a Raspberry Pi: what is tested is how it is called and what becomes of its answers.
    calls: list[object] = []

    class Picamera2:
        @staticmethod
        def global_camera_info() -> list[dict[str, int]]:
            return [{"Num": 0}]

        def create_video_configuration(self, main: dict[str, object]) -> dict[str, object]:
            return main

        def configure(self, configuration: dict[str, object]) -> None:
            calls.append(configuration["format"])

        def start(self) -> None:
            calls.append("start")

        def capture_array(self, name: str, wait: float | None = None) -> np.ndarray:
            assert wait is not None, "a camera that hangs would be waited for for ever"
            if "stop" in calls:
                raise TimeoutError
            return np.full((4, 6, 3), (9, 5, 1), np.uint8)

        def stop(self) -> None:
            calls.append("stop")

        def close(self) -> None:
            raise RuntimeError("closed already")

    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=Picamera2))
    source = open_source("picamera2")
    got = source.read()
    assert got is not None
    assert got[0][0, 0].tolist() == [9, 5, 1]
    source.close()
    assert calls == ["BGR888", "start", "stop"]
    with pytest.raises(BitlensError, match="TimeoutError"):
        source.read()


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown_address("rtsp://user:secret@camera:554/live/1?key=secret") == "rtsp://camera:554/live/1"
    assert shown_address("http://user:secret@[::1]:80/live") == "http://[::1]:80/live"


def test_an_address_where_nothing_answers() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(BitlensError, match=r"http://127\.0\.0\.1:9/x gives no stream"):
        open_source("http://name:secret@127.0.0.1:9/x")


def test_a_default_without_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_source, "camera_numbers", lambda: [])
    assert default_source.default_source() == ("synthetic", "there is no camera")
    monkeypatch.setattr(default_source, "find_spec", lambda name: None)
    assert "bitlens[camera]" in default_source.default_source()[1]


def test_a_default_with_a_camera_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_source, "camera_numbers", lambda: [7])
    monkeypatch.setattr(camera_source, "DEVICES", Path("/nonexistent"))
    source, why = default_source.default_source()
    assert source == "synthetic"
    assert "7: " in why


# The loop that reads them.


def test_the_newest_frame_wins_and_a_killed_camera_comes_back() -> None:
    pytest.importorskip("cv2")
    states: list[SourceState] = []
    newest = NewestFrame()
    with mjpeg_server() as (process, port):
        address = f"http://127.0.0.1:{port}/stream"
        loop = CaptureLoop("address", lambda: open_source(address), newest, states.append, repeats=True)
        loop.start()
        try:
            wait_for(lambda: newest.frame is not None and newest.frame.number > 3, "frames")
            process.kill()
            process.wait()
            wait_for(lambda: states[-1].condition == "gone", "the loss to be noticed")
            assert "try" not in states[-1].message
            assert newest.frame is not None
            lost_at = newest.frame.number
            with mjpeg_server(port):
                wait_for(lambda: newest.frame is not None and newest.frame.number > lost_at + 3, "new frames")
                assert states[-1].condition == "live"
        finally:
            loop.stop()
    assert newest.newer_than(10**9, 0.01) is None


@pytest.mark.parametrize("repeats", [False, True])
def test_the_end_of_a_source(repeats: bool) -> None:
    states: list[SourceState] = []
    newest = NewestFrame()

    def open_three() -> FrameSource:
        left = iter(range(3))
        return FrameSource(
            "three", lambda: next(((np.zeros((2, 2, 3), np.uint8), str(k)) for k in left), None), lambda: None, 0.01
        )

    loop = CaptureLoop("three", open_three, newest, states.append, repeats=repeats)
    loop.start()
    try:
        if repeats:
            wait_for(lambda: newest.frame is not None and newest.frame.number > 7, "a second and a third round")
            assert all(state.condition == "live" for state in states)
        else:
            wait_for(lambda: states and states[-1].condition == "ended", "the end")
            assert newest.frame is not None
            assert (newest.frame.number, newest.frame.place) == (3, "2")
    finally:
        loop.stop()


def test_a_source_without_frames_is_gone_and_not_spun_on() -> None:
    states: list[SourceState] = []
    opened: list[int] = []

    def open_empty() -> FrameSource:
        opened.append(1)
        return FrameSource("nothing", lambda: None, lambda: None)

    loop = CaptureLoop("nothing", open_empty, NewestFrame(), states.append, repeats=True)
    loop.start()
    wait_for(lambda: states, "the first state")
    loop.stop()
    assert states[0].condition == "gone"
    assert len(opened) < 10


def test_a_decoder_that_breaks_down_is_a_source_that_is_gone() -> None:
    states: list[SourceState] = []

    def broken() -> FrameSource:
        raise RuntimeError("assertion failed\n in function 'decode'")

    loop = CaptureLoop("broken", broken, NewestFrame(), states.append, repeats=True)
    loop.start()
    wait_for(lambda: states, "the first state")
    loop.stop()
    assert states[0] == SourceState("broken", "gone", "RuntimeError: assertion failed in function 'decode'")


def test_photographs_survive_a_lossless_video(tmp_path: Path) -> None:
    pictures = photographs(3)
    path = write_video(tmp_path / "photos.avi", pictures, "FFV1")
    for (decoded, _), picture in zip(everything(str(path)), pictures, strict=True):
        assert np.abs(decoded.astype(int) - picture).mean() < 2
