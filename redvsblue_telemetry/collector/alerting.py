"""Looks a few times a minute whether an alert begins or ends, and posts it.

Nothing is decided in the first minutes of a process: clients reconnect, deliver waiting events,
and report sessions that were killed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from .._shared import monotonic
from .alerts import FIRING, Alert, Conditions, Watch, as_message, line
from .storage.reports import End
from .storage.writer import Stored
from .webhook import Webhook, WebhookError

__all__ = ["Alerting", "try_webhooks"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_GRACE = 120.0  # seconds from the start
_INTERVAL = 15.0  # seconds
_CLOSE_TIMEOUT = 2.0  # seconds for alerts that wait when the collector stops


class Alerting:
    """Posts alerts to webhooks. Used on the event loop's thread.

    Args:
        webhooks: where to post.
        conditions: when to.
        disk_is_low: returns whether the disk is almost full.
        is_storing: returns whether events can be stored.
        on_outcome: called with whether a webhook took an alert, once that is known.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        webhooks: Sequence[str],
        conditions: Conditions,
        *,
        disk_is_low: Callable[[], bool],
        is_storing: Callable[[], bool],
        on_outcome: Callable[[bool], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._watch = Watch(conditions)
        self._webhooks = [Webhook(url, on_outcome) for url in dict.fromkeys(webhooks)]
        self._disk_is_low = disk_is_low
        self._is_storing = is_storing
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None

    @property
    def firing(self) -> Mapping[str, bool]:
        """Whether each alert is firing."""
        return self._watch.firing

    def record(self, stored: Stored) -> None:
        """Count a group that was just stored."""
        self._watch.record(stored, self._clock())

    def resume(self, ends: Sequence[tuple[int, End]], last_received: int | None) -> None:
        """Take in the time before this process.

        Args:
            ends: the last sessions that ended, in order, each with the time.
            last_received: when something last arrived. Times are in milliseconds since the epoch.
        """
        offset = self._clock() - time.time()
        for at, end in ends:
            self._watch.record_end(end.outcome, offset + at / 1000, has_gaps=end.has_gaps)
        if last_received is not None:
            self._watch.record_arrival(min(offset + last_received / 1000, self._clock()))

    def start(self, page: str) -> None:
        """Begin to look.

        Args:
            page: the address of the collector's page, for people who get an alert.
        """
        self._watch.page = page
        if self._webhooks:
            self._looking = asyncio.create_task(self._look_forever())

    async def _look_forever(self) -> None:
        await asyncio.sleep(_GRACE)
        while True:
            try:
                self.look()
            except Exception:
                logger.exception("internal error in the collector")
            await asyncio.sleep(_INTERVAL)

    def look(self) -> None:
        """Post the alerts that begin or end now."""
        changes = self._watch.look(
            self._clock(),
            time.time_ns() // 1_000_000,
            disk_is_low=self._disk_is_low(),
            is_storing=self._is_storing(),
        )
        for alert in changes:
            logger.warning("%s", line(alert))
            message = as_message(alert)
            for webhook in self._webhooks:
                webhook.put(message)

    async def close(self) -> None:
        """Stop looking, and post the waiting alerts if that can be done at once."""
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(webhook.close(_CLOSE_TIMEOUT) for webhook in self._webhooks))


async def try_webhooks(urls: Sequence[str], page: str = "") -> list[tuple[str, str | None]]:
    """Post a test to each URL, once; return its host, and why it was not taken, if it wasn't."""
    now = time.time_ns() // 1_000_000
    message = as_message(Alert("test", FIRING, now, now, page=page))

    async def outcome(url: str) -> tuple[str, str | None]:
        webhook = Webhook(url)
        try:
            await webhook.post(message)
        except WebhookError as error:
            return webhook.host, str(error)
        return webhook.host, None

    return list(await asyncio.gather(*map(outcome, urls)))
