"""The check of what a bare installation holds: that it passes what pip makes, and that each of its parts can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bare_install
import pytest

COMMAND = "[console_scripts]\nbitlens = bitlens.cli:main\n"


def make_wheel(folder: Path, name: str, commands: str = "", needs: tuple[str, ...] = ()) -> None:
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{name}/cli.py": "def main(): ...\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": commands,
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


def installed(folder: Path, commands: str = COMMAND, needs: tuple[str, ...] = ("numpy",)) -> Path:
    """Let pip install a bitlens and what it needs, from wheels that are made here."""
    make_wheel(folder, "bitlens", commands, needs)
    make_wheel(folder, "numpy")
    make_wheel(folder, "tqdm")
    place = folder / "site"
    options = ["--quiet", "--no-compile", "--no-index", "--find-links", str(folder), "--target", str(place)]
    command = [sys.executable, "-m", "pip", "--isolated", "install", *options, "bitlens"]
    alone = os.environ | {"PIP_CONFIG_FILE": os.devnull}  # or this machine's own wheels could be chosen
    subprocess.run(command, env=alone, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("wheels"))


def test_bitlens_and_numpy_pass(good: Path) -> None:
    assert bare_install.problems_of(good) == []


def test_what_else_it_needs_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = installed(tmp_path, needs=("numpy", "tqdm"))
    assert bare_install.main(place) == 1
    said = capsys.readouterr().out
    assert said.endswith("has installed bitlens 1.0, numpy 1.0, tqdm 1.0\n  WRONG: holds tqdm 1.0 too\n")


def test_what_is_missing_is_found(good: Path, tmp_path: Path) -> None:
    place = shutil.copytree(good, tmp_path / "site")
    (place / "bitlens" / "cli.py").unlink()
    (place / "bin" / "bitlens").unlink()
    (place / "stray.py").write_text("")
    said = ["holds stray.py, of no package", "lacks bitlens/cli.py, which bitlens lists", "lacks bin/bitlens"]
    assert bare_install.problems_of(place) == said


def test_neither_numpy_nor_a_command(tmp_path: Path) -> None:
    said = ["lacks numpy", "bitlens names no command bitlens", "lacks bin/bitlens"]
    assert bare_install.problems_of(installed(tmp_path, commands="", needs=())) == said


def test_modules_of_another_place_are_found(tmp_path: Path) -> None:
    pytest.importorskip("bitlens.runtime._kernels", reason="a pure-Python build")
    said = bare_install.imported_from_elsewhere(tmp_path)
    assert [each.partition(" is imported from ")[0] for each in said] == list(bare_install.MODULES)
