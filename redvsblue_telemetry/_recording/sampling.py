"""Sampling and rate limits: which events of a frequent type are left out, counted by type.

Only types with such a setting ever come here. ``emit`` doesn't find them among its prefixes, so the
others pay nothing. The decision is made before the event is encoded. An event that is left out has
no number, so it leaves no gap.

No lock, since a signal handler may emit in the middle of an emit: all that has to be exact is one
call into C, of an :class:`AtomicCounter`, a ``Random``, or a dict's ``setdefault``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from .._shared import monotonic
from .counter import AtomicCounter

__all__ = ["Sampling"]


class Sampling:
    """Decides which events are kept. Safe in any thread.

    Args:
        shares: the share of the events of a type that is kept.
        limits: the most events of a type that are kept in a second, counted after sampling.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        limits: Mapping[str, int],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._shares, self._limits, self._clock = shares, limits, clock
        self._rules: dict[str, _Rule] = {}

    @property
    def types(self) -> frozenset[str]:
        """The types that have a setting."""
        return frozenset({*self._shares, *self._limits})

    def begin(self, session_id: str) -> None:
        """Count from zero. Only while no other thread uses it, such as after a fork.

        Args:
            session_id: decides which events are kept: the same ones for the same id.
        """
        self._rules = {
            name: _Rule(
                self._shares.get(name, 1.0),
                self._limits.get(name),
                Random(f"{session_id}:{name}").random,
                self._clock,
            )
            for name in self.types
        }

    def leaves_out(self, type: object) -> bool:
        """Return whether an event of a type is left out, and count it if so."""
        rule = self._rules.get(type) if isinstance(type, str) else None
        if rule is None or rule.keeps_one():
            return False
        rule.left_out.increment()
        return True

    def counts(self) -> dict[str, int]:
        """Return how many events were left out, by type; without types of which none was."""
        counts = {name: rule.left_out.value for name, rule in self._rules.items()}
        return {name: count for name, count in counts.items() if count}


class _Rule:
    """The settings of one type."""

    def __init__(
        self,
        share: float,
        limit: int | None,
        random: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._share, self._limit, self._random, self._clock = share, limit, random, clock
        self.left_out = AtomicCounter()
        self._second = _Second(0)

    def keeps_one(self) -> bool:
        if self._share < 1 and self._random() >= self._share:
            return False
        return self._limit is None or self._now().kept.increment() <= self._limit

    def _now(self) -> _Second:
        """Return the present second, for all threads the same."""
        second = self._second
        # One that is set aside by a thread that was interrupted still leads to the newest.
        while (later := second.next.get("")) is not None:
            second = later
        # Never back: a thread may have read the clock and been interrupted for long.
        if (number := int(self._clock())) > second.number:
            second = second.next.setdefault("", _Second(number))
        self._second = second
        return second


class _Second:
    """One second of the clock, and the events that were kept in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.kept = AtomicCounter()
        self.next: dict[str, _Second] = {}
        """The second after it in which there was an event, once there is one. Set only once."""
