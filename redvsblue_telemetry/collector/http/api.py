"""The HTTP API: JSON for programs, a stream of updates for the page.

Each route's docstring names its parameters and its response; the page on the API has an example of
each. All times are in milliseconds since the epoch. Errors are ``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from typing import Any, TypedDict, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..._shared import escape
from ..ingest import Ingest
from ..models import (
    MAX_CONTEXT_VALUE_LENGTH,
    MAX_PAGE_SIZE,
    CrashGroup,
    CrashPage,
    EventFilter,
    FaultGroup,
    FaultPage,
    FramePage,
    LiveUpdate,
    RejectedPage,
    SessionPage,
    Stats,
    Storage,
    StoredEvent,
    Totals,
    VersionPage,
)
from ..storage import queries
from ..storage.database import Database, DatabaseError
from ..storage.forgetting import Forgetting
from ..storage.space import Space
from ..storage.thread import WriterThread
from .live import Live
from .metrics import Metrics
from .readers import BusyError, ClientGoneError, Lane

__all__ = ["Api"]

_DEFAULT_PAGE_SIZE = 100
_MAX_SEARCH_LENGTH = 1000  # characters
_MAX_ECHO = 100  # characters of the request that an error repeats
_SEARCH_SECONDS = 2.0  # after which a search responds with what it has found
_FILTERS = ("type", "session", "text", "context", "fault")
_PAGING = ("after", "before", "limit", "order")
_Group = TypeVar("_Group", CrashGroup, FaultGroup)


class _Paging(TypedDict):
    """Which page of events or rejected messages a request asks for."""

    after: int
    before: int | None
    limit: int
    newest_first: bool


class _BadRequestError(Exception):
    """The request is invalid; the message says why."""


class _Anything(Convertor[str]):
    """The rest of a path, line breaks included, which Starlette's own ``path`` does not match."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


class _LiveResponse(StreamingResponse):
    """A stream that counts as a viewer while it is open."""

    def __init__(self, live: Live, wanted: EventFilter, *, as_text: bool) -> None:
        self._live = live
        self._body = _as_server_sent_events(live.updates(wanted), as_text=as_text)
        # nginx would otherwise hold back the updates until they fill a buffer.
        headers = {"X-Accel-Buffering": "no"}
        super().__init__(self._body, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._live.viewing():
            async with contextlib.aclosing(self._body):
                await super().__call__(scope, receive, send)


class Api:
    """The routes. They run on the event loop's thread, and read the database on others.

    Args:
        database: the database to read.
        storage: deletes everything; has the last error.
        ingest: knows the connected clients.
        live: the live stream.
        metrics: the metrics.
        space: measures the room that the database takes.
        allow_reset: whether everything may be deleted; a session, and the data of a person, also
            by those who show the token.
    """

    def __init__(
        self,
        database: Database,
        storage: WriterThread,
        ingest: Ingest,
        live: Live,
        metrics: Metrics,
        space: Space,
        *,
        allow_reset: bool,
    ) -> None:
        # What is asked for every second, and answered at once, must not wait for anything else.
        self._figures = Lane(database, "figures", 2)
        self._summaries = Lane(database, "summaries", 2, _SEARCH_SECONDS)
        self._searches = Lane(database, "searches", 2, _SEARCH_SECONDS)
        self._storage = storage
        self._ingest = ingest
        self._live = live
        self._metrics = metrics
        self._space = space
        self._allow_reset = allow_reset
        self.routes = [
            Route("/api/events", self._events, methods=["GET", "DELETE"]),
            Route("/api/sessions", self._sessions, methods=["GET", "DELETE"]),
            Route("/api/sessions/{session_id:anything}", self._session, methods=["GET", "DELETE"]),
            Route("/api/versions", self._versions),
            Route("/api/crashes", self._crashes),
            Route("/api/faults", self._faults),
            Route("/api/frames", self._frames),
            Route("/api/rejected", self._rejected),
            Route("/api/stats", self._stats),
            Route("/api/live", self._stream),
            Route("/healthz", self._healthz),
            Route("/metrics", self._exposition),
        ]
        self.error_handlers = {
            _BadRequestError: _bad_request,
            BusyError: _busy,
            ClientGoneError: _unheard,
            DatabaseError: _unavailable,
            sqlite3.Error: _unreadable,
            HTTPException: _refused,
            Exception: _failed,
        }

    def close(self) -> None:
        """End what still reads the database."""
        for lane in (self._figures, self._summaries, self._searches):
            lane.close()

    async def _events(self, request: Request) -> Response:
        """Return one page of events in order of arrival; or, for DELETE, delete all of them.

        Parameters: ``type``, ``session``, ``text``, ``context``, ``fault``, ``after``, ``before``,
        ``limit``, ``order`` and ``data``. Response: an :class:`EventPage`. After the last event, it
        is empty and not ``partial``.
        """
        if request.method == "DELETE":
            return await self._delete_events(request)
        _check_names(request, *_FILTERS, *_PAGING, "data")
        wanted, as_text = _filter(request), _wants_data_as_text(request)
        paging = _paging(request, default_order="asc")
        page = await self._searches.read(
            request,
            lambda connection, cutoff: queries.search(connection, wanted, **paging, cutoff=cutoff),
        )
        if as_text:
            page.events = _with_data_as_text(page.events)
        return _json(page)

    async def _delete_events(self, request: Request) -> Response:
        """Delete everything that is stored. No parameters; responds with 204 and no body."""
        if not self._allow_reset:
            return _error(403, "deleting is disabled; start the collector with --allow-reset")
        _check_names(request)  # a filter would not be honored: it must not delete everything
        await self._storage.clear()
        self._live.forget()
        return Response(status_code=204)

    async def _sessions(self, request: Request) -> Response:
        """Return one page of sessions, the most recently active first; or delete a person's data.

        Parameters: ``limit`` and ``offset``. Response: a :class:`SessionPage`. For DELETE: one
        ``context``, whose events are deleted, with the sessions that are then left without an
        event. Response: the receipt, as :class:`Forgotten`; 404 if there is no such event.
        """
        if request.method == "DELETE":
            _check_names(request, "context")
            fields = _context(request.query_params.getlist("context"))
            if len(fields) != 1:
                raise _BadRequestError("give one context, such as context=player=p-17")
            return await self._forget(request, EventFilter(context=fields))
        _check_names(request, "limit", "offset")
        limit, offset = _limit(request), _number(request, "offset") or 0
        connected = self._ingest.connected_sessions
        found = await self._figures.read(
            request,
            lambda connection, _: queries.sessions(
                connection, limit=limit, offset=offset, connected=connected
            ),
        )
        return _json(SessionPage(found))

    async def _session(self, request: Request) -> Response:
        """Return one :class:`SessionDetail`; 404 if there is no session with this id.

        For DELETE, delete it, and respond with the receipt, as :class:`Forgotten`.
        """
        _check_names(request)
        session_id = request.path_params["session_id"]
        if request.method == "DELETE":
            return await self._forget(request, EventFilter(session=session_id))
        connected = self._ingest.connected_sessions
        found = await self._summaries.read(
            request,
            lambda connection, cutoff: queries.session(
                connection, session_id, connected=connected, cutoff=cutoff
            ),
        )
        if found is None:
            return _error(404, f"session not found: {escape(session_id[:_MAX_ECHO])}")
        response = _json(found)
        methods = "GET, HEAD, DELETE" if self._may_forget(request) else "GET, HEAD"
        response.headers["Allow"] = methods  # so that the page offers no button in vain
        return response

    def _may_forget(self, request: Request) -> bool:
        return self._allow_reset or request.state.shows_token

    async def _forget(self, request: Request, wanted: EventFilter) -> Response:
        """Delete a session, or the events with a field of the context, and respond when it is gone.

        It goes on if the client leaves meanwhile.
        """
        if not self._may_forget(request):
            return _error(
                403, "deleting is disabled; start the collector with --token or --allow-reset"
            )
        work = Forgetting(wanted.session, next(iter(wanted.context.items()), None))
        await asyncio.shield(self._storage.run(work))
        if not work.found_anything:
            return _error(404, "nothing found to delete")
        self._live.forget(wanted)
        return _json(work.forgotten)

    async def _versions(self, request: Request) -> Response:
        """Return the outcomes of the sessions by version, as a :class:`VersionPage`.

        Parameter: ``limit``.
        """
        _check_names(request, "limit")
        limit, connected = _limit(request), self._ingest.connected_sessions
        found = await self._figures.read(
            request,
            lambda connection, _: queries.versions(connection, limit=limit, connected=connected),
        )
        return _json(VersionPage(found))

    async def _crashes(self, request: Request) -> Response:
        """Return the crashes in groups, as a :class:`CrashPage`.

        Parameters: ``version``, ``limit`` and ``data``.
        """
        _check_names(request, "version", "limit", "data")
        version, limit = request.query_params.get("version") or None, _limit(request)
        as_text = _wants_data_as_text(request)
        found = await self._summaries.read(
            request,
            lambda connection, cutoff: queries.crashes(
                connection, version=version, limit=limit, cutoff=cutoff
            ),
        )
        return _json(CrashPage(_with_newest_as_text(found) if as_text else found))

    async def _faults(self, request: Request) -> Response:
        """Return the events with a fault in groups, as a :class:`FaultPage`.

        Parameters: ``version``, ``limit`` and ``data``.
        """
        _check_names(request, "version", "limit", "data")
        version, limit = request.query_params.get("version") or None, _limit(request)
        as_text = _wants_data_as_text(request)
        found = await self._summaries.read(
            request,
            lambda connection, _: queries.faults(connection, version=version, limit=limit),
        )
        return _json(FaultPage(_with_newest_as_text(found) if as_text else found))

    async def _frames(self, request: Request) -> Response:
        """Return the frame times by version, as a :class:`FramePage`.

        Parameters: ``version`` and ``limit``.
        """
        _check_names(request, "version", "limit")
        version, limit = request.query_params.get("version") or None, _limit(request)
        found = await self._summaries.read(
            request,
            lambda connection, cutoff: queries.frames(
                connection, version=version, limit=limit, cutoff=cutoff
            ),
        )
        return _json(FramePage(found))

    async def _rejected(self, request: Request) -> Response:
        """Return one page of rejected messages, newest first unless ``order=asc``.

        Parameters: ``after``, ``before``, ``limit`` and ``order``. Response: a
        :class:`RejectedPage`.
        """
        _check_names(request, *_PAGING)
        paging = _paging(request, default_order="desc")
        found = await self._figures.read(
            request, lambda connection, _: queries.rejected(connection, **paging)
        )
        start = paging["before"] or 0 if paging["newest_first"] else paging["after"]
        return _json(RejectedPage(found, found[-1].arrival if found else start))

    async def _stats(self, request: Request) -> Response:
        """Return the counts over everything, as :class:`Stats`."""
        _check_names(request)
        connected = self._ingest.connected_sessions
        totals, storage = await self._figures.read(
            request,
            lambda connection, _: (
                queries.totals(connection, connected=connected),
                self._space.measure(connection),
            ),
        )
        error = self._storage.last_error
        return _json(
            Stats(
                **msgspec.structs.asdict(totals),
                storage=storage,
                connections=self._ingest.connections,
                last_error=None if error is None else str(error),
            )
        )

    async def _stream(self, request: Request) -> Response:
        """Stream a :class:`LiveUpdate` twice a second, as server-sent events.

        Parameters: ``type``, ``session``, ``text``, ``context``, ``fault`` and ``data``.
        """
        _check_names(request, *_FILTERS, "data")
        wanted, as_text = _filter(request), _wants_data_as_text(request)
        if request.method == "HEAD":  # its body would never end
            return Response(media_type="text/event-stream")
        if self._live.is_full:
            return _error(503, "too many live viewers; close another page")
        return _LiveResponse(self._live, wanted, as_text=as_text)

    async def _healthz(self, _: Request) -> Response:
        error = self._storage.last_error
        if error is None:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("events can't be stored\n", 503)

    async def _exposition(self, request: Request) -> Response:
        connected = self._ingest.connected_sessions
        totals: Totals | None
        storage: Storage | None
        try:
            totals, storage = await self._figures.read(
                request,
                lambda connection, _: (
                    queries.totals(connection, connected=connected),
                    self._space.measure(connection),
                ),
            )
        except (BusyError, DatabaseError, sqlite3.Error):
            totals = storage = None  # a reason to look at the other metrics
        text = await asyncio.to_thread(self._metrics.exposition, totals, storage)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _as_server_sent_events(
    updates: AsyncGenerator[LiveUpdate, None], *, as_text: bool
) -> AsyncGenerator[bytes, None]:
    encode = msgspec.json.Encoder().encode
    yield b"retry: 1000\n\n"  # milliseconds until a page reconnects
    async with contextlib.aclosing(updates):
        async for update in updates:
            if as_text:
                update.events = _with_data_as_text(update.events)
            # Data is the client's own JSON text, which may have line breaks between tokens, but
            # never inside a string. In a server-sent event, a line break ends the field.
            text = encode(update).replace(b"\n", b" ").replace(b"\r", b" ")
            yield b"data: " + text + b"\n\n"


# Requests.


def _check_names(request: Request, *known: str) -> None:
    """Refuse unknown parameters: a misspelled one would silently have no effect."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            allowed = f"use {', '.join(known)}" if known else "this path takes none"
            raise _BadRequestError(f"unknown parameter {name[:_MAX_ECHO]!r}; {allowed}")
        if given.count(name) > 1 and name != "context":
            raise _BadRequestError(f"{name} is given more than once")


def _filter(request: Request) -> EventFilter:
    asked = request.query_params
    return EventFilter(
        type=asked.get("type") or None,
        session=asked.get("session") or None,
        text=_searched(request, "text"),
        context=_context(asked.getlist("context")),
        fault=_searched(request, "fault"),
    )


def _searched(request: Request, name: str) -> str | None:
    text = request.query_params.get(name) or None
    if text is not None and len(text) > _MAX_SEARCH_LENGTH:
        raise _BadRequestError(
            f"{name} has {len(text)} characters; the maximum is {_MAX_SEARCH_LENGTH}"
        )
    return text


def _context(given: list[str]) -> dict[str, str]:
    """Return the wanted fields of the context, each given as ``name=value``."""
    fields: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not (name and separator):
            raise _BadRequestError(f"context is {each[:_MAX_ECHO]!r}; it must be name=value")
        if len(value) > MAX_CONTEXT_VALUE_LENGTH:
            raise _BadRequestError(
                f"context has a value of {len(value)} characters; the maximum is "
                f"{MAX_CONTEXT_VALUE_LENGTH}"
            )
        if fields.setdefault(name, value) != value:
            raise _BadRequestError(f"context has two values for {name[:_MAX_ECHO]!r}")
    return fields


def _paging(request: Request, default_order: str) -> _Paging:
    order = request.query_params.get("order", default_order)
    if order not in ("asc", "desc"):
        raise _BadRequestError(f"order is {order[:_MAX_ECHO]!r}; it must be asc or desc")
    return {
        "after": _number(request, "after") or 0,
        "before": _number(request, "before"),
        "limit": _limit(request),
        "newest_first": order == "desc",
    }


def _wants_data_as_text(request: Request) -> bool:
    form = request.query_params.get("data", "json")
    if form not in ("json", "text"):
        raise _BadRequestError(f"data is {form[:_MAX_ECHO]!r}; it must be json or text")
    return form == "text"


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # SQLite's integers have 63 bits
        raise _BadRequestError(f"{name} must be a whole number, not {text[:_MAX_ECHO]!r}")
    return int(text)


def _limit(request: Request) -> int:
    limit = _number(request, "limit")
    if limit is None:
        return _DEFAULT_PAGE_SIZE
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise _BadRequestError(f"limit is {limit}; it must be 1 to {MAX_PAGE_SIZE}")
    return limit


# Responses.


def _with_data_as_text(events: list[StoredEvent]) -> list[StoredEvent]:
    """Return copies of the events whose data and context are strings that contain the JSON.

    ``JSON.parse`` in a browser would round the large numbers in it, and drop repeated keys.
    """
    return [
        msgspec.structs.replace(
            event,
            data=_as_text(event.data),
            context=event.context if event.context is msgspec.UNSET else _as_text(event.context),
        )
        for event in events
    ]


def _with_newest_as_text(groups: list[_Group]) -> list[_Group]:
    newest = _with_data_as_text([group.newest for group in groups])
    return [
        msgspec.structs.replace(group, newest=event)
        for group, event in zip(groups, newest, strict=True)
    ]


def _as_text(json: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(bytes(json).decode(errors="replace")))


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return _json({"error": message}, status)


async def _bad_request(_: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _busy(_: Request, error: Exception) -> Response:
    response = _error(503, str(error))
    response.headers["Retry-After"] = "1"
    return response


async def _unheard(_: Request, __: Exception) -> Response:
    """Return a response that goes nowhere; 499 is what nginx logs then."""
    return Response(status_code=499)


async def _unavailable(_: Request, error: Exception) -> Response:
    return _error(503, str(error))


async def _unreadable(_: Request, error: Exception) -> Response:
    return _error(503, f"cannot read the database: {error}")


async def _refused(request: Request, error: Exception) -> Response:
    """Respond to an unknown path, or a method that it doesn't have."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    shown = escape(path[:_MAX_ECHO])
    message = error.detail
    if error.status_code == 404:
        message = f"not found: {shown}"
    elif error.status_code == 405:
        message = f"method {request.method} not allowed for {shown}"
    if path.startswith("/api/"):
        response = _error(error.status_code, message)
    else:
        response = PlainTextResponse(f"{message}\n", error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    """Respond to an internal error, which uvicorn logs with its traceback."""
    return _error(500, "internal error; see the collector's log")
