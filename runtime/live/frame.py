"""One picture of a source, and its number: what belongs together on the page carries the same one."""

from __future__ import annotations

from dataclasses import dataclass

from bitlens.runtime.resize import Codes


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture.

    Parameters
    ----------
    number : int
        Counted from 1 since the start; larger is newer.
    place : str
        Where in the source it was; empty for a camera.
    pixels : uint8 (H, W, 3)
        Red first. Nobody writes into it.
    """

    number: int
    place: str
    pixels: Codes
