"""The page in a real browser: Debian's Chromium, driven by Playwright; nothing is downloaded for it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_network import exported_network
from live_place import colour_network_file, mjpeg_server, running_demo, scenes, wait_for
from PIL import Image
from served_demo import Served
from tampered_engine import with_codes_off

from bitlens.runtime.engines import ENGINES, Engine, present_engines
from bitlens.runtime.live import folder_source
from bitlens.runtime.live.server import PAGE
from bitlens.runtime.network import Network, open_network

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
playwright_sync = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOWN = "#frame[data-number]"
# What a process may grow by while it watches: buffers that the allocator keeps, not frames, of which each takes 0.2 MB.
GROWTH_BYTES, LEAST_FRAMES = 12 * 2**20, 100
LAST_TO_WATCH = "integrated_gradients"  # those after it take thousands of passes

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


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_network_file(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def shared_demo(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = Served(network, tmp_path_factory.mktemp("snapshots"))
    yield place
    place.stop()


@pytest.fixture
def served(shared_demo: Served) -> Served:
    """A demo that runs in this process, as it is when it begins."""
    shared_demo.demo.choose(
        {"method": "gradient", "target": "predicted", "layer": None, "engine": "reference", "frozen": False}
    )
    return shared_demo


def number_of(page: Any) -> int:
    return int(page.locator("#frame").get_attribute("data-number"))


def pixels_of(page: Any, canvas: str) -> np.ndarray:
    return np.array(page.evaluate(PIXELS, canvas), np.uint8)


def fingerprint_of(page: Any, canvas: str) -> int:
    return int(page.evaluate(FINGERPRINT, canvas))


def number_in(page: Any, name: str) -> float:
    text = page.locator(f"#{name}").inner_text()
    return 0.0 if text == "\N{EN DASH}" else float(text)


def notice_of(page: Any) -> str:
    return str(page.locator("#notice").inner_text())


def test_the_stream_moves(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.address)
    page.wait_for_selector(SHOWN)
    number, picture, camera = number_of(page), fingerprint_of(page, "picture"), fingerprint_of(page, "camera")
    wait_for(lambda: number_of(page) > number + 5, "newer frames")
    assert fingerprint_of(page, "picture") != picture
    wait_for(lambda: fingerprint_of(page, "camera") != camera, "the source beside it")
    assert page.locator("#classes li").count() == 5
    wait_for(lambda: "%" in page.locator("#classes li").first.inner_text(), "the first bar")
    for name in ("forward", "map-time", "explained-rate", "source-rate"):
        wait_for(lambda name=name: number_in(page, name) > 0, name)
    assert page.locator("#badge-text").inner_text() == "not verified here"
    assert "red up" in page.locator("#meaning").inner_text()


def test_a_method_change_changes_the_map(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.address)
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
    others = [name for name in present_engines(served.demo.session.network) if name != "reference"]
    for name in others[:1]:
        page.locator("#engine").select_option(name)
        wait_for(lambda name=name: served.demo.bulletin.news.explained.engine.name == name, "another engine")


def test_the_keyboard_is_enough(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.address)
    page.wait_for_selector("#frame[data-method=gradient]")
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
    (folder,) = served.demo.snapshots.iterdir()
    assert (folder / "map.npy").is_file()
    page.keyboard.press("v")
    wait_for(lambda: "no golden inputs" in page.locator("#said").inner_text(), "why a bare program is not verified")
    # Every control has a name.
    names = page.evaluate(
        "[...document.querySelectorAll('button, select, input, progress')].map(each => each.labels?.[0]?.textContent"
        " || each.textContent || each.ariaLabel || each.getAttribute('aria-labelledby'))"
    )
    assert all(name.strip() for name in names)
    page.locator("details.keys summary").click()
    page.locator("#shortcuts").uncheck()
    page.locator("h1").click()
    page.keyboard.press("f")
    page.locator("#method").select_option("grad_cam")  # sent after it, had it been sent
    page.wait_for_selector("#frame[data-method=grad_cam]")
    assert page.locator("#freeze").get_attribute("aria-pressed") == "true"  # keys are off


def test_what_is_chosen_last_holds(
    served: Served, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(served.address)
    page.wait_for_selector("#frame[data-method=gradient]")
    choose, asked, done = served.demo.choose, [], []

    def late(wishes: Mapping[str, object]) -> None:
        asked.append(wishes["method"])
        if len(asked) == 1:  # the first takes longer than the others
            time.sleep(0.5)
        choose(wishes)
        done.append(wishes["method"])

    monkeypatch.setattr(served.demo, "choose", late)
    for _ in range(3):
        page.keyboard.press("m")
    assert page.locator("#method").input_value() == "smoothgrad_squared"
    wait_for(lambda: len(done) == 3, "three choices")
    assert done == asked == ["gradient_x_input", "smoothgrad", "smoothgrad_squared"]
    page.wait_for_selector("#frame[data-method=smoothgrad_squared]")


def test_older_news_do_not_set_a_choice_back(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.address)
    page.wait_for_selector("#frame[data-method=gradient]")
    held: list[int] = []

    def late(route: Any) -> None:
        if held:
            return  # nothing comes after it
        answer = route.fetch()  # from before the key is pressed
        (length,) = struct.unpack_from("<I", answer.body())
        held.append(json.loads(answer.body()[4 : 4 + length])["explained"]["frame"])
        with page.expect_response("**/settings"):
            page.keyboard.press("m")
        page.wait_for_timeout(100)
        route.fulfill(response=answer)

    page.route("**/news?*", late)
    wait_for(lambda: page.wait_for_timeout(20) or (held and number_of(page) == held[0]), "news that come late")
    assert page.locator("#method").input_value() == "gradient_x_input"
    page.unroute_all(behavior="ignoreErrors")


def test_a_key_that_is_held_down_chooses_once(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.address)
    page.wait_for_selector("#frame[data-method=gradient]")
    for _ in range(3):  # the second and third are repeats
        page.keyboard.down("m")
    page.keyboard.up("m")
    assert page.locator("#method").input_value() == "gradient_x_input"


def test_a_camera_that_is_refused_is_not_asked_for_without_a_pause(
    served: Served, open_page: Callable[..., Any]
) -> None:
    asked: list[int] = []
    page = open_page("about:blank")
    page.route("**/camera?*", lambda route: asked.append(1) or route.fulfill(status=500))
    page.goto(served.address)
    page.wait_for_selector(SHOWN)
    number = number_of(page)
    wait_for(lambda: page.wait_for_timeout(20) or number_of(page) > number + 10, "newer frames")
    assert 1 <= len(asked) < 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(scheme: str, served: Served, open_page: Callable[..., Any]) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    page = open_page(served.address, **phone)
    page.wait_for_selector(SHOWN)
    assert page.evaluate("document.documentElement.scrollWidth") == 360  # nothing sticks out
    tops = page.evaluate("[...document.querySelectorAll('section')].map(each => each.getBoundingClientRect().top)")
    number = number_of(page)
    wait_for(lambda: number_of(page) > number + 5, "more frames")
    assert tops == page.evaluate(
        "[...document.querySelectorAll('section')].map(each => each.getBoundingClientRect().top)"
    )  # nothing jumps
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, select, .badge summary')].filter(each => each.offsetParent)"
        ".map(each => each.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 40  # pixels that a thumb can hit
    page.locator("#badge summary").tap()
    left, right = page.evaluate(
        "(({left, right}) => [left, right])(document.querySelector('.panel').getBoundingClientRect())"
    )
    assert 0 <= left < right <= 360


# The badge.


def test_the_badge_turns_when_it_is_pressed(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    place = Served(exported_network(tmp_path), tmp_path)
    try:
        phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
        page = open_page(place.address, **phone)
        page.wait_for_selector("#badge[data-kind=none]")
        assert page.locator("#badge-text").inner_text() == "not verified here"
        page.locator("#badge summary").tap()
        page.locator("#verify").tap()
        page.wait_for_selector("#badge[data-kind=here]")
        assert page.locator("#badge-text").inner_text() == "parity verified"
        assert "0 of" in page.locator("#badge-reason").inner_text()
        assert "$ bitlens verify network.bitlens" in page.locator("#badge-commands").inner_text()
        assert "parity verified" in page.locator("#said").inner_text()
        assert not page.locator("#verify").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#badge-reason").is_visible()
    finally:
        place.stop()


def test_the_badge_tells_of_an_engine_that_computes_something_else(
    tmp_path: Path, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported_network(tmp_path)
    if "native" not in present_engines(open_network(path)):
        pytest.skip("no engine native here")
    entry, goes_on = ENGINES["native"], threading.Event()

    def open_tampered(network: Network, threads: int) -> Engine:
        return with_codes_off(entry.open(network, threads), goes_on)

    monkeypatch.setitem(ENGINES, "native", replace(entry, open=open_tampered))
    place = Served(path, tmp_path, engine="native")
    try:
        page = open_page(place.address)
        page.wait_for_selector(SHOWN)
        page.keyboard.press("v")
        page.wait_for_selector("#badge[data-kind=running]")
        assert "verifying" in page.locator("#badge-text").inner_text()
        number = number_of(page)
        wait_for(lambda: number_of(page) > number + 3, "that the picture goes on meanwhile")
        page.locator("#engine").select_option("reference")
        page.wait_for_selector("#badge[data-kind=none]")  # of the other engine, nothing is known
        page.locator("#badge summary").click()
        assert page.locator("#verify").is_disabled()
        assert "Verifying native" in page.locator("#verify").inner_text()
        goes_on.set()
        wait_for(lambda: "parity does not hold" in page.locator("#said").inner_text(), "the outcome")
        page.locator("#engine").select_option("native")
        page.wait_for_selector("#badge[data-kind=failed]")
        assert page.locator("#badge-text").inner_text() == "parity does not hold"
        assert "first at image 0" in page.locator("#badge-reason").inner_text()
    finally:
        goes_on.set()
        place.stop()


# The token, and what comes back.


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
        demo = Served(network, tmp_path, source=address)
        try:
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
        finally:
            demo.stop()


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
        wait_for(lambda: number_of(page) > 5, "some frames")
        code, said = demo.interrupt()
        assert (code, said) == (0, "ended\n")
        page.wait_for_selector("#frame[data-state=gone]")
        assert "again" in notice_of(page)
    before = number_of(page)
    again = Served(network, tmp_path, port=port)
    try:
        page.wait_for_selector("#frame[data-state=live]")
        wait_for(lambda: number_of(page) != before, "frames of the new run")
        number = number_of(page)
        wait_for(lambda: number_of(page) > number + 3, "that they move")
    finally:
        again.stop()


def test_a_still_folder_is_no_lost_source(
    network: Path, tmp_path: Path, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale_ms = re.search(r"STALE_MS = (\d+)", (PAGE / "page.js").read_text())
    assert stale_ms
    assert int(stale_ms[1]) > 2000 * folder_source.SECONDS_EACH  # one picture that comes late is no loss either
    monkeypatch.setattr(folder_source, "SECONDS_EACH", 0.2)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(scenes(1)[0]).save(tmp_path / "pictures" / "only.png")
    place = Served(network, tmp_path, source=str(tmp_path / "pictures"))
    try:
        page = open_page(place.address)
        page.wait_for_selector(SHOWN)
        number, picture = number_of(page), fingerprint_of(page, "picture")
        wait_for(lambda: number_of(page) > number + 3, "the same picture as new frames")
        assert fingerprint_of(page, "picture") == picture
        assert notice_of(page) == ""
    finally:
        place.stop()


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def soak(least_seconds: float, network: Path, folder: Path, open_page: Callable[..., Any]) -> tuple[int, int, int]:
    """Watch for a while and enough frames; resident bytes of the server after a warm-up and in the end, and frames."""
    with running_demo(str(network), "--source", "synthetic", "--method", "gradient", folder=folder) as demo:
        page = open_page(demo.address)
        page.wait_for_selector(SHOWN)

        def watch_each_method_once() -> None:
            page.locator("#method").select_option("gradient")
            page.wait_for_selector("#frame[data-method=gradient]")
            while page.locator("#method").input_value() != LAST_TO_WATCH:
                page.keyboard.press("m")  # each has its buffers
                page.wait_for_selector(f"#frame[data-method={page.locator('#method').input_value()}]")

        watch_each_method_once()
        first, number = resident_bytes(demo.process.pid), number_of(page)
        end = time.monotonic() + least_seconds
        while time.monotonic() < end or number_of(page) < number + LEAST_FRAMES:
            watch_each_method_once()
        last = resident_bytes(demo.process.pid)
        frames = number_of(page) - number
        assert demo.interrupt()[0] == 0
    return first, last, frames


@pytest.mark.parametrize("least_seconds", [0, pytest.param(30 * 60, marks=pytest.mark.long)], ids=["short", "long"])
def test_memory_stays_flat(least_seconds: int, network: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    first, last, frames = soak(least_seconds, network, tmp_path, open_page)
    print(f"{frames} frames: {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB")
    assert frames > least_seconds  # it did watch
    assert last - first < GROWTH_BYTES
