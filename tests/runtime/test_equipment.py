"""What `bitlens doctor` finds besides engines, and what it advises where something is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bitlens.runtime import equipment as equipment_module
from bitlens.runtime.board_state import BoardState
from bitlens.runtime.equipment import Equipment, equipment
from bitlens.runtime.verbs.doctor import diagnosed, diagnosis_lines

PI = "Raspberry Pi 5 Model B Rev 1.0"


def by_name(found: tuple[Equipment, ...]) -> dict[str, Equipment]:
    names = {each.name: each for each in found}
    assert len(names) == len(found)
    return names


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(equipment_module, "find_spec", lambda _: None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "dev").mkdir()
    return tmp_path


def looked(place: Path, board: str = "", **variables: str) -> dict[str, Equipment]:
    places = {"devices": place / "dev", "video": place / "video4linux", "systemd": place / "systemd"}
    found = equipment(board, **places, environment=variables)
    return by_name(found)


def test_a_bare_machine(bare: Path) -> None:
    for board in ("", PI):
        found = looked(bare, board)
        assert all(each.purpose and each.remedy and not each.found for each in found.values())
    assert "libraspberrypi-bin" in looked(bare, PI)["vcgencmd"].remedy
    assert "--system-site-packages" in looked(bare, PI)["picamera2"].remedy
    assert (
        looked(bare)["picamera2"].remedy
        == looked(bare)["vcgencmd"].remedy
        == "for a Raspberry Pi alone, which this is not"
    )
    assert looked(bare)["web server"].remedy == "pip install 'bitlens[web]'"


def test_a_machine_with_everything(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equipment_module, "find_spec", lambda name: name)
    for name in ("ssh", "rsync", "vcgencmd"):
        program = bare / "bin" / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ("video10", "video2", "video0", "videos"):
        (bare / "dev" / name).touch()
    (bare / "systemd").mkdir()
    found = looked(bare, PI, DISPLAY=":0")
    assert all(each.found and not each.remedy for each in found.values())
    assert found["camera"].found == "video0, video2, video10"
    assert found["display"].found == "DISPLAY=:0"
    assert looked(bare, PI, DISPLAY=":0", WAYLAND_DISPLAY="wayland-0")["display"].found == "WAYLAND_DISPLAY=wayland-0"
    assert not looked(bare, PI, DISPLAY="\x1b[2J")["display"].found


def test_half_a_web_server_is_none(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equipment_module, "find_spec", lambda name: None if name == "starlette" else name)
    assert not looked(bare)["web server"].found


def test_what_decodes_and_scales_is_no_camera(bare: Path) -> None:
    """Every Raspberry Pi has such video devices, with a camera and without."""
    named = {"video10": "bcm2835-codec-decode", "video13": "bcm2835-isp-output0", "video19": "rpi-hevc-dec"}
    for node, name in named.items():
        (bare / "dev" / node).touch()
        (bare / "video4linux" / node).mkdir(parents=True)
        (bare / "video4linux" / node / "name").write_text(f"{name}\n")
    assert "plug in a USB camera" in looked(bare, PI)["camera"].remedy
    (bare / "video4linux" / "video13" / "name").write_text("HD Webcam C270\n")
    (bare / "dev" / "video20").touch()
    assert looked(bare, PI)["camera"].found == "video13 (HD Webcam C270), video20"


def test_a_camera_that_may_not_be_opened(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "dev" / "video0").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may open everything
    assert "usermod -aG video" in looked(bare)["camera"].remedy


def test_a_module_without_a_spec_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert not by_name(equipment())["OpenCV"].found


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (BoardState(None, None, ""), "says nothing of its temperature"),
        (BoardState(48.25, 0, "ondemand"), "48.2 \N{DEGREE SIGN}C, governor ondemand, not slowed down"),
        (BoardState(85.0, 0x4, ""), "slowed down (throttled): a fan"),
        (BoardState(50.0, 0x10000, ""), "slowed down (under-voltage since the start)"),
    ],
)
def test_doctor_says_it(state: BoardState, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitlens.runtime.verbs.doctor.board_state", lambda: state)
    lines = "\n".join(diagnosis_lines(diagnosed())).splitlines()
    assert said in " ".join(" ".join(lines).split())
    assert all(len(line) <= 100 or "/" in line for line in lines)  # a path is not broken
    for name in ("camera", "picamera2", "web server", "display", "vcgencmd", "systemd", "ssh"):
        assert any(line.startswith(f"  {name} ") for line in lines)
