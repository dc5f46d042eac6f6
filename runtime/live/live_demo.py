"""A source, a network and the threads between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from bitlens.runtime.board_state import board_state
from bitlens.runtime.certificate import Certificate
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.board_watch import BoardWatch
from bitlens.runtime.live.bulletin import Bulletin
from bitlens.runtime.live.capture_loop import CaptureLoop
from bitlens.runtime.live.explainer_loop import ExplainerLoop
from bitlens.runtime.live.frame_source import FrameSource
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.parity_badge import ParityBadge, fresh_badge, parity_badge
from bitlens.runtime.live.parity_check import ParityCheck, why_not_verifiable
from bitlens.runtime.live.session import Session
from bitlens.runtime.live.snapshot import save_snapshot
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.machine import this_machine


class LiveDemo:
    """Everything behind the page or the window.

    Parameters
    ----------
    session : Session
    title : str
        What the source is called before it is open.
    open : callable
        Opens the source.
    certificate : Certificate or None
        Of the network.
    snapshots : Path
        Folder for them, made with the first.
    """

    def __init__(
        self,
        session: Session,
        title: str,
        open: Callable[[], FrameSource],
        *,
        certificate: Certificate | None,
        snapshots: Path,
    ) -> None:
        self.session = session
        self.snapshots = snapshots
        self.newest = NewestFrame()
        self.bulletin = Bulletin(SourceState(title, "opening"), session.settings, board_state())
        self.capture = CaptureLoop(
            title, open, self.newest, lambda state: self.bulletin.tell(source=state), repeats=True
        )
        self.explainer = ExplainerLoop(session, self.newest, self.bulletin)
        self._board = BoardWatch(self.bulletin)
        self._check = ParityCheck(
            session.network, session.threads, lambda state: self.bulletin.tell(verification=state)
        )
        self._choosing = threading.Lock()
        self._certificate, self._machine = certificate, this_machine()

    def start(self) -> None:
        """Start the threads."""
        for each in (self.capture, self.explainer, self._board):
            each.start()

    def say_over(self) -> None:
        """Tell whoever waits for news that there will be no more."""
        self.bulletin.tell(is_over=True)

    def stop(self) -> None:
        """Stop the threads."""
        self.say_over()
        for each in (self._board, self._check, self.explainer, self.capture):
            each.stop()

    def choose(self, wishes: Mapping[str, object]) -> None:
        """Change settings, see `Session.choose`."""
        with self._choosing:  # whoever chooses last is also told of last
            self.bulletin.tell(settings=self.session.choose(wishes))

    def badge(self, engine: str) -> ParityBadge:
        """Whether an engine was verified here: since the start, or by the certificate."""
        found = self._check.found.get(engine)
        if found is not None:
            return fresh_badge(found, self.session.network)
        return parity_badge(self._certificate, self.session.network, engine, self._machine)

    def why_not_verifiable(self, engine: str) -> str:
        """Why `verify` would refuse an engine for good; empty if it would not."""
        return why_not_verifiable(self.session.network, engine)

    def verify(self) -> None:
        """Verify the engine that is chosen, in the background; news tell how far it is.

        Raises
        ------
        BitlensError
            If one is being verified already, or this one cannot be.
        """
        self._check.begin(self.session.settings.engine)

    def save(self) -> Path:
        """Save a snapshot of the newest explained frame; its folder.

        Raises
        ------
        BitlensError
            If there is nothing to save, or it cannot be written.
        """
        news = self.bulletin.news
        if news.explained is None:
            raise BitlensError("no frame has been explained yet: wait for the first")
        return save_snapshot(self.snapshots, news.explained, self.session.network, news.source.title)
