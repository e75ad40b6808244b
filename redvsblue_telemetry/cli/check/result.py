"""What a check has to say: one finding for each step."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Finding", "Problem", "State"]


class State(str, enum.Enum):
    """How a step went."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should know about it."""
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step found out."""

    step: str
    state: State
    detail: str
    """What was seen."""
    advice: str = ""
    """What to do about it."""


class Problem(Exception):  # noqa: N818 (it is a finding, that ends the step where it is met)
    """A step failed.

    Attributes:
        detail: what was seen.
        advice: what to do about it.
    """

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice
