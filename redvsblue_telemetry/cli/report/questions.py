"""The questions of a report: from the words of the command line to records, and their answers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

import click
import msgspec

from ...collector.answers.questions import (
    Compare,
    Field,
    Filters,
    Funnel,
    Question,
    QuestionError,
    Retention,
    Values,
    funnel_step,
)
from ...collector.models import TimeRange
from .._arguments import TEXT

__all__ = ["Answered", "Asking", "Wanted", "answer", "question_options"]

Asking = Callable[[Question], Any]
"""Returns the answer to a question; raises QuestionError if it has none."""

_BETWEEN_STEPS = re.compile(r",(?![^\[]*\])")  # not those between the conditions of one step
_PLAYER = "context.player"


class Wanted(msgspec.Struct, frozen=True):
    """The questions as they were given."""

    field: tuple[str, ...] = ()
    by: str | None = None
    values: tuple[str, ...] = ()
    funnel: tuple[str, ...] = ()
    per: str = "session"
    retention: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()


class Answered(msgspec.Struct, frozen=True):
    """A question with its answer, as the API gives it."""

    kind: str
    """``field``, ``values``, ``funnel``, ``retention`` or ``compare``."""
    question: dict[str, Any]
    answer: Any


_OPTIONS = (
    click.option(
        "--field",
        metavar="TYPE.FIELD",
        type=TEXT,
        multiple=True,
        help="How a number is distributed, and over time: ship_hit.damage.",
    ),
    click.option(
        "--by",
        metavar="FIELD",
        type=TEXT,
        help="Each --field also by this one: version, context.player or weapon.",
    ),
    click.option(
        "--values",
        metavar="TYPE.FIELD",
        type=TEXT,
        multiple=True,
        help="The most frequent values: ship_hit.weapon.",
    ),
    click.option(
        "--funnel",
        metavar="TYPE,TYPE…",
        type=TEXT,
        multiple=True,
        help="How many come from each step to the next: round_start,round_end[result=won].",
    ),
    click.option(
        "--per",
        metavar="FIELD",
        type=TEXT,
        help="Whose steps a --funnel counts: session (the default), or context.player.",
    ),
    click.option(
        "--retention",
        metavar="FIELD",
        type=TEXT,
        multiple=True,
        help="How many come back after 1, 7 and 30 days, by a field of the context: "
        "context.player.",
    ),
    click.option(
        "--compare",
        metavar="VERSION,VERSION…",
        type=TEXT,
        multiple=True,
        help="Versions of the game side by side: 1.4.1,1.4.2.",
    ),
)


def question_options(command: Any) -> Any:
    """Add the options that ask questions."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def answer(
    connection: sqlite3.Connection, ask: Asking, wanted: Wanted, span: TimeRange, offset: int
) -> list[Answered]:
    """Return the answers to all questions, in the order in which the help lists them.

    Args:
        connection: the database.
        ask: answers the questions, which may be about more than the database has.
        wanted: the questions.
        span: the range that they are about.
        offset: the zone whose days they count by, in minutes east of UTC.

    Raises:
        QuestionError: one of them has no answer; the message begins with its option.
    """
    filters = Filters(span)
    asked: list[tuple[str, str, Question]] = []
    for text in wanted.field:
        type_, field = _split(connection, "field", text)
        question = Field(type=type_, field=field, by=wanted.by, offset=offset, filters=filters)
        asked.append(("field", text, question))
    for text in wanted.values:
        type_, field = _split(connection, "values", text)
        asked.append(("values", text, Values(type=type_, field=field, filters=filters)))
    for text in wanted.funnel:
        steps = [funnel_step(each.strip()) for each in _BETWEEN_STEPS.split(text)]
        asked.append(("funnel", text, Funnel(steps=steps, per=wanted.per, filters=filters)))
    for text in wanted.retention:
        name = text if text.startswith("context.") else f"context.{text}"
        asked.append(("retention", text, Retention(field=name, offset=offset, filters=filters)))
    for text in wanted.compare:
        versions = [each.strip() for each in text.split(",")]
        asked.append(("compare", text, Compare(versions=versions, filters=filters)))
    return [_answered(ask, *each) for each in asked]


def _answered(ask: Asking, kind: str, text: str, question: Question) -> Answered:
    try:
        found = ask(question)
    except QuestionError as error:
        raise QuestionError(f"--{kind} {text}: {error}") from None
    asked = msgspec.to_builtins(question)
    del asked["filters"]
    return Answered(kind, asked, found)


def _split(connection: sqlite3.Connection, option: str, text: str) -> tuple[str, str]:
    """Return the type and the field of ``ship_hit.damage``; a type may have dots, too.

    Raises:
        QuestionError: there is no dot between two names.
    """
    dots = [index for index, letter in enumerate(text) if letter == "."]
    for dot in reversed(dots):
        known = connection.execute("SELECT 1 FROM types WHERE name = ?", (text[:dot],)).fetchone()
        if known is not None and text[dot + 1 :]:
            return text[:dot], text[dot + 1 :]
    type_, _, field = text.partition(".")
    if not (type_ and field):
        raise QuestionError(f"--{option} {text}: it must be TYPE.FIELD, such as ship_hit.damage")
    return type_, field
