"""The responses of the API: records as JSON, and the errors."""

from __future__ import annotations

import sqlite3
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..._shared import escape
from ..models import CrashGroup, FaultGroup, StoredEvent
from ..storage.database import DatabaseError
from .parameters import MAX_ECHO, BadRequestError
from .readers import BusyError, ClientGoneError
from .source import UnreadableError

__all__ = ["ERROR_HANDLERS", "as_error", "as_json", "with_data_as_text", "with_newest_as_text"]

_Group = TypeVar("_Group", CrashGroup, FaultGroup)


def with_data_as_text(events: list[StoredEvent]) -> list[StoredEvent]:
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


def with_newest_as_text(groups: list[_Group]) -> list[_Group]:
    """Return copies of the groups whose newest event is as :func:`with_data_as_text` returns it."""
    newest = with_data_as_text([group.newest for group in groups])
    return [
        msgspec.structs.replace(group, newest=event)
        for group, event in zip(groups, newest, strict=True)
    ]


def _as_text(json: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(bytes(json).decode(errors="replace")))


def as_json(value: Any, status: int = 200) -> Response:
    """Return a response with a value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def as_error(status: int, message: str) -> Response:
    """Return an error; its message is for the person who asked."""
    return as_json({"error": message}, status)


async def _bad_request(_: Request, error: Exception) -> Response:
    return as_error(400, str(error))


async def _busy(_: Request, error: Exception) -> Response:
    response = as_error(503, str(error))
    response.headers["Retry-After"] = "1"
    return response


async def _unheard(_: Request, __: Exception) -> Response:
    """Return a response that goes nowhere; 499 is what nginx logs then."""
    return Response(status_code=499)


async def _unavailable(_: Request, error: Exception) -> Response:
    return as_error(503, str(error))


async def _unreadable(_: Request, error: Exception) -> Response:
    return as_error(503, f"cannot read the database: {error}")


async def _refused(request: Request, error: Exception) -> Response:
    """Respond to an unknown path, or a method that it doesn't have."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    shown = escape(path[:MAX_ECHO])
    message = error.detail
    if error.status_code == 404:
        message = f"not found: {shown}"
    elif error.status_code == 405:
        message = f"method {request.method} not allowed for {shown}"
    if path.startswith("/api/"):
        response = as_error(error.status_code, message)
    else:
        response = PlainTextResponse(f"{message}\n", error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    """Respond to an internal error, which uvicorn logs with its traceback."""
    return as_error(500, "internal error; see the collector's log")


ERROR_HANDLERS = {
    BadRequestError: _bad_request,
    BusyError: _busy,
    ClientGoneError: _unheard,
    DatabaseError: _unavailable,
    UnreadableError: _unavailable,
    sqlite3.Error: _unreadable,
    HTTPException: _refused,
    Exception: _failed,
}
"""The response to each kind of exception that a route raises."""
