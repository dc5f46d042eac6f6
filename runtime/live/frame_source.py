"""Where frames come from, by the word that names it on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.resize import Codes
from bitlens.runtime.table import add_row

TITLE_CHARACTERS = 80


@dataclass(frozen=True)
class FrameSource:
    """A source that was opened; one thread uses it.

    Parameters
    ----------
    title : str
        What a person is told it is: no password, no folder of theirs.
    read : callable
        Waits for the next frame and returns its pixels, uint8 (H, W, 3), red first, and its place in the source
        (`frame 12`, a file's name; empty for a camera). None where the source ends. A `BitlensError` where it is gone.
    close : callable
        Gives it back; never raises.
    interval_seconds : float
        Pause from one frame to the next that the source does not keep by itself; 0 for a camera, which does.
    """

    title: str
    read: Callable[[], tuple[Codes, str] | None]
    close: Callable[[], None]
    interval_seconds: float = 0.0


@dataclass(frozen=True)
class SourceKind:
    """A row of the table of sources.

    Parameters
    ----------
    name : str
    form : str
        How it is written on the command line, for the help.
    fits : callable
        Whether a text on the command line means it.
    open : callable
        That text -> `FrameSource`, or a `BitlensError` that says what is wrong.
    module, extra : str
        The Python module it needs and the extra that brings it; empty for none.
    """

    name: str
    form: str
    fits: Callable[[str], bool]
    open: Callable[[str], FrameSource]
    module: str = ""
    extra: str = ""


SOURCES: dict[str, SourceKind] = {}


def register_source(
    name: str, *, form: str, fits: Callable[[str], bool], module: str = "", extra: str = ""
) -> Callable[[Callable[[str], FrameSource]], Callable[[str], FrameSource]]:
    """Put the decorated opener into `SOURCES`; kinds are tried in the order in which they came.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(open: Callable[[str], FrameSource]) -> Callable[[str], FrameSource]:
        add_row(SOURCES, "source", name, SourceKind(name, form, fits, open, module, extra))
        return open

    return register


def source_forms() -> str:
    """List how sources are written, for help and refusals."""
    return ", ".join(kind.form for kind in SOURCES.values())


def source_kind(text: str) -> SourceKind:
    """Find what a text on the command line means.

    Raises
    ------
    BitlensError
        If no kind fits; the message lists the forms.
    """
    for kind in SOURCES.values():
        if kind.fits(text):
            return kind
    scheme, separator, _ = text.partition("://")
    said = f"{scheme}://..." if separator else text  # an address may hold a password
    raise BitlensError(f"no source {said[:TITLE_CHARACTERS]!r}: expected one of {source_forms()}")


def open_source(text: str) -> FrameSource:
    """Open a source by what names it on the command line.

    Raises
    ------
    BitlensError
        If no kind fits, a package is missing (the message names the extra), or it does not open.
    """
    kind = source_kind(text)
    if kind.module and find_spec(kind.module) is None:
        raise MissingExtraError(f"source {kind.name!r}", kind.module, kind.extra)
    return kind.open(text)
