"""Every example of docs/api.md runs, in its order; every name of its tables is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from bitlens.runtime.methods import METHODS
from bitlens.runtime.parity import EngineParity

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
PACKAGES = ("train", "export", "runtime")


def examples(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_examples_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITLENS_TRUST", str(tmp_path / "trusted"))
    found = examples(PAGE.read_text("utf-8"))
    assert len(found) == 7
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        for place, example in enumerate(found):
            exec(compile(example, f"{PAGE.name}, example {place + 1}", "exec"), names)
    finally:
        METHODS.pop("absolute_gradient", None)  # the row that the page adds
    parity = names["parity"]
    assert isinstance(parity, EngineParity)
    assert parity.holds
    assert (tmp_path / "w2a4.bitlens").exists()
    assert "holds" in capsys.readouterr().out


def named(text: str) -> list[tuple[str, str]]:
    """The first column of each package's table: (package, dotted name), a bare name in the module before it."""
    found = []
    package = ""
    for line in text.splitlines():
        if line.startswith("## "):
            package = line.removeprefix("## bitlens.")
        if package in PACKAGES and line.startswith("| `"):
            module = ""
            for name in re.findall(r"`([\w.]+)`", line.split("|")[1]):
                module = name.rpartition(".")[0] or module
                found.append((package, f"{module}.{name.rpartition('.')[2]}".lstrip(".")))
    return found


def test_every_name_of_the_tables_is_there() -> None:
    names = named(PAGE.read_text("utf-8"))
    assert {package for package, _ in names} == set(PACKAGES)
    assert len(names) > 40
    for package, name in names:
        holder, _, last = f"bitlens.{package}.{name}".rpartition(".")
        module = importlib.import_module(holder)
        try:
            assert hasattr(module, last) or importlib.import_module(f"{holder}.{last}")
        except ModuleNotFoundError:
            pytest.fail(f"docs/api.md names {holder}.{last}, which is not there")


def test_a_wrong_name_is_found() -> None:
    assert named("## bitlens.train\n| `fit.fit`, `accuracy`, `models.lenet` | x |\n## Else\n| `a` | y |") == [
        ("train", "fit.fit"),
        ("train", "fit.accuracy"),
        ("train", "models.lenet"),
    ]
