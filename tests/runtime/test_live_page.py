"""The page in a real browser: Debian's Chromium, driven by Playwright; nothing is downloaded for it."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_place import colour_network_file, mjpeg_server, running_demo, scenes, wait_for
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
playwright_sync = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOWN = "#frame[data-number]"
SHORT_SOAK_SECONDS, LONG_SOAK_SECONDS = 20, 30 * 60
# What a process may grow by while it watches: buffers that the allocator keeps, not frames, of which each takes 0.2 MB.
GROWTH_BYTES = 12 * 2**20

PIXELS = """id => { const canvas = document.getElementById(id);
  return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data); }"""

FINGERPRINT = """id => { const canvas = document.getElementById(id); let sum = 2166136261;
  for (const value of canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)
    sum = Math.imul(sum ^ value, 16777619) >>> 0;
  return sum; }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `apt install chromium`")
    with playwright_sync.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; at the end of the test the page must not have said anything in its console."""
    contexts, errors = [], []

    def opened(address: str, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each for each in errors if "Failed to load resource" not in each] == []


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return colour_network_file(tmp_path)


def number_of(page: Any) -> int:
    return int(page.locator("#frame").get_attribute("data-number"))


def pixels_of(page: Any, canvas: str) -> np.ndarray:
    return np.array(page.evaluate(PIXELS, canvas), np.uint8)


def fingerprint_of(page: Any, canvas: str) -> int:
    return int(page.evaluate(FINGERPRINT, canvas))


def notice_of(page: Any) -> str:
    return str(page.locator("#notice").inner_text())


def test_the_stream_moves(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)
        number, picture, camera = number_of(page), fingerprint_of(page, "picture"), fingerprint_of(page, "camera")
        wait_for(lambda: number_of(page) > number + 5, "newer frames")
        assert fingerprint_of(page, "picture") != picture
        wait_for(lambda: fingerprint_of(page, "camera") != camera, "the source beside it")
        assert page.locator("#classes li").count() == 5
        wait_for(lambda: "%" in page.locator("#classes li").first.inner_text(), "the first bar")
        for name in ("forward", "map-time", "explained-rate", "source-rate"):
            wait_for(lambda name=name: float(page.locator(f"#{name}").inner_text()) > 0, name)
        assert page.locator("#badge-text").inner_text() == "not verified here"
        assert "red up" in page.locator("#meaning").inner_text() or "GradCAM" in page.locator("#meaning").inner_text()


def test_a_method_change_changes_the_map(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with running_demo(str(network), "--source", "synthetic", "--method", "gradient", folder=tmp_path) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)
        page.locator("#freeze").click()
        page.wait_for_selector("#freeze[aria-pressed=true]")
        wait_for(lambda: page.locator("#frozen").is_visible(), "the sign that it is frozen")
        number, before, picture = number_of(page), pixels_of(page, "map"), fingerprint_of(page, "picture")
        page.locator("#method").select_option("grad_cam")
        page.wait_for_selector("#frame[data-method=grad_cam]")
        after = pixels_of(page, "map")
        assert number_of(page) == number  # another map of the same frame
        assert fingerprint_of(page, "picture") == picture
        assert (after != before).any()
        page.locator("#target").select_option("3")
        wait_for(lambda: (pixels_of(page, "map") != after).any(), "the map for another class")
        page.locator("#colours").select_option("grey")
        grey = pixels_of(page, "map").reshape(-1, 4)
        np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
        page.locator("#engine").select_option("reference")
        page.wait_for_selector("#frame[data-method=grad_cam]")


def test_the_keyboard_is_enough(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with running_demo(str(network), "--source", "synthetic", "--method", "gradient", folder=tmp_path) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)
        page.keyboard.press("m")
        page.wait_for_selector("#frame[data-method=gradient_x_input]")
        page.keyboard.press("Shift+M")
        page.wait_for_selector("#frame[data-method=gradient]")
        page.keyboard.press("t")
        wait_for(lambda: page.locator("#target").input_value() != "predicted", "the class to be kept")
        page.keyboard.press("]")
        assert page.locator("#opacity-value").inner_text() == "85 %"
        page.keyboard.press("f")
        page.wait_for_selector("#freeze[aria-pressed=true]")
        page.keyboard.press("s")
        wait_for(lambda: "Saved" in page.locator("#said").inner_text(), "the snapshot")
        (folder,) = (tmp_path / "snapshots").iterdir()
        assert (folder / "map.npy").is_file()
        # Every control is reached by the tab key and has a name.
        names = page.evaluate(
            "[...document.querySelectorAll('button, select, input')]"
            ".map(each => each.labels?.[0]?.textContent || each.textContent)"
        )
        assert all(name.strip() for name in names)
        page.locator("details.keys summary").click()
        page.locator("#shortcuts").uncheck()
        page.locator("h1").click()
        page.keyboard.press("f")
        time.sleep(0.5)
        assert page.locator("#freeze").get_attribute("aria-pressed") == "true"  # keys are off


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(scheme: str, network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path) as demo:
        phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "color_scheme": scheme}
        page = open_page(demo.address, **phone)
        page.wait_for_selector(SHOWN)
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # nothing sticks out
        tops = page.evaluate("[...document.querySelectorAll('section')].map(each => each.getBoundingClientRect().top)")
        wait_for(lambda: number_of(page) > 10, "more frames")
        assert tops == page.evaluate(
            "[...document.querySelectorAll('section')].map(each => each.getBoundingClientRect().top)"
        )  # nothing jumps
        sizes = page.evaluate(
            "[...document.querySelectorAll('button, select')].filter(each => each.offsetParent)"
            ".map(each => each.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 40  # pixels that a thumb can hit


def test_the_token_is_demanded(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with running_demo(str(network), "--source", "synthetic", "--host", "0.0.0.0", folder=tmp_path) as demo:
        token = demo.address.rpartition("token=")[2]
        assert len(token) >= 20
        assert sum(token in line for line in demo.said) >= 1
        place = f"http://127.0.0.1:{demo.port}/"
        page = open_page(place)
        assert "asks for the token" in page.locator("main").inner_text()
        assert page.locator("#frame").count() == 0
        page.locator("#token").fill("a guess")
        page.locator("button").click()
        assert "asks for the token" in page.locator("main").inner_text()
        page.locator("#token").fill(token)
        page.locator("button").click()
        page.wait_for_selector(SHOWN)
        assert page.url == place  # the token is not left in the address bar
        page.goto(place)
        page.wait_for_selector(SHOWN)  # and the cookie is enough


def test_a_killed_source_comes_back(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    pytest.importorskip("cv2")
    with mjpeg_server() as (camera, port):
        address = f"http://user:secret@127.0.0.1:{port}/stream"
        with running_demo(str(network), "--source", address, folder=tmp_path) as demo:
            page = open_page(demo.address)
            page.wait_for_selector(SHOWN)
            camera.kill()
            page.wait_for_selector("#frame[data-state=gone]")
            assert "Trying again" in notice_of(page)
            assert "secret" not in page.content()
            number = number_of(page)
            with mjpeg_server(port):
                page.wait_for_selector("#frame[data-state=live]")
                wait_for(lambda: number_of(page) > number + 3, "new frames")
                assert notice_of(page) == ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_page_comes_back_after_the_server_does(
    network: Path, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    port = free_port()
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path, port=port) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)
        wait_for(lambda: number_of(page) > 20, "some frames")
        code, said = demo.interrupt()
        assert (code, said) == (0, "ended\n")
        page.wait_for_selector("#frame[data-state=gone]")
        assert "again" in notice_of(page)
    before = number_of(page)
    with running_demo(str(network), "--source", "synthetic", folder=tmp_path, port=port):
        page.wait_for_selector("#frame[data-state=live]")
        wait_for(lambda: number_of(page) != before, "frames of the new run")
        number = number_of(page)
        wait_for(lambda: number_of(page) > number + 3, "that they move")


def test_a_still_folder_is_no_lost_source(network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(scenes(1)[0]).save(tmp_path / "pictures" / "only.png")
    with running_demo(str(network), "--source", "pictures", folder=tmp_path) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)
        time.sleep(6.0)  # longer than the page waits before it says that no picture comes
        assert notice_of(page) == ""


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def soak(seconds: float, network: Path, folder: Path, open_page: Callable[..., Any]) -> tuple[int, int, int]:
    """Watch for a while; resident bytes of the server after a warm-up and in the end, and frames seen."""
    with running_demo(str(network), "--source", "synthetic", folder=folder) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)

        def watch(duration_seconds: float) -> None:
            end = time.monotonic() + duration_seconds
            while time.monotonic() < end:
                page.keyboard.press("m")  # each method, each with its buffers
                time.sleep(0.5)
                if page.locator("#method").input_value() == "integrated_gradients":
                    page.locator("#method").select_option("gradient")

        watch(min(60.0, seconds / 3))
        first, number = resident_bytes(demo.process.pid), number_of(page)
        watch(seconds)
        last = resident_bytes(demo.process.pid)
        frames = number_of(page) - number
        assert demo.interrupt()[0] == 0
    return first, last, frames


@pytest.mark.parametrize(
    "seconds", [SHORT_SOAK_SECONDS, pytest.param(LONG_SOAK_SECONDS, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_memory_stays_flat(seconds: float, network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    first, last, frames = soak(seconds, network, tmp_path, open_page)
    print(f"{frames} frames in {seconds} s: {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB")
    assert frames > seconds  # it did watch
    assert last - first < GROWTH_BYTES
