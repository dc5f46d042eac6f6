"""Whether a folder holds bitlens and NumPy and nothing else, as pip puts them there: `python bare_install.py FOLDER`.

Run by the Python that the folder is for, which imports them from there. 1 if something else is there, or is missing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

EXPECTED = ("bitlens", "numpy")
MODULES = ("bitlens", "bitlens.runtime._kernels", "numpy")
SCRIPT = "bitlens"


def problems_of(folder: Path) -> list[str]:
    """Say what is there and should not be, or should be and is not."""
    found = {each.name.lower(): each for each in distributions(path=[str(folder)])}
    problems = [f"lacks {name}" for name in EXPECTED if name not in found]
    problems += [f"holds {name} {each.version} too" for name, each in found.items() if name not in EXPECTED]
    owned = {path.parts[0] for each in found.values() for path in each.files or ()} | {"bin", "__pycache__"}
    problems += [f"holds {path.name}, of no package" for path in sorted(folder.iterdir()) if path.name not in owned]
    if "bitlens" in found:
        lost = [
            str(path) for path in found["bitlens"].files or () if ".." not in path.parts and not path.locate().exists()
        ]
        problems += [f"lacks {path}, which bitlens lists" for path in lost]
        if not found["bitlens"].entry_points.select(group="console_scripts", name=SCRIPT):
            problems.append(f"bitlens names no command {SCRIPT}")
    if not (folder / "bin" / SCRIPT).exists():
        problems.append(f"lacks bin/{SCRIPT}")
    return problems


def imported_from_elsewhere(folder: Path) -> list[str]:
    """Import what is expected, and say what came from another place."""
    places = {name: Path(import_module(name).__file__ or "").resolve() for name in MODULES}
    return [f"{name} is imported from {path}" for name, path in places.items() if folder.resolve() not in path.parents]


def main(folder: Path) -> int:
    """Print what is there, and what is wrong."""
    problems = problems_of(folder)
    problems += [] if problems else imported_from_elsewhere(folder)
    names = sorted(f"{each.name} {each.version}" for each in distributions(path=[str(folder)]))
    print(f"Python {sys.version.split()[0]} has installed {', '.join(names) or 'nothing'}")
    for problem in problems:
        print(f"  WRONG: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
