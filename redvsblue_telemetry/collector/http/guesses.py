"""Slows those who guess the token.

After a few wrong tokens from an address, the answers to further ones are held back, each longer
than the one before. The right token is never held back, not even from the same address: people who
share it with an attacker, in an office or behind a proxy, would otherwise be shut out. So this
can't slow an attacker who gives up on an answer that does not come at once. It bounds the cost of
a loop of wrong tokens; against guessing, the token has to be long and random.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

__all__ = ["RETRY_AFTER", "Guesses"]

_FREE_GUESSES = 5  # a person mistypes
_FIRST_DELAY = 0.25  # seconds; doubled with each further wrong token
_MAX_DELAY = 4.0  # seconds; the SDK waits ten for an answer
_FORGOTTEN_AFTER = 300.0  # seconds without another wrong token
_MAX_ADDRESSES = 4096  # remembered; the one that was quiet the longest is forgotten first
_MAX_HELD = 256  # answers at once
_MAX_HELD_PER_ADDRESS = 16

RETRY_AFTER = math.ceil(_MAX_DELAY)
"""Seconds after which it makes sense to try again when too many answers are held back."""


class Guesses:
    """The wrong tokens of the last minutes, by address. Runs on the event loop's thread.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and the last
        self._held: Counter[str] = Counter()
        self._closing = asyncio.Event()

    async def hold(self, client: tuple[str, int] | None) -> bool:
        """Note a wrong token, and return when it may be answered.

        Returns:
            Whether it was held back as long as it should be. False, at once, if as many answers
            are held back as allowed.
        """
        source = _source(client)
        delay = self._note(source)
        if not delay or self._closing.is_set():
            return True
        if self._held[source] >= _MAX_HELD_PER_ADDRESS or self._held.total() >= _MAX_HELD:
            return False
        self._held[source] += 1
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
        finally:
            self._held[source] -= 1
            if not self._held[source]:
                del self._held[source]
        return True

    def _note(self, source: str) -> float:
        """Note a wrong token; return the seconds to hold back its answer."""
        now = self._clock()
        count, last = self._noted.pop(source, (0, now))
        if now - last > _FORGOTTEN_AFTER:
            count = 0
        self._noted[source] = (count + 1, now)
        if len(self._noted) > _MAX_ADDRESSES:
            self._noted.popitem(last=False)
        if count < _FREE_GUESSES:
            return 0.0
        return min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(count - _FREE_GUESSES, 30))

    def close(self) -> None:
        """Answer all that are held back."""
        self._closing.set()


def _source(client: tuple[str, int] | None) -> str:
    """Return the address that a client is known by; of IPv6, the network that one user has."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
