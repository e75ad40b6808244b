"""How long the latest frames took, as percentiles."""

from __future__ import annotations

from collections import deque


class FrameTimes:
    """The latest ``keep`` frame times, in milliseconds, oldest first."""

    def __init__(self, keep: int = 600) -> None:
        self.recent: deque[float] = deque(maxlen=keep)

    def record(self, seconds: float) -> None:
        """Add the frame that took ``seconds``."""
        self.recent.append(seconds * 1000.0)

    def percentile(self, percent: float) -> float:
        """Return the time that ``percent`` of the frames did not exceed; 0.0 without frames."""
        if not self.recent:
            return 0.0
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100.0))]
