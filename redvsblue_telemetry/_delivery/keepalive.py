"""How long a connection may be quiet before the client sends a ping.

Balancers and proxies end connections on which nothing has happened for a while: nginx and AWS after
a minute, some after seconds. If that is less than ``keepalive_interval``, each quiet connection
would end before its first ping, and be made anew, without end. So this learns: once two connections
in a row have ended after about the same time of quiet, pings are sent more often.

One such end proves nothing: servers restart, and networks fail. Two in a row may be chance, too.
But then pings that were not needed are all that it costs, and after an hour they stop; if an end
follows that fits the earlier ones, they are back at once.

Pure: the time is passed in.
"""

from __future__ import annotations

__all__ = ["Keepalive"]

_SHARE = 2 / 3  # of the shortest quiet time that ended a connection
_LOWEST_SHARE = 1 / 4  # of the interval in the settings, below which pings would cost too much
_TOLERANCE = 0.1  # by which the quiet times of two ends may differ, as a share of the longer one
_CALM = 3600.0  # seconds without such an end, after which the interval of the settings is back


class Keepalive:
    """Knows the interval between pings. Used by the worker thread only.

    Args:
        interval: that of the settings, in seconds, which is the longest.
    """

    def __init__(self, interval: float) -> None:
        self._longest = self.interval = interval
        self._last_quiet: float | None = None  # of the last connection, if its end was a quiet one
        self._learned_from = 0.0  # the quiet time that the interval was last computed from
        self._changed_at = 0.0

    def note_end(self, quiet: float | None, now: float) -> bool:
        """Note how a connection ended; return whether pings are sent more often from now on.

        Args:
            quiet: for how many seconds nothing had happened on it when it ended without a reason;
                None if it ended otherwise.
            now: monotonic seconds.
        """
        before, self._last_quiet = self._last_quiet, quiet
        if quiet is None or before is None:
            return False
        shortest, longest = sorted((quiet, before))
        if longest - shortest > _TOLERANCE * longest:
            return False
        lowest = self._longest * _LOWEST_SHARE
        interval = max(lowest, shortest * _SHARE)
        if interval >= min(shortest, self.interval):  # then a ping would come too late
            return False
        self.interval, self._learned_from, self._changed_at = interval, shortest, now
        return True

    def note_ping(self, now: float) -> None:
        """Note that a connection has been quiet for as long as the interval."""
        if self.interval < self._longest and now - self._changed_at >= _CALM:
            self.interval, self._last_quiet = self._longest, self._learned_from
