"""The words for how sessions end, and for why events are missing.

The live page has the same ones, in outcome.js.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..collector.models import Cause, Outcome

__all__ = ["OUTCOMES", "cause_word", "harmless", "is_harmless", "outcome_word"]

OUTCOMES = {
    Outcome.RUNNING: ("●", "running"),
    Outcome.CRASHED: ("✕", "crashed"),
    Outcome.KILLED: ("■", "killed"),
    Outcome.NO_WORD: ("?", "no word"),
    Outcome.SWITCHED_OFF: ("\u2013", "switched off"),
    Outcome.WELL: ("✓", "ended well"),
}
"""For each outcome, a mark and a word."""

_HARMLESS = {"filtered", "switched_off", "forwarded", Cause.WAITING}


def outcome_word(outcome: str) -> str:
    """Return the word for an outcome; a newer collector may have others."""
    _, word = OUTCOMES.get(outcome, ("", outcome.replace("_", " ")))
    return word


def cause_word(cause: str) -> str:
    """Return the word for the cause of a loss, which a client may have chosen."""
    return cause.replace("_", " ")


def is_harmless(cause: str) -> bool:
    """Return whether nobody has to look into events that are missing for this cause."""
    return cause in _HARMLESS


def harmless(lost: Mapping[str, int], waiting: int) -> int:
    """Return how many missing events nobody has to look into.

    Args:
        lost: the missing events by cause.
        waiting: those that wait on the player's machine.
    """
    return waiting + sum(count for cause, count in lost.items() if is_harmless(cause))
