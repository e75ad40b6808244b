"""The parameters of a request to the API: what they are called, and the errors of invalid ones.

Functions that read parameters raise :class:`BadRequestError`, which is answered with status 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from starlette.requests import Request

from ..models import MAX_CONTEXT_VALUE_LENGTH, MAX_PAGE_SIZE, EventFilter, TimeRange

__all__ = [
    "FILTERS",
    "MAX_ECHO",
    "PAGING",
    "RANGE",
    "BadRequestError",
    "Paging",
    "check_names",
    "context_of",
    "event_filter",
    "limit_of",
    "number",
    "paging_of",
    "time_range",
    "wants_data_as_text",
    "zone_of",
]

MAX_ECHO = 100
"""Characters of the request that an error repeats."""
FILTERS = ("type", "session", "text", "context", "fault")
PAGING = ("after", "before", "limit", "order")
RANGE = ("from", "to")
_DEFAULT_PAGE_SIZE = 100
_MAX_SEARCH_LENGTH = 1000  # characters
_MAX_OFFSET = 24 * 60  # minutes; no zone is as far from UTC


class BadRequestError(Exception):
    """The request is invalid; the message says why."""


class Paging(TypedDict):
    """Which page of events or rejected messages a request asks for."""

    after: int
    before: int | None
    limit: int
    newest_first: bool


def check_names(request: Request, *known: str, repeatable: Sequence[str] = ("context",)) -> None:
    """Refuse unknown parameters: a misspelled one would silently have no effect.

    Args:
        request: the request.
        known: the names that its path takes.
        repeatable: those of them that may be given several times.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            allowed = f"use {', '.join(known)}" if known else "this path takes none"
            raise BadRequestError(f"unknown parameter {name[:MAX_ECHO]!r}; {allowed}")
        if given.count(name) > 1 and name not in repeatable:
            raise BadRequestError(f"{name} is given more than once")


def event_filter(request: Request) -> EventFilter:
    """Return the events that ``type``, ``session``, ``text``, ``context`` and ``fault`` ask for."""
    asked = request.query_params
    return EventFilter(
        type=asked.get("type") or None,
        session=asked.get("session") or None,
        text=_searched(request, "text"),
        context=context_of(asked.getlist("context")),
        fault=_searched(request, "fault"),
    )


def _searched(request: Request, name: str) -> str | None:
    text = request.query_params.get(name) or None
    if text is not None and len(text) > _MAX_SEARCH_LENGTH:
        raise BadRequestError(
            f"{name} has {len(text)} characters; the maximum is {_MAX_SEARCH_LENGTH}"
        )
    return text


def context_of(given: list[str]) -> dict[str, str]:
    """Return the wanted fields of the context, each given as ``name=value``."""
    fields: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not (name and separator):
            raise BadRequestError(f"context is {each[:MAX_ECHO]!r}; it must be name=value")
        if len(value) > MAX_CONTEXT_VALUE_LENGTH:
            raise BadRequestError(
                f"context has a value of {len(value)} characters; the maximum is "
                f"{MAX_CONTEXT_VALUE_LENGTH}"
            )
        if fields.setdefault(name, value) != value:
            raise BadRequestError(f"context has two values for {name[:MAX_ECHO]!r}")
    return fields


def paging_of(request: Request, default_order: str) -> Paging:
    """Return the page that ``after``, ``before``, ``limit`` and ``order`` ask for."""
    order = request.query_params.get("order", default_order)
    if order not in ("asc", "desc"):
        raise BadRequestError(f"order is {order[:MAX_ECHO]!r}; it must be asc or desc")
    return {
        "after": number(request, "after") or 0,
        "before": number(request, "before"),
        "limit": limit_of(request),
        "newest_first": order == "desc",
    }


def wants_data_as_text(request: Request) -> bool:
    """Return whether ``data`` asks for the data of events as a string."""
    form = request.query_params.get("data", "json")
    if form not in ("json", "text"):
        raise BadRequestError(f"data is {form[:MAX_ECHO]!r}; it must be json or text")
    return form == "text"


def number(request: Request, name: str) -> int | None:
    """Return a whole number, or None if it is not given."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # SQLite's integers have 63 bits
        raise BadRequestError(f"{name} must be a whole number, not {text[:MAX_ECHO]!r}")
    return int(text)


def time_range(request: Request) -> TimeRange:
    """Return the range that ``from`` and ``to`` ask for; open where they are not given."""
    start, end = number(request, "from"), number(request, "to")
    if start is not None and end is not None and start > end:
        raise BadRequestError(f"from is {start}, which is after to, {end}")
    return TimeRange(start, end)


def zone_of(request: Request) -> int:
    """Return ``offset``, the zone of the viewer in minutes east of UTC; 0 if it is not given."""
    text = request.query_params.get("offset", "0")
    digits = text[1:] if text[:1] in ("-", "+") else text
    is_whole = digits.isascii() and digits.isdigit() and len(digits) <= len(str(_MAX_OFFSET))
    if not is_whole or int(digits) > _MAX_OFFSET:
        raise BadRequestError(
            f"offset must be minutes east of UTC, from -{_MAX_OFFSET} to {_MAX_OFFSET}, "
            f"not {text[:MAX_ECHO]!r}"
        )
    return int(text)


def limit_of(request: Request) -> int:
    """Return ``limit``, the most entries of a page."""
    limit = number(request, "limit")
    if limit is None:
        return _DEFAULT_PAGE_SIZE
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise BadRequestError(f"limit is {limit}; it must be 1 to {MAX_PAGE_SIZE}")
    return limit
