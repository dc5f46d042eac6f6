"""Downloads of published data sets from their official places, each file checked by size and SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.data_folder import DATA_VARIABLE, cache_folder
from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets.split_dataset import Report

TIMEOUT = 30.0
"""Seconds without an answer after which the next address is tried."""
_CHUNK = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Parameters
    ----------
    name : str
        What it is called here, without a folder.
    urls : tuple of str
        Where it lies; tried in this order.
    size : int
        Its bytes.
    sha256 : str
        Its SHA-256, 64 lower-case hexadecimal digits.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    sha256: str


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # no https there; the SHA-256 decides
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/",)


def _at(places: tuple[str, ...], name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, tuple(place + name for place in places), size, sha256)


REMOTE_FILES: dict[str, tuple[RemoteFile, ...]] = {
    "mnist": (
        _at(
            _MNIST,
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _at(
            _MNIST,
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        _at(
            _MNIST,
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _at(
            _MNIST,
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": (
        _at(
            _FASHION,
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        _at(
            _FASHION,
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        _at(
            _FASHION,
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        _at(
            _FASHION,
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": (
        _at(
            _CIFAR,
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
}
"""What is downloaded for each data set."""


def downloaded_folder(name: str, report: Report) -> Path:
    """Give the cache folder that holds the files of a published data set, downloading what is missing or damaged.

    Parameters
    ----------
    name : str
        A key of `REMOTE_FILES`.
    report : callable
        Called with a line before each download.

    Raises
    ------
    BitlensError
        If a file cannot be had from any of its addresses, or is not what was published.
    """
    folder = cache_folder() / name
    files = REMOTE_FILES[name]
    for file in files:
        try:
            download(file, folder, report)
        except BitlensError as error:
            wanted = ", ".join(each.name for each in files)
            raise BitlensError(
                f"{name} is neither in {DATA_VARIABLE} nor to be had from the network ({error}): put {wanted} into a "
                f"folder {name}, and name the folder above it in {DATA_VARIABLE}"
            ) from error
    return folder


def download(file: RemoteFile, folder: Path, report: Report) -> Path:
    """Download one file into `folder`, or leave it alone if it is there and whole.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    BitlensError
        If no address gives a file of the published size and SHA-256; nothing is written then.
    """
    path = folder / file.name
    if _is_whole(path, file):
        return path
    failures = []
    for url in file.urls:
        report(f"downloading {url} ({file.size / 1e6:.1f} MB) to {path}")
        try:
            content = _fetched(url, file)
        except (OSError, http.client.HTTPException, ValueError, BitlensError) as error:
            failures.append(f"{url}: {error}")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BitlensError(f"cannot make {folder} ({error.strerror})") from error
        write_bytes_atomically(path, content)
        return path
    raise BitlensError("; ".join(failures))


def _fetched(url: str, file: RemoteFile) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        while len(content) <= file.size and (chunk := response.read(_CHUNK)):
            content += chunk
    if len(content) != file.size:
        came = f"more than {file.size}" if len(content) > file.size else str(len(content))
        raise BitlensError(f"{came} bytes came, expected {file.size}")
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise BitlensError(f"its sha256 is {found[:12]}..., expected {file.sha256[:12]}...")
    return bytes(content)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == file.sha256
