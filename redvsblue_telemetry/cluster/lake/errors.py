"""The errors of the lake that its users have to act on."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LakeError", "LostPartitionsError"]


class LakeError(Exception):
    """The lake can't be used now; the message says why. Nothing is half done."""


class LostPartitionsError(Exception):
    """Another process has committed to partitions of a claim, so they are no longer the claim's.

    Attributes:
        partitions: those that are lost.
    """

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = frozenset(partitions)
        listed = ", ".join(map(str, sorted(self.partitions)))
        super().__init__(f"another loader has committed to these partitions: {listed}")
