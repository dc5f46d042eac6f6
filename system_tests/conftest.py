"""One emulated board for all tests, and the two versions of bitlens that they put on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_image import NoBoardError, made_image
from deployed import CHECKOUT, FIRST, SECOND, Deployed, certified
from emulated_board import EmulatedBoard, emulated_board


@pytest.fixture(scope="session")
def networks() -> Path:
    """The demo's bundles, as `make demo` leaves them."""
    folder = Path(os.environ.get("BITLENS_NETWORKS") or CHECKOUT / "out/demo/networks")
    if not all((folder / f"{name}.bitlens").exists() for name in (FIRST, SECOND)):
        pytest.skip("no bundles: `make demo` makes them, BITLENS_NETWORKS names another folder of them")
    return folder


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel of a release for this board's Python, as `make boards` leaves it."""
    found = sorted((CHECKOUT / "build/boards").glob("bitlens-*-abi3-*_aarch64.whl"))
    if not found:
        pytest.skip("no aarch64 wheel for Python 3.12 and later in build/boards: `make board-system` makes it")
    return found[-1]


@pytest.fixture(scope="session")
def board() -> Iterator[EmulatedBoard]:
    try:
        image = made_image()
    except NoBoardError as error:
        pytest.skip(str(error))
    # Not pytest's own folder, whose length is more than a socket's name may have.
    with tempfile.TemporaryDirectory(prefix="bitlens-system-") as folder, emulated_board(image, Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for everybody, and a trust list of the tests' own."""
    folder = tmp_path_factory.mktemp("system")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITLENS_TRUST", str(folder / "trusted"))
        yield folder


@pytest.fixture(scope="session")
def first(board: EmulatedBoard, networks: Path, wheel: Path, work: Path) -> Deployed:
    """The first bundle, with NumPy alone."""
    return certified(board, networks / f"{FIRST}.bitlens", work, wheel)


@pytest.fixture(scope="session")
def second(board: EmulatedBoard, networks: Path, wheel: Path, work: Path, first: Deployed) -> Deployed:
    """The second bundle, with what a camera and a page take."""
    return certified(board, networks / f"{SECOND}.bitlens", work, wheel, "--extras", "camera,web")
