"""`bitlens demo` as a command."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from live_place import PATIENCE_SECONDS, colour_network_file, refusal, running_demo, scenes

from bitlens.runtime import cli
from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.live import default_source, open_source, server
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.session import Session
from bitlens.runtime.live.window import window_library, wishes_of_key
from bitlens.runtime.network import open_network
from bitlens.runtime.verbs import demo as demo_verb


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return colour_network_file(tmp_path)


def test_a_headless_board_prints_the_address_and_ends_cleanly(network: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path) as demo:
        assert demo.said[0] == "colour.program on native, not verified here" or "reference" in demo.said[0]
        assert "Only this machine can open it." in demo.said
        assert demo.interrupt() == (0, "ended\n")


def test_a_service_manager_ends_it_too(network: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path) as demo:
        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.communicate(timeout=PATIENCE_SECONDS)[0] == "ended\n"
        assert demo.process.returncode == 0


def test_without_a_source_it_says_what_it_took_and_why(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(default_source.camera_source, "camera_numbers", lambda: [])
    parser, _ = cli.build_parser()
    demo = demo_verb.opened_demo(parser.parse_args(["demo", str(network)]))
    assert demo.bulletin.news.source.title == "synthetic"
    assert "--source synthetic, because there is no camera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "nowhere"), "no source 'nowhere': expected one of"),
        (("--source", "synthetic", "--method", "guess"), "unknown method"),
        (("--source", "synthetic", "--target", "unicorn"), "no class"),
        (("--source", "synthetic", "--layer", "act9"), "choose from act1, act2"),
        (("--source", "synthetic", "--port", "123456"), "expected 0 to 65535"),
        (("--source", "synthetic", "--host", "192.0.2.7"), "another --host"),
        (("--source", "synthetic", "--certificate", "nothing.json"), "nothing.json"),
        (("--source", "synthetic", "--engine", "onnxruntime"), "onnxruntime"),
    ],
)
def test_demo_refused(
    arguments: tuple[str, ...], message: str, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    assert message in refusal(capsys, "demo", str(network), *arguments)


def test_demo_without_the_web_packages(
    network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise MissingExtraError("the page", "starlette", "web")

    monkeypatch.setattr(server, "check_web", missing)
    assert "pip install 'bitlens[web]'" in refusal(capsys, "demo", str(network), "--source", "synthetic")


def test_a_browser_opens_where_there_is_a_display(
    network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(demo_verb.webbrowser, "open", opened.append)
    parser, _ = cli.build_parser()
    arguments = ["demo", str(network), "--source", "synthetic"]
    demo = demo_verb.opened_demo(parser.parse_args(arguments))
    for display, options in ((":0", []), (":0", ["--no-browser"]), ("", [])):
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        demo_verb.announce(parser.parse_args([*arguments, *options]), demo, ["http://here/"], needs_token=False)
        for thread in threading.enumerate():
            if thread.name == "browser":
                thread.join()
    assert opened == ["http://here/"]
    assert capsys.readouterr().out.count("http://here/") == 3


def test_who_has_just_installed_it_is_told_how_to_verify(capsys: pytest.CaptureFixture[str]) -> None:
    parser, _ = cli.build_parser()
    arguments = parser.parse_args(["demo", "--source", "synthetic", "--engine", "reference", "--no-browser"])
    demo_verb.announce(arguments, demo_verb.opened_demo(arguments), ["http://here/"], needs_token=False)
    assert "on reference, not verified here: press v on the page to verify it" in capsys.readouterr().out


def test_a_window_needs_an_opencv_with_windows(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    with pytest.raises(BitlensError, match=r"bitlens\[window\]"):
        window_library()
    assert "bitlens[window]" in refusal(capsys, "demo", str(network), "--source", "synthetic", "--window")


def test_keys_of_the_window(network: Path, tmp_path: Path) -> None:
    opened = open_network(network)
    session = Session(opened, open_engine(opened, "reference"), "gradient", None, None)
    demo = LiveDemo(session, "x", lambda: open_source("synthetic"), certificate=None, snapshots=tmp_path)
    for key in "mtt ":
        demo.choose(wishes_of_key(ord(key), demo))
    settings = demo.session.settings
    assert (settings.method, settings.target, settings.is_frozen) == ("gradient_x_input", 1, True)
    for _ in range(len(session.labels) - 1):
        demo.choose(wishes_of_key(ord("t"), demo))
    assert demo.session.settings.target is None
    assert wishes_of_key(255, demo) == {}


def test_the_window_shows_picture_map_and_lines(network: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from bitlens.runtime.live.explainer_loop import explained
    from bitlens.runtime.live.frame import Frame
    from bitlens.runtime.live.window import SIDE, window_picture

    opened = open_network(network)
    engine = open_engine(opened, "reference")
    session = Session(opened, engine, "grad_cam", None, None)
    demo = LiveDemo(session, "x", lambda: open_source("synthetic"), certificate=None, snapshots=tmp_path)
    seen = explained(engine, Frame(1, "", scenes(1)[0]), session.settings)
    bare, mixed = (window_picture(cv2, seen, demo, opacity) for opacity in (0.0, 0.5))
    assert bare.shape[1] == SIDE
    assert bare.shape[0] > SIDE
    assert (bare[:SIDE] != mixed[:SIDE]).any()
    np.testing.assert_array_equal(bare[SIDE:], mixed[SIDE:])
    assert (bare[SIDE:] > 200).any()  # writing
