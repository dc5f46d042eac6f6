"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest


def modules_of(package: str) -> list[str]:
    # walk_packages leaves out the package itself.
    path = importlib.import_module(package).__path__
    walked = [
        found.name for found in pkgutil.walk_packages(path, f"{package}.") if not found.name.endswith(".__main__")
    ]
    return [package, *walked]


# Not `pytest --doctest-modules`: it imports the files a second time under other names, registries and all.
@pytest.mark.parametrize(
    "module", [name for package in ("runtime", "export", "train") for name in modules_of(f"bitlens.{package}")]
)
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_a_wrong_example_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    module = ModuleType("example", ">>> 1 + 1\n3\n")
    assert doctest.testmod(module) == (1, 1)
    assert "Expected:\n    3" in capsys.readouterr().out
