"""Frames per second, over the last few."""

from __future__ import annotations

from collections import deque

SPAN_SECONDS = 3.0
AWAY_SECONDS = 6.0


class FrameRate:
    """Counts the ticks of the last `SPAN_SECONDS`, or the last two; one thread ticks, others may read."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=1000)

    def tick(self, now_seconds: float) -> None:
        """Count a frame at this time of a clock that only goes forward."""
        self._seconds.append(now_seconds)

    def per_second(self, now_seconds: float) -> float:
        """Give the mean rate up to now; 0 before there were two frames, and once none came for `AWAY_SECONDS`.

        >>> rate = FrameRate()
        >>> for time in (0.0, 0.5, 1.0):
        ...     rate.tick(time)
        >>> rate.per_second(1.0), rate.per_second(60.0)
        (2.0, 0.0)
        """
        ticks = list(self._seconds)
        if len(ticks) < 2 or now_seconds - ticks[-1] > AWAY_SECONDS:
            return 0.0
        recent = [each for each in ticks if each > now_seconds - SPAN_SECONDS]
        recent = recent if len(recent) > 1 else ticks[-2:]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if recent[-1] > recent[0] else 0.0
