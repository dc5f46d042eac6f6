"""Cameras on the network that are real, slow, silent or gone: RTSP by GStreamer's own server, and HTTP that stalls."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_place import RunningDemo, colour_network_file, rtsp_server, running_demo, wait_for, write_video

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live import address_source, open_source
from bitlens.runtime.live.capture_loop import CaptureLoop
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.shown_frame import jpeg_bytes
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.live.synthetic_source import synthetic_frame

pytest.importorskip("cv2")

USER, PASSWORD = "viewer", "se/cret?"
ENCODED = "se%2Fcret%3F"  # as an address must have it
SOON_MS = 400


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [synthetic_frame(5 * number) for number in range(200)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, "mp4v", rate=20.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_source, "OPEN_TIMEOUT_MS", SOON_MS)
    monkeypatch.setattr(address_source, "READ_TIMEOUT_MS", SOON_MS)


def news_of(demo: RunningDemo) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{demo.port}/news", timeout=30) as answer:
        content = answer.read()
    (length,) = struct.unpack_from("<I", content)
    facts: dict[str, Any] = json.loads(content[4 : 4 + length])
    return facts


def frames_of(demo: RunningDemo) -> int:
    explained = news_of(demo)["explained"]
    return 0 if explained is None else int(explained["frame"])


# RTSP.


def test_rtsp_gives_the_frames_of_the_film(film: Path) -> None:
    source = open_source(str(film))
    frames = {pixels.tobytes() for pixels, _ in iter(source.read, None)}
    source.close()
    with rtsp_server(film) as (_, port):
        camera = open_source(f"RTSP://127.0.0.1:{port}/live")
        assert camera.title == f"rtsp://127.0.0.1:{port}/live"
        for _ in range(5):
            got = camera.read()
            assert got is not None
            assert got[0].tobytes() in frames  # the same stream, decoded by the same decoder
        camera.close()


def test_rtsp_with_a_wrong_password_is_one_sentence_without_it(film: Path, tmp_path: Path) -> None:
    with rtsp_server(film, USER, PASSWORD) as (_, port):
        # In a process of its own, because FFmpeg writes past Python.
        command = [sys.executable, "-m", "bitlens.runtime.cli", "capture", "--class", "a", "--output", str(tmp_path)]
        command += ["--source", f"rtsp://{USER}:wr0ng@127.0.0.1:{port}/live"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 1
    assert ended.stdout == (
        f"bitlens: rtsp://127.0.0.1:{port}/live gives no stream: see that the camera is on and the address is right\n"
    )


def test_rtsp_that_is_killed_comes_back_and_the_password_is_never_said(film: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    network = str(colour_network_file(tmp_path))
    with rtsp_server(film, USER, PASSWORD) as (camera, port):
        address = f"rtsp://{USER}:{ENCODED}@127.0.0.1:{port}/live"
        with running_demo(network, "--source", address, folder=tmp_path) as demo:
            wait_for(lambda: frames_of(demo) > 3, "frames")
            camera.kill()
            camera.wait()
            wait_for(lambda: news_of(demo)["source"]["condition"] == "gone", "the loss to be noticed")
            told = news_of(demo)
            lost_at = frames_of(demo)
            with rtsp_server(film, USER, PASSWORD, port=port):
                wait_for(lambda: frames_of(demo) > lost_at + 3, "new frames")
                told_later = news_of(demo)
            code, rest = demo.interrupt()
    assert code == 0
    everything = "".join([*demo.said, rest, json.dumps(told), json.dumps(told_later)])
    assert f"rtsp://127.0.0.1:{port}/live" in everything
    assert not any(secret in everything for secret in (PASSWORD, ENCODED, "cret", f"{USER}:"))


@contextmanager
def capturing(address: str) -> Iterator[tuple[NewestFrame, list[SourceState]]]:
    """Capture from an address; the newest frame and all states so far. Its thread has ended at the end."""
    states: list[SourceState] = []
    newest = NewestFrame()
    loop = CaptureLoop("address", lambda: open_source(address), newest, states.append, repeats=True)
    loop.start()
    try:
        yield newest, states
    finally:
        loop.stop()
    assert "capture" not in {thread.name for thread in threading.enumerate()}


def test_rtsp_that_stalls_holds_up_neither_the_end_nor_the_next_attempt(film: Path, impatient: None) -> None:
    with rtsp_server(film) as (camera, port):
        try:
            with capturing(f"rtsp://127.0.0.1:{port}/live") as (newest, states):
                wait_for(lambda: newest.frame is not None and newest.frame.number > 3, "frames")
                camera.send_signal(signal.SIGSTOP)
                wait_for(lambda: states[-1].condition == "gone", "the stall to be noticed")
                wait_for(lambda: "gives no stream" in states[-1].message, "an attempt that nobody answers")
                assert newest.frame is not None
                lost_at = newest.frame.number
                camera.send_signal(signal.SIGCONT)
                wait_for(lambda: newest.frame is not None and newest.frame.number > lost_at + 3, "new frames")
                camera.send_signal(signal.SIGSTOP)
        finally:
            camera.send_signal(signal.SIGCONT)


# HTTP, by a server that does what it is told.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
JPEG = jpeg_bytes(synthetic_frame(0), 320)
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(JPEG), JPEG)


def silent(visitor: socket.socket, resumed: threading.Event) -> None:
    resumed.wait()


def only_headers(visitor: socket.socket, resumed: threading.Event) -> None:
    visitor.sendall(HEAD)
    resumed.wait()


def stalling(visitor: socket.socket, resumed: threading.Event) -> None:
    visitor.sendall(HEAD + 20 * PART)
    resumed.wait()


def stalling_within_a_picture(visitor: socket.socket, resumed: threading.Event) -> None:
    visitor.sendall(HEAD + 20 * PART + PART[:3000])
    resumed.wait()


def dripping(visitor: socket.socket, resumed: threading.Event) -> None:
    visitor.sendall(HEAD + 20 * PART)
    for byte in PART:  # never silent for long, and never done
        visitor.sendall(bytes([byte]))
        if resumed.wait(0.1):
            return


@contextmanager
def http_camera(
    behaves: Callable[[socket.socket, threading.Event], None],
) -> Iterator[tuple[int, threading.Event]]:
    """A server for which `behaves` answers each visitor until the event is set; from then on frames go on and on."""
    resumed, over = threading.Event(), threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(visitor: socket.socket) -> None:
        with visitor:
            try:
                visitor.recv(4096)
                if not resumed.is_set():
                    return behaves(visitor, resumed)
                visitor.sendall(HEAD)
                while not over.wait(0.02):
                    visitor.sendall(PART)
            except OSError:
                pass  # the visitor has gone

    def accept() -> None:
        while not over.is_set():
            try:
                visitor, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(visitor,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1], resumed
    finally:
        over.set()
        resumed.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@pytest.mark.parametrize("behaves", [silent, only_headers, stalling, stalling_within_a_picture, dripping])
def test_http_that_stalls_is_gone_and_comes_back(
    behaves: Callable[[socket.socket, threading.Event], None], impatient: None
) -> None:
    with http_camera(behaves) as (port, resumed), capturing(f"http://127.0.0.1:{port}/x") as (newest, states):
        wait_for(lambda: states and states[-1].condition == "gone", "the stall to be noticed")
        resumed.set()
        lost_at = 0 if newest.frame is None else newest.frame.number
        wait_for(lambda: newest.frame is not None and newest.frame.number > lost_at + 25, "frames again")


def test_ctrl_c_ends_a_demo_whose_camera_stalls(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    network = str(colour_network_file(tmp_path))
    with (
        http_camera(stalling) as (port, _),
        running_demo(network, "--source", f"http://127.0.0.1:{port}/x", folder=tmp_path) as demo,
    ):
        wait_for(lambda: frames_of(demo) > 0, "a frame")
        assert demo.interrupt() == (0, "ended\n")


# What is said of an address.


@pytest.mark.parametrize(
    "address",
    [
        "http://user:{}@camera/live",
        "RTSP://user:{}@camera/live",
        "rtsp://user:pass/{}@127.0.0.1:9/live",  # not encoded: the host would be `user`
        "rtsp://user:pass#{}@127.0.0.1:9/live",
        "rtsp://user:12/{}@127.0.0.1:9/live",
        "rtsps://user:{}@camera/live",
        "rtmp://user:{}@camera/live",
        "http://user:{}@/live",
        "http://user:{}@[::1/live",
    ],
)
def test_no_refusal_says_a_password(address: str, impatient: None) -> None:
    with pytest.raises(BitlensError) as refusal:
        open_source(address.format("s3cret"))
    assert "s3cret" not in str(refusal.value)
