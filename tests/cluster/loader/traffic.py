"""Gateways that publish on and on, on a thread, and know what the lake must have in the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from tests.cluster.loader.publishing import publishing

SESSIONS = 12
EACH = 10  # events in a batch


class Traffic:
    """Publishes batches of several sessions; each at most one at a time, as gateways do."""

    def __init__(self, urls: tuple[str, ...], pause: float) -> None:
        self._urls = urls
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._publish()))
        self._error: BaseException | None = None
        self.acknowledged: Counter[tuple[str, int]] = Counter()

    @property
    def count(self) -> int:
        """How many events the stream has acknowledged."""
        return len(self.acknowledged)

    async def _publish(self) -> None:
        try:
            async with publishing(self._urls) as publisher:

                async def play(session: str) -> None:
                    first = 1
                    while not self._stop.is_set():
                        last = first + EACH - 1
                        await publisher.batch(session, first, last)
                        self.acknowledged.update((session, seq) for seq in range(first, last + 1))
                        first = last + 1
                        await asyncio.sleep(self._pause)

                await asyncio.gather(*(play(f"s{number}") for number in range(SESSIONS)))
        except BaseException as error:
            self._error = error

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Counter[tuple[str, int]]:
        """End it; return how often the lake must have each event: once."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.acknowledged


@contextlib.contextmanager
def traffic(urls: tuple[str, ...], pause: float = 0.02) -> Iterator[Traffic]:
    publishing_on = Traffic(urls, pause)
    publishing_on.start()
    try:
        yield publishing_on
    finally:
        publishing_on.stop()
