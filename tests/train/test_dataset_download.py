"""Downloads, from a server on this machine; no test reaches the network."""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitlens.runtime.data_folder import cache_folder
from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import open_dataset
from bitlens.train.datasets.download import REMOTE_FILES, RemoteFile, download

CONTENT = bytes(range(256)) * 9000  # more than two chunks


class _Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def address(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of the folder `tmp_path/served`; `asked` lists the paths that were asked for."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BITLENS_DATA", raising=False)
    (tmp_path / "served").mkdir()
    handler = type("Handler", (_Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "served"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def remote(content: bytes, *urls: str, name: str = "file.bin") -> RemoteFile:
    return RemoteFile(name, urls, len(content), hashlib.sha256(content).hexdigest())


def ignore(line: str) -> None:
    pass


def test_a_file_is_downloaded_once(address: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "served" / "file.bin").write_bytes(CONTENT)
    lines: list[str] = []
    file = remote(CONTENT, address + "file.bin")
    path = download(file, tmp_path / "new" / "place", lines.append)
    assert path == tmp_path / "new" / "place" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert lines == [f"downloading {address}file.bin (2.3 MB) to {path}"]
    assert download(file, tmp_path / "new" / "place", lines.append) == path
    assert asked == ["/file.bin"]
    assert len(lines) == 1


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_damaged_copy_is_downloaded_again(damage: bytes, address: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "file.bin").write_bytes(CONTENT)
    (tmp_path / "file.bin").write_bytes(damage)
    download(remote(CONTENT, address + "file.bin"), tmp_path, ignore)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_the_next_address_is_tried(address: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "served" / "changed").write_bytes(CONTENT[::-1])
    (tmp_path / "served" / "sound").write_bytes(CONTENT)
    file = remote(CONTENT, address + "missing", "http://127.0.0.1:1/", address + "changed", address + "sound")
    assert download(file, tmp_path, ignore).read_bytes() == CONTENT
    assert asked == ["/missing", "/changed", "/sound"]


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (CONTENT[:-1], f"{len(CONTENT) - 1} bytes came, expected {len(CONTENT)}"),
        (CONTENT + b"x", f"more than {len(CONTENT)} bytes came, expected {len(CONTENT)}"),
        (CONTENT[::-1], "its sha256 is"),
        (None, "HTTP Error 404"),
    ],
)
def test_what_is_not_the_published_file_is_not_kept(
    served: bytes | None, message: str, address: str, tmp_path: Path
) -> None:
    if served is not None:
        (tmp_path / "served" / "file.bin").write_bytes(served)
    with pytest.raises(BitlensError, match=message):
        download(remote(CONTENT, address + "file.bin"), tmp_path / "place", ignore)
    assert not (tmp_path / "place").exists()


def test_a_place_that_cannot_be_made_is_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "file.bin").write_bytes(CONTENT)
    (tmp_path / "file").touch()
    with pytest.raises(BitlensError, match=r"cannot make .*file/place \(Not a directory\)"):
        download(remote(CONTENT, address + "file.bin"), tmp_path / "file" / "place", ignore)


def tiny_mnist() -> dict[str, bytes]:
    images = struct.pack(">4I", 0x803, 2, 28, 28) + bytes(range(196)) * 8
    labels = struct.pack(">2I", 0x801, 2) + bytes((7, 3))
    return {
        file.name: gzip.compress(images if "images" in file.name else labels, mtime=0) for file in REMOTE_FILES["mnist"]
    }


def test_a_data_set_comes_from_the_network_into_the_cache(
    address: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_mnist()
    for name, content in files.items():
        (tmp_path / "served" / name).write_bytes(content)
    published = tuple(remote(content, address + name, name=name) for name, content in files.items())
    monkeypatch.setitem(REMOTE_FILES, "mnist", published)
    assert cache_folder() == tmp_path / "cache" / "bitlens" / "data"
    for data_variable in (None, str(tmp_path / "served")):  # the second folder exists and holds no mnist/
        if data_variable is not None:
            monkeypatch.setenv("BITLENS_DATA", data_variable)
        data = open_dataset("mnist")
        assert data.train().labels.tolist() == data.test().labels.tolist() == [7, 3]
    assert sorted(path.name for path in (cache_folder() / "mnist").iterdir()) == sorted(files)
    assert len(asked) == 4


def test_without_a_network_a_sentence_says_what_to_do(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mnist", "cifar10"):
        dead = tuple(remote(b"", f"{address}{file.name}x", name=file.name) for file in REMOTE_FILES[name])
        monkeypatch.setitem(REMOTE_FILES, name, dead)
    with pytest.raises(
        BitlensError,
        match=re.escape("mnist is neither in BITLENS_DATA nor to be had from the network (")
        + r".*HTTP Error 404.*\): put train-images-idx3-ubyte\.gz, .* into a folder mnist, and name the folder above",
    ) as refusal:
        open_dataset("mnist")
    assert "\n" not in str(refusal.value)
    with pytest.raises(BitlensError, match=r"put cifar-10-binary\.tar\.gz into a folder cifar10"):
        open_dataset("cifar10")
    assert not cache_folder().exists()


def test_every_published_file_has_a_checksum_and_an_address() -> None:
    assert set(REMOTE_FILES) == {"mnist", "fashion-mnist", "cifar10"}
    for files in REMOTE_FILES.values():
        for file in files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.size > 4000
            assert file.urls
            assert all(re.fullmatch(r"https?://[^ ]+/" + re.escape(file.name), url) for url in file.urls)
    digests = [file.sha256 for files in REMOTE_FILES.values() for file in files]
    assert len(set(digests)) == len(digests) == 9
