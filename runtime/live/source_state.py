"""How a source is: open, gone, or at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Condition = Literal["opening", "live", "gone", "ended"]


@dataclass(frozen=True)
class SourceState:
    """How a source is.

    Parameters
    ----------
    title : str
        What it is; what was asked for before it was opened.
    condition : {"opening", "live", "gone", "ended"}
        `gone` is tried again.
    message : str
        Why it is gone, and what to do.
    """

    title: str
    condition: Condition
    message: str = ""
