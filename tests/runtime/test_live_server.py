"""The page's server, over a real socket: who comes in, what goes out, and that nothing odd harms it."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served_demo
from exported_network import exported_network
from live_place import colour_network_file, wait_for
from served_demo import Served

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.live import open_source, server
from bitlens.runtime.live.door import Door, addresses, door_for
from bitlens.runtime.live.server import PAGE, check_web, listening_socket

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

TOKEN = "only-those-who-were-told"


def served_below(folder: Path, token: str = "") -> Served:
    return Served(colour_network_file(folder), folder / "snapshots", token)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = served_below(tmp_path_factory.mktemp("served"))
    wait_for(lambda: place.demo.bulletin.news.explained, "the first explanation")
    yield place
    place.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = served_below(tmp_path_factory.mktemp("guarded"), TOKEN)
    yield place
    place.stop()


def news_of(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    (length,) = struct.unpack_from("<I", content)
    facts = json.loads(content[4 : 4 + length])
    parts, at = [], 4 + length
    for size in facts["parts"]:
        parts.append(content[at : at + size])
        at += size
    assert at == len(content)
    return facts, parts


# What goes out.


def test_the_page_asks_nobody_else() -> None:
    text = "".join(path.read_text() for path in PAGE.iterdir())
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []  # a name of XML, nothing is fetched
    assert "innerHTML" not in text
    assert " style=" not in (PAGE / "index.html").read_text()  # the policy would refuse it
    assert " on" not in re.sub(r">[^<]*<", "><", (PAGE / "index.html").read_text())


def test_every_element_that_the_script_names_is_there() -> None:
    ids = re.findall(r'\bid="([\w-]+)"', (PAGE / "index.html").read_text())
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'(?:element|put|fill|next)\("([\w-]+)"', (PAGE / "page.js").read_text()))
    assert named <= set(ids)
    assert len(named) > 20
    fields = re.findall(r'\bfor="([\w-]+)"', (PAGE / "index.html").read_text())
    assert set(fields) <= set(ids)


def test_files_and_their_headers(served: Served) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, content = served.ask("GET", path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert content
    assert served.ask("GET", "/../server.py")[0] == 404
    assert served.ask("GET", "/page/index.html")[0] == 404


def test_news_belong_together(served: Served) -> None:
    about = json.loads(served.ask("GET", "/about")[2])
    status, _, content = served.ask("GET", f"/news?run={about['run']}&version=0&seen=0")
    assert status == 200
    facts, parts = news_of(content)
    jpeg, colours, image = parts
    assert jpeg[:2] == b"\xff\xd8"
    assert len(colours) == 16 * 16
    assert len(image) == 3 * 16 * 16
    assert facts["explained"]["frame"] > 0
    shares = [each["softmax"] for each in facts["explained"]["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 5
    # What was seen is not sent again.
    facts, parts = news_of(served.ask("GET", f"/news?run={about['run']}&version=0&seen={10**9}")[2])
    assert parts == []
    assert {each["name"] for each in about["methods"]} >= {"gradient", "rise"}


def test_numbers_of_another_run_count_for_nothing(served: Served) -> None:
    facts, parts = news_of(served.ask("GET", f"/news?run=another&version={10**9}&seen={10**9}")[2])
    assert len(parts) == 3
    assert facts["run"] != "another"


@pytest.mark.parametrize("query", ["", "version=x&seen=-3", "version=" + "9" * 400, "version=%00&run=%ff&seen=1e9"])
def test_odd_queries(served: Served, query: str) -> None:
    status, _, content = served.ask("GET", f"/news?{query}")
    assert status == 200
    assert news_of(content)[0]["version"] >= 0


def test_the_first_news_do_not_wait_for_something_to_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = threading.Event()
    monkeypatch.setattr(server, "WAIT_SECONDS", 3600.0)
    monkeypatch.setattr(served_demo, "open_source", lambda text: opens.wait() and open_source(text))
    place = Served(colour_network_file(tmp_path), tmp_path)
    try:
        run = json.loads(place.ask("GET", "/about")[2])["run"]
        facts = news_of(place.ask("GET", f"/news?run={run}&version=-1&seen=0")[2])[0]
        assert facts["source"]["condition"] == "opening"
    finally:
        opens.set()
        place.stop()


def test_the_source_as_it_is_now(served: Served) -> None:
    status, headers, content = served.ask("GET", "/camera?frame=0")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert int(headers["x-frame"]) > 0
    assert content[:2] == b"\xff\xd8"


def test_another_method_gives_another_map(served: Served) -> None:
    before = news_of(served.ask("GET", "/news")[2])[1][1]
    assert served.choose({"method": "grad_cam", "frozen": True})[0] == 200

    def method() -> str:
        return str(news_of(served.ask("GET", "/news")[2])[0]["explained"]["method"])

    wait_for(lambda: method() == "grad_cam", "the method")
    assert news_of(served.ask("GET", "/news")[2])[1][1] != before
    assert served.choose({"method": "gradient", "frozen": False})[0] == 200


def test_a_snapshot_in_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9\n")  # no text in UTF-8
    place = Served(colour_network_file(tmp_path), folder)
    try:
        wait_for(lambda: place.demo.bulletin.news.explained, "the first explanation")
        status, _, content = place.post("/snapshot", {})
        assert status == 200
        assert "caf" in json.loads(content)["folder"]
        assert (next(folder.iterdir()) / "snapshot.json").is_file()
    finally:
        place.stop()


def test_a_snapshot_and_not_too_many(served: Served) -> None:
    origin = f"http://127.0.0.1:{served.port}"
    status, _, content = served.ask("POST", "/snapshot", b"{}", Origin=origin)
    assert status == 200
    folder = Path(json.loads(content)["folder"])
    assert (folder / "snapshot.json").is_file()
    assert served.ask("POST", "/snapshot", b"{}", Origin=origin)[0] == 429
    assert len(list(folder.parent.iterdir())) == 1


# What comes in.


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON object"),
        (b"[1]", "JSON object"),
        (b"{", "JSON object"),
        (b"[" * 4000, "JSON object"),
        (b'{"method": NaN}', "expected a name"),
        (b"\xff\xfe{}", "JSON object"),
        (b'{"method": "../../etc/passwd"}', "unknown method"),
        (b'{"folder": "/etc"}', "no setting"),
        (b'{"target": 1e400}', "no class"),
        (b" " * 5000, "at most 4096 bytes"),
    ],
)
def test_odd_settings_are_refused_in_one_sentence(served: Served, body: bytes, message: str) -> None:
    before = served.demo.session.settings
    origin = f"http://127.0.0.1:{served.port}"
    status, _, content = served.ask("POST", "/settings", body, Origin=origin, Content_Type="application/json")
    assert status == 400
    assert message in json.loads(content)["error"]
    assert served.demo.session.settings == before


def test_settings_must_say_what_they_are(served: Served) -> None:
    assert served.choose({"method": "rise"}, Content_Type="text/plain")[0] == 400  # what a form of another page sends


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example",
        "[::1",
        "[::1]x",
        "",
        "localhost:{port}x",
    ],
)
def test_another_host_is_turned_away(served: Served, host: str) -> None:
    assert served.ask("GET", "/about", Host=host.format(port=served.port))[0] in (400, 403)


@pytest.mark.parametrize(
    "host", ["localhost:{port}", "127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}", "localhost:9000"]
)
def test_own_hosts_come_in(served: Served, host: str) -> None:
    assert served.ask("GET", "/about", Host=host.format(port=served.port))[0] == 200


def test_another_origin_changes_nothing(served: Served) -> None:
    before = served.demo.session.settings
    for origin in ("http://evil.example", "null", f"http://localhost:{served.port}", ""):
        assert served.choose({"method": "rise"}, Origin=origin)[0] == 403
    assert served.ask("POST", "/settings", b"{}", Content_Type="application/json")[0] == 403  # none at all
    assert served.ask("POST", "/snapshot", b"{}", Origin="http://evil.example")[0] == 403
    assert served.demo.session.settings == before


def test_another_page_cannot_embed_the_camera(served: Served) -> None:
    embedded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert served.ask("GET", "/camera", **embedded)[0] == 403
    assert served.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link


def test_no_websocket_and_no_other_method(served: Served) -> None:
    status, _, _ = served.ask(
        "GET", "/news", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Key="x", Sec_WebSocket_Version="13"
    )
    assert status == 200  # answered as the plain request it also is
    assert served.ask("DELETE", "/settings", Origin=f"http://127.0.0.1:{served.port}")[0] == 405


def test_viewers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = rooms_of(monkeypatch)
    place = served_below(tmp_path)
    far = f"/camera?run={json.loads(place.ask('GET', '/about')[2])['run']}&frame={10**12}"
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(place.ask("GET", far)[0])) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) == 8 and rooms[0].waiting == server.MOST_WAITING, "8 to be sent away")
    assert answers == 8 * [503]
    place.demo.say_over()  # lets them all go
    for thread in threads:
        thread.join()
    assert sorted(answers) == [*16 * [204], *8 * [503]]
    assert place.ask("GET", "/camera")[0] == 200  # and afterwards all is well
    place.stop()


def rooms_of(monkeypatch: pytest.MonkeyPatch) -> list[server.WaitingRoom]:
    """Where requests wait, of the servers that are made from now on."""
    rooms: list[server.WaitingRoom] = []
    make_room = server.WaitingRoom
    monkeypatch.setattr(server, "WaitingRoom", lambda most: rooms.append(make_room(most)) or rooms[-1])
    return rooms


def test_connections_that_say_nothing_do_not_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT_SECONDS", 0)  # each second
    place = served_below(tmp_path)
    try:
        silent = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(server.MOST_CONNECTIONS)]
        silent[0].sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert place.ask("GET", "/about")[0] == 503
        wait_for(lambda: place.ask("GET", "/about")[0] == 200, "a place")
        for each in silent:
            each.close()
    finally:
        place.stop()


def test_half_a_request_does_no_harm(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x")
        with socket.create_connection(("127.0.0.1", served.port)) as other:
            other.sendall(b"\x16\x03\x01\x02\x00" + bytes(200))
            other.shutdown(socket.SHUT_WR)
            assert b"400" in other.recv(100)
        assert served.ask("GET", "/about")[0] == 200


# Verifying the engine.


def test_verify_is_asked_for_like_everything_else(served: Served, guarded: Served) -> None:
    assert served.post("/verify", {}, Origin="http://evil.example")[0] == 403
    assert served.ask("POST", "/verify", b"{}", Content_Type="application/json")[0] == 403  # no Origin
    assert served.post("/verify", {}, Content_Type="text/plain")[0] == 400
    assert served.post("/verify", " " * 5000)[0] == 400
    assert served.post("/verify", [1])[0] == 400
    assert served.ask("GET", "/verify")[0] == 405
    assert guarded.post("/verify", {})[0] == 401
    assert served.demo.bulletin.news.verification is None
    status, _, content = served.post("/verify", {})  # a bare program
    assert status == 400
    assert "no golden inputs" in json.loads(content)["error"]
    assert "no golden inputs" in news_of(served.ask("GET", "/news")[2])[0]["why_not_verifiable"]


def test_verify_turns_the_badge_in_the_news(tmp_path: Path) -> None:
    place = Served(exported_network(tmp_path), tmp_path)
    try:
        assert news_of(place.ask("GET", "/news")[2])[0]["badge"]["kind"] == "none"
        assert place.post("/verify", {})[0] == 200
        facts = news_of(place.ask("GET", "/news")[2])[0]
        assert facts["verification"]["engine"] == "reference"

        def kind() -> str:
            return str(news_of(place.ask("GET", "/news")[2])[0]["badge"]["kind"])

        wait_for(lambda: kind() == "here", "the badge")
        facts = news_of(place.ask("GET", "/news")[2])[0]
        assert "0 of" in facts["badge"]["reason"]
        assert facts["verification"]["outcome"].startswith("reference: parity verified")
    finally:
        place.stop()


# The token.


def test_the_token_is_demanded(guarded: Served) -> None:
    for path in ("/", "/about", "/news", "/camera", "/page.js", "/?token=", "/?token=wrong", "/about?token=" + TOKEN):
        assert guarded.ask("GET", path)[0] == 401, path
    assert b"token" in guarded.ask("GET", "/")[2]
    assert b"another start" not in guarded.ask("GET", "/")[2]
    assert b"another start" in guarded.ask("GET", "/?token=wrong")[2]
    assert TOKEN.encode() not in guarded.ask("GET", "/")[2]
    assert guarded.choose({"method": "rise"})[0] == 401
    assert guarded.ask("GET", "/about", Authorization="Bearer wrong")[0] == 401
    assert guarded.ask("GET", "/about", Cookie=f"bitlens-{guarded.port}=")[0] == 401
    assert guarded.ask("GET", "/about", Cookie="=;;\x01=\xe9")[0] == 401


def test_the_token_opens_and_goes_into_a_cookie(guarded: Served) -> None:
    status, headers, _ = guarded.ask("GET", f"/?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")  # away from the address bar
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite" in cookie.lower()
    assert guarded.ask("GET", "/about", Cookie=cookie.split(";")[0])[0] == 200
    # Also for who opens the printed address once more.
    assert guarded.ask("GET", f"/?token={TOKEN}", Cookie=cookie.split(";")[0])[0] == 303
    # Cookies know no ports: another program of this host may have set some that no standard knows.
    odd = f'theme={{"dark": [1, "é"]}}; ; =x; {cookie.split(";")[0]}; last'
    assert guarded.ask("GET", "/about", Cookie=odd)[0] == 200
    assert guarded.ask("GET", "/about", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded.ask("GET", "/about", Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 403


def test_only_an_address_that_others_reach_has_a_token() -> None:
    with listening_socket("127.0.0.1", 0) as here, listening_socket("0.0.0.0", 0) as everywhere:
        assert door_for("127.0.0.1", here).token == ""
        door, again = door_for("0.0.0.0", everywhere), door_for("0.0.0.0", everywhere)
    assert len(door.token) >= 20
    assert door.token != again.token
    assert all(door.token in address for address in addresses("0.0.0.0", door))
    assert addresses("127.0.0.1", Door(80, "", frozenset())) == ["http://127.0.0.1:80/"]
    assert addresses("::1", Door(8765, "", frozenset())) == ["http://[::1]:8765/"]


def test_a_host_name_with_a_domain_is_known_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Board.example.net")
    with listening_socket("0.0.0.0", 0) as everywhere:
        door = door_for("0.0.0.0", everywhere)
    assert {"board", "board.local", "board.example.net"} <= door.names  # what mDNS and a resolver may call it
    assert any("//board.local:" in address for address in addresses("0.0.0.0", door))


@pytest.mark.parametrize(
    ("host", "port"), [("no-such-host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000), ("", -1)]
)
def test_where_nobody_can_listen(host: str, port: int) -> None:
    with pytest.raises(BitlensError, match="--port"):
        listening_socket(host, port)


def test_a_port_in_use() -> None:
    with listening_socket("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(BitlensError, match=r"in use.*--port"):
            listening_socket("127.0.0.1", bound.getsockname()[1])


def test_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "uvicorn":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"bitlens\[web\]"):
        check_web()


def test_stopping_answers_who_waits_and_ends_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = rooms_of(monkeypatch)
    before = set(threading.enumerate())
    place = served_below(tmp_path)
    wait_for(lambda: place.demo.bulletin.news.explained, "the first explanation")
    place.demo.choose({"frozen": True})
    answers: list[tuple[int, Any, bytes]] = []
    run = json.loads(place.ask("GET", "/about")[2])["run"]
    waiting = threading.Thread(
        target=lambda: answers.append(place.ask("GET", f"/news?run={run}&version={10**9}&seen={10**9}"))
    )
    waiting.start()
    wait_for(lambda: rooms[0].waiting, "the request to be taken")
    place.stop()
    waiting.join()
    assert news_of(answers[0][2])[0]["is_over"]
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {"capture", "explainer", "board", "page"} & left
    assert np.isfinite(place.demo.explainer.rate.per_second(0.0))
