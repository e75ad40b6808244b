"""``query``: run SQL over the stored events, and print the rows."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..collector.cells import cell
from ..collector.storage.database import DatabaseError
from ..collector.storage.sandbox import Query, QueryError, as_json_value, new_schema
from ..collector.storage.views import views
from ._arguments import Duration, db_option
from ._database import open_database
from ._lake import check_source, lake_option, opened_lake, source_path
from ._output import output_to
from ._terminal import CommandError, notice, printable

__all__ = ["query"]

_TABLE_ROWS = 1000
_MAX_WIDTH = 60  # of a column of a table
_STEPS_BETWEEN_LOOKS = 100_000  # of SQLite, until a Ctrl-C is noticed: a few milliseconds


@click.command()
@db_option
@lake_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="The format to write. JSON is one object a line.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Write to this file. The default, -, is standard output.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1),
    help="Write at most this many rows.  [default: 1000 for a table, else all]",
)
@click.option(
    "--timeout",
    metavar="TIME",
    type=Duration(),
    default="30s",
    show_default=True,
    help="End the query after this time.",
)
@click.argument("sql")
def query(
    db: Path,
    lake: str | None,
    format_: str,
    output: str,
    limit: int | None,
    timeout: float,
    sql: str,
) -> None:
    """Run SQL over the stored events, and print the rows.

    SQL is a SELECT over the views events, sessions, counts and rejected; - reads it from standard
    input. It can't change anything. The page "SQL" of the documentation has the columns, and
    examples. Times are in milliseconds since the epoch. Over a lake, it is the SQL of DuckDB.
    """
    if sql == "-":
        try:
            sql = sys.stdin.read().removeprefix("\ufeff")  # the mark of an editor on Windows
        except UnicodeDecodeError as error:
            raise CommandError(f"standard input is not {error.encoding}") from error
    if not output:
        raise click.BadParameter("the file name is empty", param_hint="'--output'")
    if limit is None and format_ == "table":
        limit = _TABLE_ROWS
    check_source(lake=lake)
    try:
        with (
            output_to(output, source_path(db, lake)) as stream,
            _opened_database(db) if lake is None else _opened_lake(lake) as opened,
            opened.run(sql, timeout) as (columns, rows),
        ):
            _FORMATS[format_](columns, itertools.islice(rows, limit), stream)
            has_more = limit is not None and next(rows, None) is not None
    except QueryError as error:
        if str(error) == "interrupted":
            raise KeyboardInterrupt from error
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        raise CommandError(str(error)) from error
    if has_more:
        notice(f"there are more than these {limit:,} rows; see --limit")


@contextlib.contextmanager
def _opened_database(db: Path) -> Iterator[Query]:
    schema = new_schema()
    with open_database(db, schema) as connection:
        connection.set_progress_handler(lambda: 0, _STEPS_BETWEEN_LOOKS)
        yield Query(connection, schema, views())


@contextlib.contextmanager
def _opened_lake(url: str) -> Iterator[Any]:
    with opened_lake(url) as reading:
        sql: Any = import_module("..cluster.lake.sql", __package__)  # needs an extra
        yield sql.LakeQuery(reading)


def _write_table(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], stream: BinaryIO) -> None:
    """Write rows as aligned text, numbers to the right."""
    found = list(rows)
    cells = [[_shown(value) for value in row] for row in found]
    titles = [printable(name, _MAX_WIDTH) for name in columns]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    is_number = [
        bool(found) and all(isinstance(value, (int, float, type(None))) for value in column)
        for column in (zip(*found, strict=True) if found else [()] * len(titles))
    ]
    for line in (titles, ["-" * width for width in widths], *cells):
        parts = [
            part.rjust(width) if is_right else part.ljust(width)
            for part, width, is_right in zip(line, widths, is_number, strict=True)
        ]
        stream.write("  ".join(parts).rstrip().encode() + b"\n")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
    return printable(str(as_json_value(value)), _MAX_WIDTH)


def _write_csv(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
        writer.writerow(map(cell, columns))
        for row in rows:
            writer.writerow(_cells(row))
    finally:
        text.detach()


def _cells(row: tuple[Any, ...]) -> Iterator[Any]:
    for value in map(as_json_value, row):
        yield cell(value) if isinstance(value, str) else value


def _write_json(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], stream: BinaryIO) -> None:
    if len(set(columns)) < len(columns):
        raise QueryError("two columns have one name, which JSON can't have; name them with AS")
    for row in rows:
        values = map(as_json_value, row)
        stream.write(json.dumps(dict(zip(columns, values, strict=True))).encode() + b"\n")


_FORMATS: dict[str, Callable[[Sequence[str], Iterable[tuple[Any, ...]], BinaryIO], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
}
