"""The ids of events, short: most are a run, a hyphen and the number of the event.

The run is kept with the session, of which it is a part of the first event's id. It is stored only
for sessions that began with this form of the ids, so that the ids of older rows stay as they are.
"""

from __future__ import annotations

from ..messages import Event

__all__ = ["restored_id", "run_of", "short_id"]

_AS_IT_IS = "\0"  # before an id that could be taken for another form


def run_of(event: Event) -> str | None:
    """Return the part of an event's id before its number; None if the id is another one."""
    number = f"-{event.seq}"
    return event.id[: -len(number)] if event.id.endswith(number) else None


def short_id(event: Event, run: str | None) -> str:
    """Return the id of an event as it is stored in a session with this run."""
    if run is None:
        return event.id
    if event.id == f"{run}-{event.seq}":
        return ""
    return event.id if event.id[:1] not in ("", _AS_IT_IS) else _AS_IT_IS + event.id


def restored_id(stored: str, run: str | None, seq: int) -> str:
    """Return the id that :func:`short_id` made short."""
    if run is None:
        return stored
    if not stored:
        return f"{run}-{seq}"
    return stored[1:] if stored[0] == _AS_IT_IS else stored
