"""The HTTP API: JSON for programs, a stream of updates for the page.

Each route's docstring names its parameters and its response; the page on the API has an example of
each. All times are in milliseconds since the epoch. Errors are ``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ..._shared import escape
from .. import ranges
from ..models import (
    ALL_TIME,
    CrashPage,
    EventFilter,
    FaultPage,
    FramePage,
    LiveUpdate,
    RejectedPage,
    ResolvedRange,
    SessionPage,
    Stats,
    Storage,
    Totals,
    VersionPage,
)
from ..storage.database import DatabaseError
from ..storage.forgetting import Forgetting
from ..storage.upkeep import Upkeep, epoch_milliseconds
from .application import Health, health_route
from .live import Live
from .metrics import Metrics
from .parameters import (
    FILTERS,
    MAX_ECHO,
    PAGING,
    RANGE,
    BadRequestError,
    check_names,
    context_of,
    event_filter,
    limit_of,
    number,
    paging_of,
    time_range,
    wants_data_as_text,
    zone_of,
)
from .readers import BusyError, Lane
from .responses import as_error, as_json, with_data_as_text, with_newest_as_text
from .source import Sources, UnreadableError

__all__ = ["SEARCH_SECONDS", "Api"]

SEARCH_SECONDS = 2.0
"""After these, a search responds with as much as it has found."""
_READS_ONLY = "nothing can be deleted here: this is a view, which only reads"


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


class Deleter(Protocol):
    """Deletes events and sessions."""

    async def clear(self) -> None:
        """Delete everything."""

    async def run(self, work: Upkeep) -> None:
        """Do some work on the storage, to its end."""


class Api:
    """The routes. They run on the event loop's thread.

    Args:
        sources: open the storage.
        health: says whether events can be stored.
        live: the live stream.
        metrics: the metrics.
        more: further routes.
        trouble: the answer to those who watch the process, if it doesn't work.
        deleter: deletes events and sessions; None if nothing can be deleted here.
        allow_reset: whether everything may be deleted; a session, and the data of a person, also
            by those who show the token.
    """

    def __init__(
        self,
        sources: Sources,
        health: Health,
        live: Live,
        metrics: Metrics,
        *,
        more: Sequence[BaseRoute] = (),
        deleter: Deleter | None = None,
        allow_reset: bool = False,
        trouble: str = "events can't be stored",
    ) -> None:
        # What is asked for every second, and answered at once, must not wait for anything else.
        self._figures = Lane(sources, "figures", 2)
        self._summaries = Lane(sources, "summaries", 2, SEARCH_SECONDS)
        self._searches = Lane(sources, "searches", 2, SEARCH_SECONDS)
        self._health = health
        self._deleter = deleter
        self._live = live
        self._metrics = metrics
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
            Route("/api/history", self._history),
            Route("/api/range", self._range),
            Route("/api/live", self._stream),
            *more,
            health_route(health, trouble),
            Route("/metrics", self._exposition),
        ]

    def close(self) -> None:
        """End all reading."""
        for lane in (self._figures, self._summaries, self._searches):
            lane.close()

    async def _events(self, request: Request) -> Response:
        """Return one page of events in order of arrival; or, for DELETE, delete all of them.

        Parameters: ``type``, ``session``, ``text``, ``context``, ``fault``, ``after``, ``before``,
        ``limit``, ``order``, ``from``, ``to`` and ``data``. Response: an :class:`EventPage`. After
        the last event, it is empty and not ``partial``.
        """
        if request.method == "DELETE":
            return await self._delete_events(request)
        check_names(request, *FILTERS, *PAGING, *RANGE, "data")
        wanted, as_text = event_filter(request), wants_data_as_text(request)
        paging, span = paging_of(request, default_order="asc"), time_range(request)
        page = await self._searches.read(
            request, lambda source, cutoff: source.events(wanted, paging, span, cutoff)
        )
        if as_text:
            page.events = with_data_as_text(page.events)
        return as_json(page)

    async def _delete_events(self, request: Request) -> Response:
        """Delete everything that is stored. No parameters; responds with 204 and no body."""
        if self._deleter is None:
            return as_error(403, _READS_ONLY)
        if not self._allow_reset:
            return as_error(403, "deleting is disabled; start the collector with --allow-reset")
        check_names(request)  # a filter would not be honored: it must not delete everything
        await self._deleter.clear()
        self._live.forget()
        return Response(status_code=204)

    async def _sessions(self, request: Request) -> Response:
        """Return one page of sessions, the most recently active first; or delete a person's data.

        Parameters: ``limit``, ``offset``, ``from`` and ``to``. Response: a :class:`SessionPage`.
        For DELETE: one ``context``, whose events are deleted, with the sessions that are then left
        without an event. Response: the receipt, as :class:`Forgotten`; 404 if there is no such
        event.
        """
        if request.method == "DELETE":
            check_names(request, "context")
            fields = context_of(request.query_params.getlist("context"))
            if len(fields) != 1:
                raise BadRequestError("give one context, such as context=player=p-17")
            return await self._forget(request, EventFilter(context=fields))
        check_names(request, "limit", "offset", *RANGE)
        limit, offset = limit_of(request), number(request, "offset") or 0
        span = time_range(request)
        found = await self._figures.read(
            request, lambda source, _: source.sessions(limit=limit, offset=offset, span=span)
        )
        return as_json(SessionPage(found))

    async def _session(self, request: Request) -> Response:
        """Return one :class:`SessionDetail`; 404 if there is no session with this id.

        For DELETE, delete it, and respond with the receipt, as :class:`Forgotten`.
        """
        check_names(request)
        session_id = request.path_params["session_id"]
        if request.method == "DELETE":
            return await self._forget(request, EventFilter(session=session_id))
        found = await self._summaries.read(
            request, lambda source, cutoff: source.session(session_id, cutoff)
        )
        if found is None:
            return as_error(404, f"session not found: {escape(session_id[:MAX_ECHO])}")
        response = as_json(found)
        methods = "GET, HEAD, DELETE" if self._may_forget(request) else "GET, HEAD"
        response.headers["Allow"] = methods  # so that the page offers no button in vain
        return response

    def _may_forget(self, request: Request) -> bool:
        return self._deleter is not None and (self._allow_reset or request.state.shows_token)

    async def _forget(self, request: Request, wanted: EventFilter) -> Response:
        """Delete a session, or the events with a field of the context, and respond when it is gone.

        It goes on if the client leaves meanwhile.
        """
        if self._deleter is None:
            return as_error(403, _READS_ONLY)
        if not self._may_forget(request):
            return as_error(
                403, "deleting is disabled; start the collector with --token or --allow-reset"
            )
        work = Forgetting(wanted.session, next(iter(wanted.context.items()), None))
        await asyncio.shield(self._deleter.run(work))
        if not work.found_anything:
            return as_error(404, "nothing found to delete")
        self._live.forget(wanted)
        return as_json(work.forgotten)

    async def _versions(self, request: Request) -> Response:
        """Return the outcomes of the sessions by version, as a :class:`VersionPage`.

        Parameters: ``limit``, ``from`` and ``to``.
        """
        check_names(request, "limit", *RANGE)
        limit, span = limit_of(request), time_range(request)
        found = await self._figures.read(
            request, lambda source, _: source.versions(limit=limit, span=span)
        )
        return as_json(VersionPage(found))

    async def _crashes(self, request: Request) -> Response:
        """Return the crashes in groups, as a :class:`CrashPage`.

        Parameters: ``version``, ``limit``, ``from``, ``to`` and ``data``.
        """
        check_names(request, "version", "limit", *RANGE, "data")
        version, limit = request.query_params.get("version") or None, limit_of(request)
        as_text, span = wants_data_as_text(request), time_range(request)
        found = await self._summaries.read(
            request,
            lambda source, cutoff: source.crashes(
                version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )
        return as_json(CrashPage(with_newest_as_text(found) if as_text else found))

    async def _faults(self, request: Request) -> Response:
        """Return the events with a fault in groups, as a :class:`FaultPage`.

        Parameters: ``version``, ``limit``, ``from``, ``to`` and ``data``.
        """
        check_names(request, "version", "limit", *RANGE, "data")
        version, limit = request.query_params.get("version") or None, limit_of(request)
        as_text, span = wants_data_as_text(request), time_range(request)
        found = await self._summaries.read(
            request,
            lambda source, cutoff: source.faults(
                version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )
        return as_json(FaultPage(with_newest_as_text(found) if as_text else found))

    async def _frames(self, request: Request) -> Response:
        """Return the frame times by version, as a :class:`FramePage`.

        Parameters: ``version``, ``limit``, ``from`` and ``to``.
        """
        check_names(request, "version", "limit", *RANGE)
        version, limit = request.query_params.get("version") or None, limit_of(request)
        span = time_range(request)
        found = await self._summaries.read(
            request,
            lambda source, cutoff: source.frames(
                version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )
        return as_json(FramePage(found))

    async def _rejected(self, request: Request) -> Response:
        """Return one page of rejected messages, newest first unless ``order=asc``.

        Parameters: ``after``, ``before``, ``limit``, ``order``, ``from`` and ``to``. Response: a
        :class:`RejectedPage`.
        """
        check_names(request, *PAGING, *RANGE)
        paging, span = paging_of(request, default_order="desc"), time_range(request)
        found = await self._figures.read(request, lambda source, _: source.rejected(paging, span))
        start = paging["before"] or 0 if paging["newest_first"] else paging["after"]
        return as_json(RejectedPage(found, found[-1].arrival if found else start))

    async def _stats(self, request: Request) -> Response:
        """Return the counts over everything, or over a range, as :class:`Stats`.

        Parameters: ``from`` and ``to``.
        """
        check_names(request, *RANGE)
        span = time_range(request)
        totals, storage = await self._figures.read(request, lambda source, _: source.totals(span))
        error = self._health.last_error
        return as_json(
            Stats(
                **msgspec.structs.asdict(totals),
                storage=storage,
                connections=self._live.connections,
                last_error=None if error is None else str(error),
            )
        )

    async def _history(self, request: Request) -> Response:
        """Return how many events were received in each step of a range, as :class:`History`.

        Parameters: ``from``, ``to``, ``offset``, ``type`` and ``version``.
        """
        check_names(request, *RANGE, "offset", "type", "version")
        span, offset = time_range(request), zone_of(request)
        wanted, version = (request.query_params.get(name) or None for name in ("type", "version"))
        found = await self._figures.read(
            request,
            lambda source, _: source.history(span, offset=offset, type=wanted, version=version),
        )
        return as_json(found)

    async def _range(self, request: Request) -> Response:
        """Return the range that words name, as :class:`ResolvedRange`.

        Parameters: ``range``, the words, and ``offset``.
        """
        check_names(request, "range", "offset")
        text, now = request.query_params.get("range", ""), epoch_milliseconds()
        try:
            found = ranges.resolve(text, now, zone_of(request))
        except ranges.RangeError as error:
            raise BadRequestError(str(error)) from error
        start, end = found.range.start, found.range.end
        return as_json(ResolvedRange(start, end, end is None, found.words))

    async def _stream(self, request: Request) -> Response:
        """Stream a :class:`LiveUpdate` twice a second, as server-sent events.

        Parameters: ``type``, ``session``, ``text``, ``context``, ``fault`` and ``data``.
        """
        check_names(request, *FILTERS, "data")
        wanted, as_text = event_filter(request), wants_data_as_text(request)
        if request.method == "HEAD":  # its body would never end
            return Response(media_type="text/event-stream")
        if self._live.is_full:
            return as_error(503, "too many live viewers; close another page")
        return _LiveResponse(self._live, wanted, as_text=as_text)

    async def _exposition(self, request: Request) -> Response:
        totals: Totals | None
        storage: Storage | None
        try:
            totals, storage = await self._figures.read(
                request, lambda source, _: source.totals(ALL_TIME)
            )
        except (BusyError, DatabaseError, UnreadableError, sqlite3.Error):
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
                update.events = with_data_as_text(update.events)
            # Data is the client's own JSON text, which may have line breaks between tokens, but
            # never inside a string. In a server-sent event, a line break ends the field.
            text = encode(update).replace(b"\n", b" ").replace(b"\r", b" ")
            yield b"data: " + text + b"\n\n"
