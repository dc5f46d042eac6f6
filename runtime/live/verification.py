"""How the verification of an engine stands that was asked for while the live picture goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verification:
    """The newest one.

    Parameters
    ----------
    engine : str
        Which is verified, or was.
    is_running : bool
    share : float
        How much of it is done, 0 to 1.
    outcome : str
        A sentence for when it is over.
    """

    engine: str
    is_running: bool = False
    share: float = 0.0
    outcome: str = ""
