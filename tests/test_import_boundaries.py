"""Imports point towards the device: train -> export -> runtime, and the runtime needs NumPy alone."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What no file of a package may import, not even inside a function.
BANNED = {
    "runtime": frozenset({"bitlens.train", "bitlens.export", "torch", "brevitas", "onnx"}),
    "export": frozenset({"bitlens.train"}),
}

# Imports every module of a package in a fresh interpreter and prints, for the first module that loads something it
# must not, what that was. NumPy and its parts are loaded before, so that only what the package adds is counted.
PROBE = """
import importlib, json, pkgutil, sys
import numpy, numpy.random, numpy.lib.format
package, allowed, banned = json.loads(sys.argv[1])
before = set(sys.modules)
root = importlib.import_module(package)
names = [package, *sorted(found.name for found in pkgutil.walk_packages(root.__path__, package + "."))]
def offends(name):
    top = name.partition(".")[0]
    if any(name == ban or name.startswith(ban + ".") for ban in banned):
        return True
    return allowed is not None and not (
        top in sys.stdlib_module_names or top.startswith("_sysconfigdata") or top in allowed
    )
guilty = {}
for name in names:
    if not name.endswith(".__main__"):
        importlib.import_module(name)
    loaded = sorted(new for new in set(sys.modules) - before if offends(new))
    if loaded:
        guilty[name] = loaded
        break
print(json.dumps([names, guilty]))
"""


def what_loads(
    package: str, allowed: list[str] | None, banned: list[str], place: Path | None = None
) -> tuple[list[str], dict[str, list[str]]]:
    """Modules of a package (looked for in `place` too), and the first of them that loads what it must not, with what.

    `allowed` are the top-level names that may be loaded beside the standard library, None for any; `banned` are
    modules that may not be loaded in any case.
    """
    paths = [str(place)] if place else []
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([package, allowed, banned])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    names, guilty = json.loads(done.stdout)
    return names, guilty


def wrong_imports(source: str, module: str, banned: frozenset[str], is_package: bool = False) -> list[str]:
    """Imports of banned modules anywhere in a source, as ``line: name``."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    wrong = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                names = [str(node.args[0].value)]
        hits = [name for name in names if any(name == ban or name.startswith(ban + ".") for ban in banned)]
        wrong += [f"{node.lineno}: {name}" for name in hits[:1]]
    return wrong


def sources(package: str) -> list[tuple[str, Path]]:
    """Module name and file of every Python source of bitlens.<package>, found on disk and not by importing."""
    found = []
    for root in map(Path, importlib.import_module(f"bitlens.{package}").__path__):
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found.append((".".join(["bitlens", package, *parts]), file))
    assert found, f"no sources of bitlens.{package}"
    return found


@pytest.mark.parametrize("package", ["train", "export", "runtime"])
def test_every_folder_with_sources_is_a_package(package: str) -> None:
    # pkgutil passes over a folder without __init__.py, and the other checks would with it.
    missing = {file.parent for _, file in sources(package) if not (file.parent / "__init__.py").is_file()}
    assert missing == set()


def test_every_module_of_the_runtime_loads_numpy_alone() -> None:
    names, guilty = what_loads("bitlens.runtime", ["numpy", "bitlens"], sorted(BANNED["runtime"]))
    compiled = {"bitlens.runtime._kernels"}  # where it was built
    assert set(names) - compiled == {name for name, _ in sources("runtime")}
    assert guilty == {}


def test_the_command_line_loads_no_event_loop() -> None:
    """All verbs are loaded to parse one command: what one of them alone needs would cost memory in every `predict`."""
    names, guilty = what_loads("bitlens.runtime.verbs", ["numpy", "bitlens"], ["asyncio", "ssl", "urllib.request"])
    assert "bitlens.runtime.verbs.demo" in names
    assert guilty == {}


def test_no_module_of_the_export_loads_training_code() -> None:
    names, guilty = what_loads("bitlens.export", None, sorted(BANNED["export"]))
    assert set(names) == {name for name, _ in sources("export")}
    assert guilty == {}


@pytest.mark.parametrize(
    ("offence", "allowed", "banned", "found"),
    [
        ("import PIL", ["numpy", "sample"], [], "PIL"),  # neither NumPy nor the standard library
        ("import email.utils", None, ["email.utils"], "email.utils"),  # banned by name
        ("import json, numpy", ["numpy", "sample"], ["email.utils"], None),  # innocent
    ],
)
def test_the_loading_check_can_fail(
    tmp_path: Path, offence: str, allowed: list[str] | None, banned: list[str], found: str | None
) -> None:
    (tmp_path / "sample" / "deep").mkdir(parents=True)
    for file, source in {"__init__": "", "a_good": "import json", "deep/__init__": "", "deep/bad": offence}.items():
        (tmp_path / "sample" / f"{file}.py").write_text(source, "utf-8")
    names, guilty = what_loads("sample", allowed, banned, tmp_path)
    assert names == ["sample", "sample.a_good", "sample.deep", "sample.deep.bad"]
    assert list(guilty) == ([] if found is None else ["sample.deep.bad"])
    assert found is None or found in guilty["sample.deep.bad"]


@pytest.mark.parametrize("package", sorted(BANNED))
def test_no_source_imports_against_the_arrow(package: str) -> None:
    wrong = {
        str(file): found
        for module, file in sources(package)
        if (found := wrong_imports(file.read_text("utf-8"), module, BANNED[package], file.name == "__init__.py"))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import bitlens.train", ["1: bitlens.train"]),
        ("import numpy, torch.nn as nn", ["1: torch.nn"]),
        ("from bitlens import export", ["1: bitlens.export"]),
        ("from bitlens.export.qonnx import read", ["1: bitlens.export.qonnx"]),
        ("from .. import train", ["1: bitlens.train"]),
        ("from ..train.fit import fit", ["1: bitlens.train.fit"]),
        ("def f():\n    from bitlens.train import fit\n", ["2: bitlens.train"]),
        ("if TYPE_CHECKING:\n    import onnx\n", ["2: onnx"]),
        ("importlib.import_module('bitlens.train.verb')", ["1: bitlens.train.verb"]),
        ("__import__('torch')", ["1: torch"]),
        # What looks alike and is allowed:
        ("import onnxruntime", []),
        ("from bitlens.runtime import errors\nfrom . import errors\nfrom .train import x", []),
        ("text = 'import bitlens.train'", []),
        ("import bitlens.training", []),
    ],
)
def test_wrong_imports_by_hand(source: str, found: list[str]) -> None:
    assert wrong_imports(source, "bitlens.runtime.example", BANNED["runtime"]) == found


def test_a_relative_import_in_a_package_file() -> None:
    # In runtime/__init__.py one dot is bitlens.runtime, and two are bitlens.
    assert wrong_imports("from ..train import fit", "bitlens.runtime", BANNED["runtime"], is_package=True) != []
    assert wrong_imports("from .train import fit", "bitlens.runtime", BANNED["runtime"], is_package=True) == []
