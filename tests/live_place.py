"""What the tests of live saliency share: a network for colour pictures, videos, a demo in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import answered, check_refused
from PIL import Image
from small_programs import affine, conv2d, dense, image_input, pact, reshape, sum_pool

from bitlens.runtime.live.synthetic_source import synthetic_frame
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import program_bytes

Codes = npt.NDArray[np.uint8]

LABELS = ("ant", "bee", "cat", "dog", "elk", "fox")
MJPEG_SERVER = Path(__file__).with_name("mjpeg_server.py")
RTSP_SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = Path("/usr/bin/python3")  # has the bindings of the RTSP server, which no package index has
PATIENCE_SECONDS = 60.0  # of a test on a busy machine; none asserts a time


def colour_network(seed: int = 11) -> Program:
    """A network on (3, 16, 16) with six classes whose feature maps are averaged before the dense layer."""
    draw = np.random.default_rng(seed)
    slopes = draw.uniform(1e-5, 3e-5, 8)
    first = draw.integers(-40, 41, (8, 3, 3, 3)).astype(np.int8)
    second = draw.integers(-7, 8, (8, 8, 3, 3)).astype(np.int8)
    nodes = (
        conv2d("image", "conv1", first, padding=(1, 1, 1, 1)),
        pact("conv1", "act1", slopes, draw.uniform(0.3, 0.8, 8), bits=4, alpha=2.0),
        conv2d("act1", "conv2", second, stride=(2, 2), padding=(1, 1, 1, 1)),
        pact("conv2", "act2", draw.uniform(0.001, 0.003, 8), draw.uniform(0.2, 0.9, 8), bits=4, alpha=2.0),
        sum_pool("act2", "pooled", kernel=(4, 4), stride=(4, 4)),
        reshape("pooled", "flat", 32),
        dense("flat", "sums", draw.integers(-7, 8, (len(LABELS), 32)).astype(np.int8)),
        affine("sums", "logits", np.full(len(LABELS), 0.004), np.zeros(len(LABELS))),
    )
    return Program((image_input((3, 16, 16)),), nodes, ("logits", "sums"), {"labels": list(LABELS)})


def colour_network_file(folder: Path) -> Path:
    path = folder / "colour.program"
    path.write_bytes(program_bytes(colour_network()))
    return path


def photographs(count: int) -> list[Codes]:
    """Real photographs, 320x240 of the middle of each; the test is skipped where they are missing."""
    folder = Path(os.environ.get("BITLENS_DATA", "")) / "photos"
    paths = sorted(folder.glob("*.jpg"))[:count] if os.environ.get("BITLENS_DATA") else []
    if len(paths) < count:
        pytest.skip("BITLENS_DATA names no folder with photos/*.jpg")
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            left, top = (picture.width - 320) // 2, (picture.height - 240) // 2
            pictures.append(np.asarray(picture.convert("RGB").crop((left, top, left + 320, top + 240))))
    return pictures


def scenes(count: int) -> list[Codes]:
    """Pictures that need no data, each clearly another one."""
    return [synthetic_frame(40 * number) for number in range(count)]


def write_video(path: Path, frames: Sequence[Codes], codec: str, rate: float = 10.0) -> Path:
    cv2 = pytest.importorskip("cv2")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def wait_for(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class RunningDemo:
    process: subprocess.Popen[str]
    address: str
    said: tuple[str, ...]

    @property
    def port(self) -> int:
        found = re.search(r":(\d+)/", self.address)
        assert found
        return int(found[1])

    def interrupt(self) -> tuple[int, str]:
        """End it as Ctrl-C does; exit code and what it said at last."""
        self.process.send_signal(signal.SIGINT)
        rest = self.process.communicate(timeout=PATIENCE_SECONDS)[0]
        return self.process.returncode, rest


@contextmanager
def running_demo(*arguments: str, folder: Path, port: int = 0) -> Iterator[RunningDemo]:
    """`bitlens demo` in a process of its own; killed in the end if it still runs."""
    command = [sys.executable, "-W", "error", "-m", "bitlens.runtime.cli", "demo", *arguments, "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        said: list[str] = []
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        addresses = [line.strip() for line in said if line.strip().startswith("http://")]
        assert addresses, said
        yield RunningDemo(process, addresses[0], tuple(said))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def camera_process(*command: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A camera on the network, in a process that can be killed; with its port, which it says first."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def mjpeg_server(port: int = 0) -> AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """A camera that speaks HTTP, see `camera_process`."""
    return camera_process(sys.executable, MJPEG_SERVER, port)


def rtsp_server(
    film: Path, user: str = "", password: str = "", port: int = 0
) -> AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """A camera that speaks RTSP, see `camera_process`. Its film is over after a while."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True).returncode:
        pytest.skip("no RTSP server here: `apt install gir1.2-gst-rtsp-server-1.0 python3-gi`")
    return camera_process(SYSTEM_PYTHON, RTSP_SERVER, port, film, user, password)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `bitlens` says when it refuses these arguments."""
    answer = answered(capsys, *arguments)
    check_refused(answer)
    return answer.err
