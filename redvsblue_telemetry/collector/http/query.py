"""The part of the API that runs SQL, each query in a separate process.

A process can be limited by the system and killed at any instruction, which a thread can't;
:mod:`..storage.sandbox` says what a query could do otherwise.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..cells import cell
from ..ingest import Ingest
from ..models import MAX_PAGE_SIZE
from ..storage import sandbox
from ..storage.cutoff import Cutoff
from ..storage.database import Database, DatabaseError
from ..storage.sandbox import MAX_SQL
from ..storage.views import views
from .parameters import MAX_ECHO, BadRequestError, check_names, number
from .readers import BusyError, Lane, reading_of
from .responses import as_json

__all__ = [
    "MAX_BYTES",
    "SECONDS",
    "TOO_SLOW",
    "DatabaseRunner",
    "Queries",
    "QueryResult",
    "Runner",
]

SECONDS = 10.0
"""How long a query may take."""
TOO_SLOW = f"the query took longer than {SECONDS:g} s; narrow it, by a type for example"
MAX_BYTES = 8 * 1024 * 1024
"""Of a response."""
_STARTING_SECONDS = 5.0  # until the process runs, on a busy machine
_MEMORY = 512 * 1024 * 1024  # bytes
_TEMPORARY_BYTES = 256 * 1024 * 1024  # in one file
_LOOK_SECONDS = 0.05  # between two looks whether the client is there
if sys.platform == "win32":
    # The executable of a virtual environment only starts the real interpreter, and killing it would
    # leave that one running. The query needs none of the environment's packages.
    _PYTHON = getattr(sys, "_base_executable", sys.executable)
    # It opens no console window, and games on this machine have a higher priority.
    _FLAGS = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
else:
    _PYTHON = sys.executable
    _FLAGS = 0


class QueryResult(msgspec.Struct):
    """The result of a query."""

    columns: list[str]
    rows: list[list[Any]]
    """Bytes are texts such as ``x'00ff'``, infinities ``Infinity`` and ``-Infinity``."""
    partial: bool
    """Whether there are more rows."""


class _Answer(msgspec.Struct):
    """What the process writes: a result, or why there is none."""

    columns: list[str] = []
    rows: list[list[Any]] = []
    partial: bool = False
    error: str | None = None
    slow: str | None = None
    unreadable: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Runner(Protocol):
    """Runs queries. Called on the event loop's thread."""

    async def result(self, request: Request, sql: str, limit: int) -> QueryResult:
        """Return the result of a query, with at most this many rows.

        Raises:
            BadRequestError: the query is wrong.
            BusyError: it takes too long, or needs too much memory.
            ClientGoneError: the client disconnected.
            DatabaseError, UnreadableError: the storage can't be read.
        """

    def close(self) -> None:
        """End the query that runs."""


class DatabaseRunner:
    """Runs queries over a database, and waits for their processes on another thread.

    Args:
        database: the database to read.
        ingest: knows the connected clients.
    """

    def __init__(self, database: Database, ingest: Ingest) -> None:
        self._database = database
        self._ingest = ingest
        self._lane = Lane(
            reading_of(database),
            "queries",
            1,
            seconds=SECONDS + _STARTING_SECONDS,
            too_slow=TOO_SLOW,
        )

    def close(self) -> None:
        """End the query that runs."""
        self._lane.close()

    async def result(self, request: Request, sql: str, limit: int) -> QueryResult:
        """Return the result of a query."""
        asked = msgspec.json.encode(
            {
                "uri": self._database.readonly_uri,
                "views": views(connected=self._ingest.connected_sessions),
                "sql": sql,
                "limit": limit,
                "bytes": MAX_BYTES,
                "seconds": SECONDS,
                "memory": _MEMORY,
                "file_bytes": _TEMPORARY_BYTES,
            }
        )
        return await self._lane.read(request, lambda _, cutoff: _run(asked, cutoff))


class Queries:
    """The route. It runs on the event loop's thread.

    Args:
        runner: runs the queries.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.routes = [Route("/api/query", self._query)]

    def close(self) -> None:
        """End the query that runs."""
        self._runner.close()

    async def _query(self, request: Request) -> Response:
        """Return the result of a query over the documented views, as a :class:`QueryResult`.

        Parameters: ``sql``, ``limit`` and ``format``, which is ``json`` or ``csv``.
        """
        check_names(request, "sql", "limit", "format")
        sql = request.query_params.get("sql", "")
        form = request.query_params.get("format", "json")
        if form not in ("json", "csv"):
            raise BadRequestError(f"format is {form[:MAX_ECHO]!r}; it must be json or csv")
        if len(sql) > MAX_SQL:
            raise BadRequestError(f"sql has {len(sql):,} characters; the maximum is {MAX_SQL:,}")
        limit = number(request, "limit")
        if limit is None:
            limit = MAX_PAGE_SIZE
        if not 1 <= limit <= MAX_PAGE_SIZE:
            raise BadRequestError(f"limit is {limit}; it must be 1 to {MAX_PAGE_SIZE}")
        result = await self._runner.result(request, sql, limit)
        return _as_csv(result) if form == "csv" else as_json(result)


def _run(asked: bytes, cutoff: Cutoff) -> QueryResult:
    """Run a query in a process, and return its result.

    Raises:
        BadRequestError: the query is wrong.
        BusyError: it takes too long, or needs too much memory.
        CutoffError: nobody waits for it any more.
        DatabaseError: the database can't be read.
    """
    process = subprocess.Popen(
        [_PYTHON, "-I", "-S", sandbox.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=_FLAGS,
    )
    with process:
        try:
            output = _communicate(process, asked, cutoff)
        finally:
            process.kill()
    try:
        answer = _decode(output)
    except msgspec.DecodeError:
        # The system ended it: SQLite can run out of memory in places where it can't say so.
        raise BusyError("the query took too long, or needs too much memory") from None
    if answer.error is not None:
        raise BadRequestError(answer.error)
    if answer.slow is not None:
        raise BusyError(answer.slow)
    if answer.unreadable is not None:
        raise DatabaseError(f"cannot read the database: {answer.unreadable}")
    return QueryResult(answer.columns, answer.rows, answer.partial)


def _communicate(process: subprocess.Popen[bytes], asked: bytes, cutoff: Cutoff) -> bytes:
    given: bytes | None = asked
    while True:
        try:
            output, _ = process.communicate(given, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            given = None  # it is on its way
            cutoff.check()
        else:
            return output


def _as_csv(result: QueryResult) -> Response:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    for row in (result.columns, *result.rows):
        writer.writerow([cell(each) if isinstance(each, str) else each for each in row])
    headers = {"Content-Disposition": 'attachment; filename="query.csv"'}
    if result.partial:
        headers["Telemetry-Partial"] = "true"
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)
