"""`bitlens capture` as a command."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from live_place import PATIENCE_SECONDS, refusal, scenes, wait_for, write_video
from PIL import Image

from bitlens.runtime import cli
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live import recording
from bitlens.runtime.live.frame_source import FrameSource
from bitlens.runtime.live.recording import Recorded, class_folder, record
from bitlens.runtime.verbs import capture as capture_verb


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.avi", scenes(6), "FFV1", rate=20.0)


def test_capture_makes_a_training_folder(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bitlens.train.datasets.image_folder import open_image_folder

    for name in ("ship", "no ship"):
        arguments = ["--class", name, "--source", str(film), "--output", str(tmp_path / "set"), "--every", "0"]
        assert cli.main(["capture", *arguments]) == 0
    found = sorted((tmp_path / "set" / "train" / "ship").iterdir())
    assert 1 <= len(found) <= 6
    with Image.open(found[0]) as picture:
        assert picture.size == (320, 240)
    data = open_image_folder(tmp_path / "set", 32, print)
    assert data.class_names == ("no ship", "ship")
    assert "pictures of ship in" in capsys.readouterr().out


def test_capture_stops_at_the_count_and_names_never_collide(film: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    arguments = ["--class", "a", "--source", "synthetic", "--output", str(tmp_path), "--every", "0"]
    for total in (3, 6):
        assert cli.main(["capture", *arguments, "--count", "3"]) == 0
        assert len(list((tmp_path / "train" / "a").iterdir())) == total


def test_a_clock_that_stands_still_makes_no_name_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter(["00", "00", "01"])
    monkeypatch.setattr(recording.secrets, "token_hex", lambda size: next(words))

    class Stopped:
        @staticmethod
        def now(zone: object) -> object:
            from datetime import datetime, timezone

            return datetime(2000, 1, 1, tzinfo=timezone.utc)

    monkeypatch.setattr(recording, "datetime", Stopped)
    first = recording.new_picture_path(tmp_path)
    first.touch()
    assert recording.new_picture_path(tmp_path).name == "20000101-000000-000-01.png"


def test_capture_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "bitlens.runtime.cli", "capture", "--class", "a"]
    command += ["--source", "synthetic", "--output", str(tmp_path), "--every", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: len(list(tmp_path.glob("train/a/*.png"))) >= 2, "two pictures")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    kept = sorted((tmp_path / "train" / "a").iterdir())
    assert said.splitlines()[-1] == f"{len(kept)} pictures of a in {tmp_path / 'train' / 'a'}"
    for path in kept:
        with Image.open(path) as picture:
            picture.load()  # whole, the last one too


@pytest.mark.parametrize("name", ["", " ", ".hidden", "..", "a/b", "a\\b", "/etc", "a\nb", "x" * 101, "é" * 60, " a"])
def test_class_names_that_make_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="it becomes the name of a folder"):
        class_folder(tmp_path, name)


def test_class_names_that_do(tmp_path: Path) -> None:
    assert class_folder(tmp_path, "Straßenbahn 3") == tmp_path / "train" / "Straßenbahn 3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "../up"), "the name of a folder"),
        (("--class", "a", "--every", "-1"), "--every"),
        (("--class", "a", "--every", "nan"), "--every"),
        (("--class", "a", "--count", "0"), "--count"),
        (("--class", "a", "--source", "nowhere"), "no source 'nowhere'"),
        (("--class", "a", "--output", "/proc/nowhere"), "/proc/nowhere"),
        ((), "--class"),
    ],
)
def test_capture_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--source", "synthetic", "--output", str(tmp_path), *arguments]
    assert message in refusal(capsys, "capture", *given)


def test_capture_without_a_camera_records_no_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capture_verb, "default_source", lambda: ("synthetic", "there is no camera"))
    assert "there is no camera" in refusal(capsys, "capture", "--class", "a", "--output", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, written = recording.write_bytes_atomically, []

    def fills_up(path: Path, content: bytes) -> None:
        if len(written) == 2:
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", _no_space)
                original(path, content)
        written.append(path)
        original(path, content)

    monkeypatch.setattr(recording, "write_bytes_atomically", fills_up)
    code = cli.main(["capture", "--class", "a", "--source", "synthetic", "--output", str(tmp_path), "--every", "0"])
    captured = capsys.readouterr()
    assert code == 1
    assert "No space left on device" in captured.err
    assert "make room" in captured.err
    assert sorted((tmp_path / "train" / "a").iterdir()) == sorted(written)


def _no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_camera_that_comes_back_goes_on(tmp_path: Path) -> None:
    opened: list[int] = []
    told: list[object] = []

    def open_shaky() -> FrameSource:
        opened.append(1)
        left = iter(range(2))

        def read() -> tuple[np.ndarray, str]:
            if next(left, None) is None:
                raise BitlensError("unplugged")
            return np.zeros((4, 4, 3), np.uint8), ""

        return FrameSource("shaky", read, lambda: None, 0.05)

    kept = record(
        "shaky", open_shaky, tmp_path, every_seconds=0.0, most=3, told=told.append, stopping=threading.Event()
    )
    assert kept == 3
    assert len(opened) >= 2
    assert [each.count for each in told if isinstance(each, Recorded)] == [1, 2, 3]
