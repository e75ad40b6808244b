"""A number in the events of a type: its distribution, over time and by another field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..steps import steps
from .backend import INTEGER, NUMBER, TEXT, Backend
from .bins import Grid, grid_of
from .dialect import PERCENTILES
from .questions import Bin, Field, FieldAnswer, FieldGroup, Filters, Point, field_name
from .sql import add_facts, check_fields, check_type, plain, shown

__all__ = ["field", "mean_of"]

_SCALE = 2.0**64  # of the sums
_GROUP = ("group_text", "group_number")
# Beyond the first and the last percentile, by how much of the distance between them the histogram
# still shows the extremes in bins of their own: one wild number would leave a single bar.
_TAIL = 1.0


def field(backend: Backend, question: Field) -> FieldAnswer:
    """Return the distribution of a number."""
    check_type(backend, question.type)
    fields = [question.field] if question.by is None else [question.field, question.by]
    add_facts(backend, "facts", [question.type], ["received"], fields, question.filters)
    ((total, oldest, newest),) = backend.run(
        "SELECT count(*), min(received), max(received) FROM facts"
    )
    summary = backend.run(backend.dialect.percentiles("facts", [], "number0", (1, *PERCENTILES)))
    by = None if question.by is None else field_name(question.by)
    if not summary:
        check_fields(backend, question.type, fields, question.filters)
        return FieldAnswer(0, None, None, None, None, None, None, total, by=by)
    ((count, scaled, *extremes_and_percentiles),) = summary
    low, high, p1, p50, p95, p99 = map(plain, extremes_and_percentiles)
    span = question.filters.span
    time = steps(
        oldest if span.start is None else span.start,
        newest + 1 if span.end is None else max(span.end, newest + 1),
        question.offset,
    )
    slot = backend.dialect.quotient(f"received - ({time.first})", str(time.length))
    grouped = (
        ", text1 AS group_text, CASE WHEN text1 IS NULL THEN number1 END AS group_number"
        if question.by is not None
        else ""
    )
    backend.run(
        f"CREATE TEMP VIEW stepped AS SELECT {slot} AS slot, number0 AS number{grouped} "
        "FROM facts WHERE number0 IS NOT NULL"
    )
    points = _ordered(backend, "stepped", ["slot"])
    groups = _groups(backend, question.limit, time.first, time.length) if by is not None else []
    if by is not None and [group.value for group in groups] == [None]:
        check_fields(backend, question.type, [by], Filters())
    return FieldAnswer(
        count,
        mean_of(scaled, count),
        low,
        high,
        p50,
        p95,
        p99,
        total - count,
        histogram=_histogram(backend, low, high, p1, p99, count),
        step=time.length,
        over_time=[
            Point(time.first + slot * time.length, events, plain(p50), plain(p95), plain(p99))
            for slot, events, _, _, _, p50, p95, p99 in points
        ],
        by=by,
        groups=groups,
        others=count - sum(group.count for group in groups) if by is not None else 0,
    )


def _ordered(backend: Backend, relation: str, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    query = backend.dialect.percentiles(relation, keys, "number")
    return backend.run(f"{query} ORDER BY {', '.join(keys)}")


def _groups(backend: Backend, limit: int, first: int, length: int) -> list[FieldGroup]:
    found = backend.run(
        f"{backend.dialect.percentiles('stepped', _GROUP, 'number')} "
        "ORDER BY count DESC, group_text NULLS LAST, group_number NULLS LAST LIMIT ?",
        limit,
    )
    backend.add(
        "top",
        {"place": INTEGER, "top_text": TEXT, "top_number": NUMBER},
        [range(len(found)), [text for text, *_ in found], [number for _, number, *_ in found]],
    )
    same = backend.dialect.same
    backend.run(
        "CREATE TEMP VIEW of_top AS SELECT place, slot, number FROM stepped JOIN top "
        f"ON {same('group_text', 'top_text')} AND {same('group_number', 'top_number')}"
    )
    over_time: list[list[tuple[int, int, float, float]]] = [[] for _ in found]
    for place, slot, count, _, _, _, p50, p95, _ in _ordered(backend, "of_top", ["place", "slot"]):
        over_time[place].append((first + slot * length, count, plain(p50), plain(p95)))
    groups = []
    for (text, number, count, scaled, *extremes_and_percentiles), points in zip(
        found, over_time, strict=True
    ):
        low, high, p50, p95, p99 = map(plain, extremes_and_percentiles)
        mean = mean_of(scaled, count)
        groups.append(
            FieldGroup(shown(text, number), count, mean, low, high, p50, p95, p99, points)
        )
    return groups


def mean_of(scaled: float, count: int) -> float:
    """Return the mean of numbers whose sum is scaled as a dialect's is."""
    return scaled / count * _SCALE


def _histogram(
    backend: Backend, low: float, high: float, p1: float, p99: float, count: int
) -> list[Bin]:
    core = p99 - p1
    first, last = low, high
    if core > 0:
        first = low if p1 - low <= _TAIL * core else p1
        last = high if high - p99 <= _TAIL * core else p99
    whole = f"CAST({backend.dialect.whole('abs(number)')} AS DOUBLE PRECISION)"
    # From 2**52 on, all are whole. In one case: the conditions of a query have no order.
    fractions = backend.run(
        f"SELECT 1 FROM stepped WHERE CASE WHEN abs(number) < {2**52} "
        f"THEN {whole} <> abs(number) ELSE 0 = 1 END LIMIT 1"
    )
    grid = grid_of(first, last, are_whole=not fractions)
    if grid is None or grid.bins == 1:
        return [Bin(plain(low), plain(high), count)]
    counts = _counts_by_bin(backend, grid)
    edges = [grid.edge(place) for place in range(grid.bins + 1)]
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return [
        Bin(plain(edges[place]), plain(edges[place + 1]), counts.get(place, 0))
        for place in range(grid.bins)
    ]


def _counts_by_bin(backend: Backend, grid: Grid) -> dict[int, int]:
    """Return the counts, as a comparison with the edges would give them."""
    last = grid.bins - 1
    inner, outer = grid.edge(1), grid.edge(last)
    start, multiplier, divisor = float(grid.start), grid.multiplier, grid.divisor
    # A bin is computed first, for comparing with each edge takes long, and may be one off.
    rows = backend.run(
        "SELECT place + CASE WHEN number >= (? + place + 1) * ? / ? THEN 1 "
        "WHEN number < (? + place) * ? / ? THEN -1 ELSE 0 END AS bin, count(*) "
        f"FROM (SELECT number, {backend.dialect.whole('number / ? * ? - ?')} AS place "
        "FROM stepped WHERE number >= ? AND number < ?) AS inside GROUP BY bin "
        "UNION ALL SELECT 0, count(*) FROM stepped WHERE number < ? "
        f"UNION ALL SELECT {last}, count(*) FROM stepped WHERE number >= ?",
        *(start, multiplier, divisor) * 2,
        *(multiplier, divisor, start),
        *(inner, outer, inner, outer),
    )
    return dict(rows)
