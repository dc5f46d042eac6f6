"""Make build/typing/bitlens, where mypy finds the packages: the redirect of an editable install is opaque to it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("train", "export", "runtime")


def make_links(root: Path) -> Path:
    """Link each package of `root` into a package folder ``bitlens`` under ``build/typing`` and return that folder."""
    folder = root / "build" / "typing" / "bitlens"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("__version__: str\n", encoding="utf-8")
    for package in PACKAGES:
        link = folder / package
        link.unlink(missing_ok=True)
        link.symlink_to(root / package, target_is_directory=True)
    return folder


if __name__ == "__main__":
    make_links(ROOT)
