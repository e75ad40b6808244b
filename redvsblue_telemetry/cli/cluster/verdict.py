"""The verdict of ``cluster``: whether the games' ledgers and the lake's say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...cluster.local.ledgers import Stored
from .game import Progress

__all__ = ["differences", "total"]


def total(games: Sequence[Progress]) -> Progress:
    """Return the sum of the games' ledgers; the time and the wait are the longest."""
    counts = ("counted", "emitted", "delivered", "buffered", "in_flight", "dropped", "rejected")
    sums = {name: sum(getattr(game, name) for game in games) for name in (*counts, "reconnects")}
    return Progress(
        **sums,
        seconds=max((game.seconds for game in games), default=0.0),
        longest_wait=max((game.longest_wait for game in games), default=0.0),
    )


def differences(games: Sequence[Progress], stored: Mapping[str, Stored]) -> list[str]:
    """Return the reasons why "every event once" is false; an empty list if it is true."""
    found = [
        f"game {number}: {reason}"
        for number, game in enumerate(games, 1)
        for reason in _differences(game, stored.get(game.session, Stored()))
    ]
    return found if games else ["there was no game"]


def _differences(game: Progress, stored: Stored) -> list[str]:
    count = game.counted
    found = [] if count else ["emitted nothing"]
    for name, actual, expected in (
        ("emitted", game.emitted, count),
        ("acknowledged", game.delivered, count),
        ("buffered", game.buffered, 0),
        ("in flight", game.in_flight, 0),
        ("dropped", game.dropped, 0),
        ("rejected", game.rejected, 0),
    ):
        if actual != expected:
            found.append(f"{actual} {name} instead of {expected}")
    if missing := stored.missing(count):
        found.append(f"{missing} of {count} missing in the lake")
    if stored.twice:
        found.append(f"{stored.twice} twice in the lake")
    if stored.last > count:
        found.append(f"number {stored.last} in the lake, and {count} is the last that it emitted")
    if stored.disordered:
        found.append(f"{stored.disordered} out of order in the lake")
    return found
