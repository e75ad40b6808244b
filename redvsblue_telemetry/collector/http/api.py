"""What is asked of the collector by HTTP: JSON for programs, a stream for the page.

Each route's docstring says what it takes and what it answers; the page on the API has an example of
each. All times are in milliseconds since the epoch. What goes wrong is answered with
``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..ingest import Ingest
from ..models import (
    EventFilter,
    EventPage,
    LiveUpdate,
    RejectedPage,
    SessionPage,
    Stats,
    StoredEvent,
)
from ..storage import queries
from ..storage.database import Database, DatabaseError
from ..storage.thread import WriterThread
from .live import Live
from .metrics import Metrics

__all__ = ["Api"]

_MOST = 1000  # of anything, in one answer
_TEXT_LENGTH = 1000  # of what to look for
_ECHOED = 100  # characters of what was asked for, in an answer that says no
_READERS = 4  # threads at once: what is asked must leave the processor to ingest
_FILTERS = ("type", "session", "text")
_PAGING = ("after", "before", "limit", "order")
_Answer = TypeVar("_Answer")


class _BadRequestError(Exception):
    """The request can't be understood; the message says why."""


class _Anything(Convertor[str]):
    """The rest of a path, whatever is in it: Starlette's own ``path`` ends at a line's end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


class _LiveResponse(StreamingResponse):
    """A stream that knows who looks at it, and ends when nobody does."""

    def __init__(self, live: Live, wanted: EventFilter, *, as_text: bool) -> None:
        self._live = live
        self._looks = _as_server_sent_events(live.watch(wanted), as_text=as_text)
        super().__init__(self._looks, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._live.viewing():
            async with contextlib.aclosing(self._looks):
                await super().__call__(scope, receive, send)


class Api:
    """The routes. On the event loop's thread; what is read is read on others.

    Args:
        database: what is read.
        storage: deletes, and knows whether anything can be stored.
        ingest: knows who is connected.
        live: what is shown as it comes.
        metrics: what is counted.
        allow_reset: whether everything may be deleted.
    """

    def __init__(
        self,
        database: Database,
        storage: WriterThread,
        ingest: Ingest,
        live: Live,
        metrics: Metrics,
        *,
        allow_reset: bool,
    ) -> None:
        self._database = database
        self._storage = storage
        self._ingest = ingest
        self._live = live
        self._metrics = metrics
        self._allow_reset = allow_reset
        self._readers = asyncio.Semaphore(_READERS)
        self.routes = [
            Route("/api/events", self._events, methods=["GET", "DELETE"]),
            Route("/api/sessions", self._sessions),
            Route("/api/sessions/{session_id:anything}", self._session),
            Route("/api/rejected", self._rejected),
            Route("/api/stats", self._stats),
            Route("/api/live", self._stream),
            Route("/healthz", self._healthz),
            Route("/metrics", self._exposition),
        ]
        self.error_handlers = {
            _BadRequestError: _bad_request,
            DatabaseError: _unavailable,
            sqlite3.Error: _unreadable,
            HTTPException: _refused,
            Exception: _failed,
        }

    async def _read(self, query: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        def read() -> _Answer:
            with self._database.reading() as connection:
                return query(connection)

        async with self._readers:
            return await asyncio.to_thread(read)

    async def _events(self, request: Request) -> Response:
        """Some events, in the order of their arrival; or, by DELETE, none any more.

        Takes ``type``, ``session``, ``text``, ``after``, ``before``, ``limit``, ``order`` and
        ``data``, and answers an :class:`EventPage`. Only a page after the last event is empty.
        """
        if request.method == "DELETE":
            return await self._delete_events(request)
        _check(request, *_FILTERS, *_PAGING, "data")
        wanted, as_text = _filter(request), _wants_data_as_text(request)
        after, before, limit = _cursor(request)
        newest_first = _is_newest_first(request, default="asc")
        found = await self._read(
            lambda connection: queries.events(
                connection,
                wanted,
                after=after,
                before=before,
                limit=limit,
                newest_first=newest_first,
            )
        )
        following = found[-1].arrival if found else (before or 0 if newest_first else after)
        events = _with_data_as_text(found) if as_text else found
        return _json(EventPage(events, following))

    async def _delete_events(self, request: Request) -> Response:
        """Delete all that is stored. Takes nothing, and answers nothing, with 204."""
        if not self._allow_reset:
            return _error(403, "deleting is off: start the collector with --allow-reset")
        _check(request)  # so that nobody who asks for one session's events deletes all
        await self._storage.clear()
        self._live.forget()
        return Response(status_code=204)

    async def _sessions(self, request: Request) -> Response:
        """The sessions, the one that was heard of last first.

        Takes ``limit`` and ``offset``, and answers a :class:`SessionPage`.
        """
        _check(request, "limit", "offset")
        limit, offset = _limit(request), _number(request, "offset") or 0
        found = await self._read(
            lambda connection: queries.sessions(connection, limit=limit, offset=offset)
        )
        connected = self._ingest.connected_sessions
        for session in found:
            session.connected = session.session_id in connected
        return _json(SessionPage(found))

    async def _session(self, request: Request) -> Response:
        """One :class:`SessionDetail`; 404 if there is no session with this id."""
        _check(request)
        session_id = request.path_params["session_id"]
        found = await self._read(lambda connection: queries.session(connection, session_id))
        if found is None:
            return _error(404, f"there is no session {session_id[:_ECHOED]!r}")
        found.connected = session_id in self._ingest.connected_sessions
        return _json(found)

    async def _rejected(self, request: Request) -> Response:
        """What was rejected, the newest first unless ``order=asc``.

        Takes ``after``, ``before``, ``limit`` and ``order``, and answers a :class:`RejectedPage`.
        """
        _check(request, *_PAGING)
        after, before, limit = _cursor(request)
        newest_first = _is_newest_first(request, default="desc")
        found = await self._read(
            lambda connection: queries.rejected(
                connection, after=after, before=before, limit=limit, newest_first=newest_first
            )
        )
        following = found[-1].arrival if found else (before or 0 if newest_first else after)
        return _json(RejectedPage(found, following))

    async def _stats(self, request: Request) -> Response:
        """How much there is of everything, as :class:`Stats`."""
        _check(request)
        totals = await self._read(queries.totals)
        error = self._storage.last_error
        return _json(
            Stats(
                **msgspec.structs.asdict(totals),
                connections=self._ingest.connections,
                last_error=None if error is None else str(error),
            )
        )

    async def _stream(self, request: Request) -> Response:
        """What comes, as server-sent events: a :class:`LiveUpdate` twice a second.

        Takes ``type``, ``session``, ``text`` and ``data``.
        """
        _check(request, *_FILTERS, "data")
        wanted, as_text = _filter(request), _wants_data_as_text(request)
        if request.method == "HEAD":  # its body would never end
            return Response(media_type="text/event-stream")
        if self._live.is_full:
            return _error(503, "too many look on already: close another page")
        return _LiveResponse(self._live, wanted, as_text=as_text)

    async def _healthz(self, _: Request) -> Response:
        error = self._storage.last_error
        if error is None:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("events can't be stored\n", 503)

    async def _exposition(self, _: Request) -> Response:
        text = await asyncio.to_thread(self._metrics.exposition)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _as_server_sent_events(
    looks: AsyncGenerator[LiveUpdate, None], *, as_text: bool
) -> AsyncGenerator[bytes, None]:
    encode = msgspec.json.Encoder().encode
    yield b"retry: 1000\n\n"  # a page tries again after a second
    async with contextlib.aclosing(looks):
        async for look in looks:
            if as_text:
                look.events = _with_data_as_text(look.events)
            # Data is as it came: its JSON may have line breaks between its parts, never inside a
            # string. A line break would end the line that all of it has to be on.
            text = encode(look).replace(b"\n", b" ").replace(b"\r", b" ")
            yield b"data: " + text + b"\n\n"


# What a request says.


def _check(request: Request, *known: str) -> None:
    """Let nobody believe that a misspelt parameter had a meaning."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            allowed = f"known are {', '.join(known)}" if known else "there are none"
            raise _BadRequestError(f"unknown parameter {name[:_ECHOED]!r}: {allowed}")
        if given.count(name) > 1:
            raise _BadRequestError(f"{name} is given more than once")


def _filter(request: Request) -> EventFilter:
    asked = request.query_params
    text = asked.get("text") or None
    if text is not None and len(text) > _TEXT_LENGTH:
        raise _BadRequestError(
            f"text has {len(text)} characters: it may have {_TEXT_LENGTH} at most"
        )
    return EventFilter(
        type=asked.get("type") or None, session=asked.get("session") or None, text=text
    )


def _cursor(request: Request) -> tuple[int, int | None, int]:
    """``after``, ``before`` and ``limit``."""
    return _number(request, "after") or 0, _number(request, "before"), _limit(request)


def _is_newest_first(request: Request, default: str) -> bool:
    order = request.query_params.get("order", default)
    if order not in ("asc", "desc"):
        raise _BadRequestError(f"order is {order[:_ECHOED]!r}: it may be asc or desc")
    return order == "desc"


def _wants_data_as_text(request: Request) -> bool:
    form = request.query_params.get("data", "json")
    if form not in ("json", "text"):
        raise _BadRequestError(f"data is {form[:_ECHOED]!r}: it may be json or text")
    return form == "text"


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # SQLite's have 63 bits
        raise _BadRequestError(f"{name} is no whole number: {text[:_ECHOED]!r}")
    return int(text)


def _limit(request: Request) -> int:
    limit = _number(request, "limit")
    if limit is None:
        return 100
    if not 1 <= limit <= _MOST:
        raise _BadRequestError(f"limit is {limit}: it may be 1 to {_MOST}")
    return limit


# Answers.


def _with_data_as_text(events: list[StoredEvent]) -> list[StoredEvent]:
    """Return copies of the events whose data is a string that contains the JSON.

    ``JSON.parse`` in a browser would round the large numbers in it, and drop repeated keys.
    """
    encode = msgspec.json.Encoder().encode
    return [
        msgspec.structs.replace(
            event, data=msgspec.Raw(encode(bytes(event.data).decode(errors="replace")))
        )
        for event in events
    ]


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return _json({"error": message}, status)


async def _bad_request(_: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _unavailable(_: Request, error: Exception) -> Response:
    return _error(503, str(error))


async def _unreadable(_: Request, error: Exception) -> Response:
    return _error(503, f"the database can't be read: {error}")


async def _refused(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    message = error.detail
    if error.status_code == 404:
        message = f"there is nothing at {path[:_ECHOED]!r}"
    elif error.status_code == 405:
        message = f"{request.method} is not for {path[:_ECHOED]!r}"
    if path.startswith("/api/"):
        response = _error(error.status_code, message)
    else:
        response = PlainTextResponse(f"{message}\n", error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    """An error of the collector's own; uvicorn logs it with its traceback."""
    return _error(500, "an error of the collector's own: its log has more")
