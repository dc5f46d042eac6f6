"""Two small networks that come with bitlens, each with its model card: something to run right after installation."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

SHIPPED = tuple(sorted(path.stem for path in _FOLDER.glob("*.bitlens")))
"""Names of the networks, which stand for their files wherever a network is asked for."""

FOR_PHOTOGRAPHS = "cifar10-resnet20-w4a4"
"""The one that is taken where none is named."""


def shipped_bundle(name: str) -> Path:
    """Path of a shipped network."""
    return _FOLDER / f"{name}.bitlens"


def model_card_of(name: str) -> str:
    """Model card of a shipped network, in Markdown."""
    return (_FOLDER / f"{name}.md").read_text(encoding="utf-8")


def network_path(text: str) -> Path:
    """Path of a network that a user names: a file, or else a shipped network by its name.

    >>> network_path("cifar10-resnet20-w4a4").name
    'cifar10-resnet20-w4a4.bitlens'
    >>> network_path("my.bitlens").as_posix()
    'my.bitlens'
    """
    path = Path(text)
    return shipped_bundle(text) if text in SHIPPED and not path.exists() else path
