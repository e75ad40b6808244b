"""Places in the stream: an *epoch* and a sequence number, as one number that only grows.

The lake keeps the place up to which each partition is in it. A stream that has lost messages gives
their sequence numbers to other ones. Then it is read again, in the next epoch.
"""

from __future__ import annotations

__all__ = ["epoch_of", "first_of_epoch", "sequence_of"]

_BITS = 40  # of the sequence number: enough for 1,000 messages a second for 35 years


def epoch_of(place: int) -> int:
    """Return the epoch of a place in the stream."""
    return place >> _BITS


def sequence_of(place: int) -> int:
    """Return the sequence number of a place in the stream."""
    return place & ((1 << _BITS) - 1)


def first_of_epoch(epoch: int) -> int:
    """Return the place before the first message of an epoch."""
    return epoch << _BITS
