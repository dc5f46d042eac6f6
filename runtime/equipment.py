"""What a machine can have besides engines: a camera, a display, programs; what it is for and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bitlens.runtime.board_state import device_line
from bitlens.runtime.errors import how_to_install

DEVICES = Path("/dev")
VIDEO = Path("/sys/class/video4linux")
SYSTEMD = Path("/run/systemd/system")
RASPBERRY_PI = "Raspberry Pi"

# Video devices that every Raspberry Pi has, without any camera: how its decoders, encoders and scalers are called.
_NO_CAMERAS = ("bcm2835-codec", "bcm2835-isp", "pispbe", "rpi-hevc", "rpivid")


@dataclass(frozen=True)
class Equipment:
    """One thing.

    Parameters
    ----------
    name : str
    purpose : str
        What it is for.
    found : str
        What there is of it; empty if nothing that can be used.
    remedy : str
        How to get it, or to do without; empty where it is found.
    """

    name: str
    purpose: str
    found: str
    remedy: str


def equipment(
    board: str = "",
    *,
    devices: Path = DEVICES,
    video: Path = VIDEO,
    systemd: Path = SYSTEMD,
    environment: Mapping[str, str] | None = None,
) -> tuple[Equipment, ...]:
    """Look for everything; nothing is opened or started.

    Parameters
    ----------
    board : str
        As the board calls itself, which says what it could have.
    devices, video, systemd : Path
        Where Linux shows its devices and what its video devices are called, and where systemd shows that it runs.
    environment : mapping, optional
        In place of the process's own.
    """
    variables = os.environ if environment is None else environment
    return (
        _camera(devices, video),
        _module("OpenCV", "cv2", "USB cameras and video files", how_to_install("camera")),
        _picamera2(board),
        _module("web server", "uvicorn", "the live page", how_to_install("web"), also="starlette"),
        _display(variables),
        _vcgencmd(board),
        _systemd(systemd),
        _program("ssh", "sending networks to other boards", "sudo apt install openssh-client"),
        _program("rsync", "going on with a copy that broke off; ssh alone copies too", "sudo apt install rsync"),
        _module("venv", "ensurepip", "an environment of its own for bitlens", "sudo apt install python3-venv"),
    )


def _of(name: str, purpose: str, found: str, remedy: str) -> Equipment:
    return Equipment(name, purpose, found, "" if found else remedy)


def _camera(devices: Path, video: Path) -> Equipment:
    numbered = [node for node in devices.glob("video*") if node.name[5:].isdecimal()]
    names = {node: device_line(video / node.name / "name") for node in numbered}
    nodes = sorted((node for node, name in names.items() if not name.startswith(_NO_CAMERAS)), key=_number)
    usable = [node for node in nodes if os.access(node, os.R_OK | os.W_OK)]
    if nodes and not usable:
        remedy = f"{nodes[0]} may not be opened by you: sudo usermod -aG video $USER, then log in again"
    else:
        remedy = "plug in a USB camera, or connect one to the camera port and restart; a video file does as well"
    found = (f"{node.name} ({names[node]})" if names[node] else node.name for node in usable)
    return _of("camera", "live pictures", ", ".join(found), remedy)


def _number(node: Path) -> int:
    return int(node.name.removeprefix("video"))


def _picamera2(board: str) -> Equipment:
    remedy = (
        "sudo apt install python3-picamera2, and make the environment with python3 -m venv --system-site-packages"
        if board.startswith(RASPBERRY_PI)
        else "for a Raspberry Pi alone, which this is not"
    )
    return _module("picamera2", "picamera2", "the camera at a Raspberry Pi's camera port", remedy)


def _vcgencmd(board: str) -> Equipment:
    remedy = (
        "sudo apt install raspi-utils (libraspberrypi-bin before bookworm)"
        if board.startswith(RASPBERRY_PI)
        else "for a Raspberry Pi alone, which this is not"
    )
    return _program("vcgencmd", "whether the board slows itself down", remedy)


def _display(environment: Mapping[str, str]) -> Equipment:
    found = next(
        (f"{name}={environment[name]}" for name in ("WAYLAND_DISPLAY", "DISPLAY") if environment.get(name)), ""
    )
    remedy = "none needed: a browser on another machine shows the live page"
    return _of("display", "a browser or a window on this machine", found if found.isprintable() else "", remedy)


def _systemd(running: Path) -> Equipment:
    remedy = "this system was not started by it (a container, say): start bitlens by other means"
    return _of("systemd", "starting with the machine", "running" if running.is_dir() else "", remedy)


def _module(name: str, module: str, purpose: str, remedy: str, *, also: str = "") -> Equipment:
    there = all(_is_there(each) for each in filter(None, (module, also)))
    return _of(name, purpose, "installed" if there else "", remedy)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module that was put there by hand may have no spec
        return False


def _program(name: str, purpose: str, remedy: str) -> Equipment:
    return _of(name, purpose, shutil.which(name) or "", remedy)
