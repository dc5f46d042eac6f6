"""What is known now: the newest explanation, how the source and the board are; every change gets a number."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitlens.runtime.board_state import BoardState
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.session import Settings
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.live.verification import Verification


@dataclass(frozen=True)
class Progress:
    """How far a long map is: passes done, of those it takes at most."""

    done: int
    of: int


@dataclass(frozen=True)
class News:
    """What is known.

    Parameters
    ----------
    version : int
        Larger is newer.
    source : SourceState
    settings : Settings
    explained : ExplainedFrame or None
        The newest; None before the first.
    board : BoardState
    progress : Progress or None
        Of a map that takes long.
    verification : Verification or None
        The newest one; None before the first.
    problem : str
        What keeps frames from being explained; empty if nothing does.
    is_over : bool
        Whether the program is about to end.
    explained_version : int
        Version with which `explained` came.
    """

    version: int
    source: SourceState
    settings: Settings
    explained: ExplainedFrame | None
    board: BoardState
    progress: Progress | None = None
    verification: Verification | None = None
    problem: str = ""
    is_over: bool = False
    explained_version: int = 0


class Bulletin:
    """The newest news; any thread writes, any thread reads.

    Parameters
    ----------
    source : SourceState
    settings : Settings
    board : BoardState
    """

    def __init__(self, source: SourceState, settings: Settings, board: BoardState) -> None:
        self._writing = threading.Lock()
        self._news = News(0, source, settings, None, board)

    @property
    def news(self) -> News:
        """What is known now."""
        return self._news

    def tell(self, **changes: object) -> None:
        """Replace fields of the news; nothing happens where all of them are as they were."""
        with self._writing:
            known: Mapping[str, object] = vars(self._news)
            if all(known[name] is value or known[name] == value for name, value in changes.items()):
                return
            changes["version"] = self._news.version + 1
            if "explained" in changes:
                changes["explained_version"] = changes["version"]
            self._news = replace(self._news, **changes)  # type: ignore[arg-type]
