"""What needs child processes or a whole system: cold starts, peak memory, `bitlens doctor`, the device tests."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
from deployed import BITLENS, CHECKOUT, CURRENT, FIRST, Deployed
from emulated_board import EmulatedBoard

LARGEST_BYTES = 60_000_000
TESTS = "/srv/device"


@pytest.fixture(scope="module")
def tests_there(board: EmulatedBoard, networks: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Copy the device tests there, with pytest and a bundle; the command line that runs them."""
    folder = tmp_path_factory.mktemp("device") / "device"
    (folder / "networks").mkdir(parents=True)
    shutil.copy(networks / f"{FIRST}.bitlens", folder / "networks")
    for path in (CHECKOUT / "device_tests").glob("*.py"):
        shutil.copy(path, folder)
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):  # pure Python, as pip installed them here
        for file in metadata.files(name) or ():
            if file.suffix == ".py" and ".." not in file.parts:
                place = folder / "pytest-site" / str(file)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), place)
    board.send(folder, to="/srv/")
    return (
        f"cd {TESTS} && PYTHONPATH={TESTS}/pytest-site PYTHONDONTWRITEBYTECODE=1 BITLENS_NETWORKS={TESTS}/networks "
        f"~/{CURRENT}/venv/bin/python -m pytest -q -p no:cacheprovider"
    )


def test_memory_of_predict(board: EmulatedBoard, first: Deployed, tests_there: str) -> None:
    """The device test as it is: new processes, and the most that they ever held (VmHWM)."""
    assert first.code == 0, first.said
    said = board.run(f"{tests_there} test_memory.py")
    assert "4 passed" in said, said


def test_parity_processor_and_bits(board: EmulatedBoard, first: Deployed, tests_there: str) -> None:
    """The wheel for Python 3.12 and later, on 3.13: golden answers, hashes, and a processor that has no SDOT."""
    said = board.run(f"{tests_there} test_processor.py test_parity.py test_same_bits.py")
    assert "passed" in said, said
    assert "failed" not in said, said


def test_bench(board: EmulatedBoard, first: Deployed) -> None:
    """Figures of an emulated board mean nothing; that they are there, and whose they are, does."""
    board.run(
        f"{BITLENS} bench {CURRENT}/network.bitlens --methods none --engines native,reference --seconds 0.1 "
        "--output bench.json"
    )
    told = json.loads(board.run("cat bench.json"))
    assert told["machine"]["architecture"] == "aarch64"
    assert [row["engine"]["name"] for row in told["rows"]] == ["native", "reference"]
    for row in told["rows"]:
        assert row["note"] == ""
        assert row["latency_ms"]["p50"] > 0
        assert len(row["cold_start_ms"]) == 3
        assert min(row["cold_start_ms"]) > 0
        assert 10_000_000 < row["peak_memory_bytes"] < LARGEST_BYTES
    assert {row["rank"] for row in told["rows"]} == {1, 2}


def test_doctor(board: EmulatedBoard, first: Deployed) -> None:
    told = json.loads(board.run(f"{BITLENS} doctor --json"))
    assert told["problems"] == []
    assert told["machine"]["architecture"] == "aarch64"
    assert told["features"] == {name: name == "neon" for name in told["features"]}
    assert {each["name"] for each in told["engines"] if not each["problem"]} == {"native", "reference", "native-int8"}
    found = {each["name"]: each["found"] for each in told["equipment"]}
    assert found["camera"] == "video0 (vivid-000-vid-cap)"
    assert found["systemd"] == "running"
    assert found["rsync"]
    assert found["display"] == ""
