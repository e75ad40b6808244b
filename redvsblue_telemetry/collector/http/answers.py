"""The part of the API that answers questions about what happened.

Each path takes the filters ``from``, ``to``, ``version``, ``context`` and ``where`` besides its own
parameters, unless its docstring says otherwise.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..._shared import escape
from ..answers.backend import Backend
from ..answers.questions import (
    Compare,
    Condition,
    Field,
    Fields,
    Filters,
    Funnel,
    Question,
    QuestionError,
    Retention,
    Values,
    funnel_step,
)
from .parameters import (
    MAX_ECHO,
    RANGE,
    BadRequestError,
    check_names,
    context_of,
    number,
    time_range,
    zone_of,
)
from .readers import Lane
from .responses import as_error, as_json
from .source import Sources

__all__ = ["Answers"]

_FILTERS = (*RANGE, "version", "context", "where")
_MAX_GROUPS = 50
_MAX_VALUES = 200
_MAX_VERSIONS = 20
_MAX_VALUE_LENGTH = 1000  # characters that a filter compares with
_MAX_CONDITIONS = 20
_TIMELINE_SECONDS = 2.0  # after which a timeline covers what has been read


class Answers:
    """The routes. They run on the event loop's thread, and read the storage on others.

    Args:
        sources: open the storage.
        engine: the one that answers.
    """

    def __init__(self, sources: Sources, engine: type[Backend]) -> None:
        self._lane = Lane(sources, "answers", 2, too_slow=engine.advice)
        # One session's events are few, or as many as can be looked at in that time.
        self._timelines = Lane(sources, "timelines", 1, _TIMELINE_SECONDS)
        self._lane.prepare(engine.prepare)
        self.routes = [
            Route("/api/fields", self._fields),
            Route("/api/answers/field", self._field),
            Route("/api/answers/values", self._values),
            Route("/api/answers/compare", self._compare),
            Route("/api/answers/funnel", self._funnel),
            Route("/api/answers/retention", self._retention),
            Route("/api/answers/timeline", self._timeline),
        ]

    def close(self) -> None:
        """End what still reads the storage."""
        self._lane.close()
        self._timelines.close()

    async def _fields(self, request: Request) -> Response:
        """Return the fields that events have, as a :class:`FieldPage`.

        Parameter: ``type``; without it, the fields of contexts. No filters.
        """
        check_names(request, "type")
        return await self._answered(request, Fields(type=request.query_params.get("type") or None))

    async def _field(self, request: Request) -> Response:
        """Return how a number is distributed, also over time, as a :class:`FieldAnswer`.

        Parameters: ``type``, ``field``, ``by``, ``limit`` and ``offset``.
        """
        _check_names(request, "type", "field", "by", "limit", "offset")
        question = Field(
            type=_needed(request, "type"),
            field=_needed(request, "field"),
            by=request.query_params.get("by") or None,
            limit=_limit(request, 8, _MAX_GROUPS),
            offset=zone_of(request),
            filters=_filters(request),
        )
        return await self._answered(request, question)

    async def _values(self, request: Request) -> Response:
        """Return how often each value of a field occurs, as a :class:`ValuesAnswer`.

        Parameters: ``type``, ``field`` and ``limit``.
        """
        _check_names(request, "type", "field", "limit")
        question = Values(
            type=_needed(request, "type"),
            field=_needed(request, "field"),
            limit=_limit(request, 50, _MAX_VALUES),
            filters=_filters(request),
        )
        return await self._answered(request, question)

    async def _compare(self, request: Request) -> Response:
        """Return versions side by side, as a :class:`ComparePage`.

        Parameters: ``version``, several times, and ``type`` with ``field``. Of the filters, it
        takes only ``from`` and ``to``.
        """
        check_names(request, "version", "type", "field", *RANGE, repeatable=("version",))
        versions = [*dict.fromkeys(filter(None, request.query_params.getlist("version")))]
        if not 1 <= len(versions) <= _MAX_VERSIONS:
            raise BadRequestError(
                f"{len(versions)} versions given; give 1 to {_MAX_VERSIONS}, "
                "such as version=1.4.1&version=1.4.2"
            )
        wants_field = any(request.query_params.get(name) for name in ("type", "field"))
        question = Compare(
            versions=versions,
            type=_needed(request, "type") if wants_field else None,
            field=_needed(request, "field") if wants_field else None,
            filters=Filters(time_range(request)),
        )
        return await self._answered(request, question)

    async def _funnel(self, request: Request) -> Response:
        """Return how many come from each step to the next, as a :class:`FunnelAnswer`.

        Parameters: ``step``, two to eight times in order, and ``per``.
        """
        _check_names(request, "step", "per", repeatable=("step",))
        _needed(request, "step")
        question = Funnel(
            steps=[funnel_step(text) for text in request.query_params.getlist("step")],
            per=request.query_params.get("per") or "session",
            filters=_filters(request),
        )
        return await self._answered(request, question)

    async def _retention(self, request: Request) -> Response:
        """Return how many players come back, as a :class:`RetentionAnswer`.

        Parameters: ``field``, ``days`` and ``offset``.
        """
        _check_names(request, "field", "days", "offset")
        question = Retention(
            field=request.query_params.get("field", ""),
            days=_days(request),
            offset=zone_of(request),
            filters=_filters(request),
        )
        return await self._answered(request, question)

    async def _timeline(self, request: Request) -> Response:
        """Return one session by time, as a :class:`Timeline`; 404 if there is no such session.

        Parameter: ``session``. It takes no filters.
        """
        check_names(request, "session")
        session_id = _needed(request, "session")
        found = await self._timelines.read(
            request, lambda source, cutoff: source.timeline(session_id, cutoff)
        )
        if found is None:
            return as_error(404, f"session not found: {escape(session_id[:MAX_ECHO])}")
        return as_json(found)

    async def _answered(self, request: Request, question: Question) -> Response:
        try:
            answer: Any = await self._lane.read(
                request, lambda source, cutoff: source.answer(question, cutoff)
            )
        except QuestionError as error:
            raise BadRequestError(str(error)) from error
        return as_json(answer)


def _check_names(request: Request, *known: str, repeatable: tuple[str, ...] = ()) -> None:
    check_names(request, *known, *_FILTERS, repeatable=("context", "where", *repeatable))


def _needed(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise BadRequestError(f"{name} is missing; give one, such as {name}={_EXAMPLES[name]}")
    return value


_EXAMPLES = {
    "field": "damage",
    "session": "ID",
    "step": "round_start&step=round_end",
    "type": "ship_hit",
}


def _days(request: Request) -> list[int]:
    """Return the numbers of days, which are given with commas between them."""
    text = request.query_params.get("days") or "1,7,30"
    given = [each.strip() for each in text.split(",")]
    if not all(each.isascii() and each.isdigit() and len(each) < 5 for each in given):
        raise BadRequestError(
            f"days is {text[:MAX_ECHO]!r}; it must be whole numbers, such as days=1,7,30"
        )
    return [int(each) for each in given]


def _limit(request: Request, default: int, most: int) -> int:
    limit = number(request, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise BadRequestError(f"limit is {limit}; it must be 1 to {most}")
    return limit


def _filters(request: Request) -> Filters:
    """Return the filters that all questions take."""
    asked = request.query_params
    conditions = []
    if version := asked.get("version"):
        conditions.append(Condition("version", version))
    fields = context_of(asked.getlist("context"))
    conditions += [Condition(f"context.{name}", value) for name, value in fields.items()]
    for each in asked.getlist("where"):
        field, separator, value = each.partition("=")
        if not (field and separator):
            raise BadRequestError(
                f"where is {each[:MAX_ECHO]!r}; it must be field=value, such as data.weapon=laser"
            )
        if len(value) > _MAX_VALUE_LENGTH:
            raise BadRequestError(
                f"where has a value of {len(value)} characters; the maximum is {_MAX_VALUE_LENGTH}"
            )
        conditions.append(Condition(field, value))
    if len(conditions) > _MAX_CONDITIONS:
        raise BadRequestError(
            f"{len(conditions)} filters are too many; the maximum is {_MAX_CONDITIONS}"
        )
    return Filters(time_range(request), tuple(conditions))
