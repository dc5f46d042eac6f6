"""A camera of Linux: `vivid`, the kernel's own test driver, behind V4L2 and OpenCV's aarch64 wheel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from deployed import BITLENS, CURRENT, Deployed
from emulated_board import PAGE_PORT, ROOT, EmulatedBoard
from page_client import PageClient, is_explained
from PIL import Image

DRIVER = "/sys/bus/platform/drivers/vivid"


def unplug(board: EmulatedBoard) -> None:
    board.run(f"echo vivid.0 >{DRIVER}/unbind && ! test -e /dev/video0", user=ROOT)


def plug_in(board: EmulatedBoard) -> None:
    board.run(f"echo vivid.0 >{DRIVER}/bind && udevadm settle && test -e /dev/video0", user=ROOT)


@contextmanager
def running_demo(board: EmulatedBoard, *options: str) -> Iterator[list[str]]:
    """`bitlens demo` on the board, as a person starts it over ssh; what it says before it runs. Ended in the end."""
    command = f"exec {BITLENS} demo {CURRENT}/network.bitlens {' '.join(options)}"
    process = subprocess.Popen(
        [*board.ssh("-tt"), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        assert said, "it says nothing"
        assert said[-1].startswith("Ctrl-C"), said
        yield said
        assert process.stdin is not None
        process.stdin.write("\x03")
        process.stdin.flush()
        rest = process.communicate(timeout=300)[0]
        assert "ended" in rest, rest
        assert process.returncode == 0, rest
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_capture(board: EmulatedBoard, second: Deployed, tmp_path: Path) -> None:
    assert second.code == 0, second.said
    command = f"rm -rf pictures && {BITLENS} capture --class scene --source 0 --output pictures --every 0.2 --count 3"
    assert "3 pictures of scene" in board.run(command)
    names = board.run("ls pictures/train/scene").split()
    assert len(names) == 3
    frames = []
    for name in names:
        path = tmp_path / name
        path.write_bytes(
            subprocess.run([*board.ssh(), f"cat pictures/train/scene/{name}"], capture_output=True, check=True).stdout
        )
        with Image.open(path) as picture:
            assert picture.size == (640, 480)
            frames.append(np.asarray(picture.convert("RGB")))
    # vivid shows colour bars with a running clock before them.
    bars = {tuple(int(value) // 64 for value in frames[0][400, column]) for column in range(20, 640, 40)}
    assert len(bars) >= 6, bars
    assert (frames[0] != frames[1]).any()


def test_no_such_camera(board: EmulatedBoard, second: Deployed) -> None:
    done = board.tried(f"{BITLENS} capture --class scene --source 7 --output pictures --count 1")
    assert done.returncode == 1
    assert done.stderr.startswith("bitlens: there is no camera 7 (here: 0)"), done.stderr


def test_the_live_page(board: EmulatedBoard, second: Deployed) -> None:
    with running_demo(board, "--source", "0", "--host", "0.0.0.0", "--port", str(PAGE_PORT)) as said:
        (address,) = [line for line in said if "?token=" in line][:1]
        token = address.partition("?token=")[2]
        assert PageClient(board.page_port).code("/about") == 401
        assert PageClient(board.page_port, "x" * len(token)).code("/about") == 401
        page = PageClient(board.page_port, token)
        about = page.about()
        assert about["network"]["precision"] == "w1a1"
        size = about["network"]["height"] * about["network"]["width"]
        (native,) = [each for each in about["engines"] if each["name"] == "native"]
        assert native["problem"] == ""

        news = page.wait_for(is_explained, "a frame of the camera, explained")
        assert news.facts["source"]["condition"] == "live"
        jpeg, indices, image = news.parts
        assert jpeg.startswith(b"\xff\xd8")
        assert len(indices) == size
        assert len(image) == size * about["network"]["channels"]
        assert len(set(indices)) > 1
        assert page.get("/camera").startswith(b"\xff\xd8")
        number = news.facts["explained"]["frame"]
        page.wait_for(lambda each: is_explained(each) and each.facts["explained"]["frame"] > number, "newer frames")

        unplug(board)
        gone = page.wait_for(lambda each: each.facts["source"]["condition"] == "gone", "the loss of the camera")
        assert "camera 0" in gone.facts["source"]["message"], gone.facts["source"]
        number = gone.facts["explained"]["frame"]
        plug_in(board)
        page.wait_for(
            lambda each: each.facts["source"]["condition"] == "live" and each.facts["explained"]["frame"] > number,
            "the camera that is back",
        )
