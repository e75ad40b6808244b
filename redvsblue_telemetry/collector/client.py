"""Asks a collector by HTTP, as a program of its own would. Knows nothing of terminals."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec

from .storage.queries import EventFilter, Session, StoredEvent

__all__ = [
    "TOKEN_VARIABLE",
    "CollectorClient",
    "CollectorError",
    "CollectorRefused",
    "ConnectionLostError",
    "UnreachableError",
]

TOKEN_VARIABLE = "REDVSBLUE_COLLECTOR_TOKEN"
_TIMEOUT = 10.0  # seconds
_MEBIBYTE = 1024 * 1024
# The data of an answer has 8 Mi characters, of up to four bytes, and one event may go beyond them;
# the names of a thousand events, with every character escaped, have 24 MiB.
_MOST_MEBIBYTES = 64


class CollectorError(Exception):
    """The collector can't be asked; the message says why."""


class UnreachableError(CollectorError):
    """It doesn't answer, or can't do so now. Later it may."""


class ConnectionLostError(UnreachableError):
    """The connection that was kept is gone; over another one it may answer at once.

    So it is whenever nothing was asked for some seconds: servers close what is idle. Since then it
    may have become another collector, which is why the question isn't asked again unseen.
    """


class CollectorRefused(CollectorError):  # noqa: N818 (it names what the collector did)
    """It answers, and won't say what is asked. It won't later, either."""


_Kind = TypeVar("_Kind")


class _Page(msgspec.Struct):
    events: list[StoredEvent]


class CollectorClient:
    """One collector, over one connection that is kept. No proxy is between.

    Args:
        url: of its page.
        token: if it wants one.

    Raises:
        ValueError: the URL is none of a collector; the message says why.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        _check(parts, url)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError(
                "the token holds what no HTTP header can: use ASCII letters and digits"
            )
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port
        self._is_secure = parts.scheme == "https"
        self._folder = parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None

    def newest(self) -> StoredEvent | None:
        """The event that arrived last."""
        found = self.events(EventFilter(), limit=1, is_newest_first=True)
        return found[0] if found else None

    def events(
        self,
        wanted: EventFilter,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 100,
        is_newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Some events; see :func:`..collector.queries.events`."""
        asked = msgspec.to_builtins(wanted) | {"after": after, "before": before, "limit": limit}
        if is_newest_first:
            asked["order"] = "desc"
        given = {name: value for name, value in asked.items() if value is not None}
        return self._get("/api/events", given, _Page).events

    def session(self, session_id: str) -> Session:
        """What is known of a session."""
        return self._get(f"/api/sessions/{quote(session_id, safe='')}", {}, Session)

    def close(self) -> None:
        """Let the connection go. The next question makes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, path: str, asked: Mapping[str, object], kind: type[_Kind]) -> _Kind:
        body = self._answer(f"{self._folder}{path}?{urlencode(asked)}")
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise CollectorRefused(f"{self.url} answers, but is no collector: {error}") from error

    def _answer(self, target: str) -> bytes:
        connection = self._connected()
        is_kept = connection.sock is not None  # from the question before
        try:
            connection.request("GET", target, headers=self._headers)
            response = connection.getresponse()
            body = response.read(_MOST_MEBIBYTES * _MEBIBYTE + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            is_lost = is_kept and isinstance(error, ConnectionError)
            kind = ConnectionLostError if is_lost else UnreachableError
            reason = str(error) or type(error).__name__
            raise kind(f"{self.url} doesn't answer: {reason}") from error
        if len(body) > _MOST_MEBIBYTES * _MEBIBYTE:
            self.close()
            raise CollectorRefused(f"{self.url} answers with more than {_MOST_MEBIBYTES} MiB")
        if response.status == http.client.OK:
            return body
        self.close()
        raise self._refusal(response.status, body)

    def _refusal(self, status: int, body: bytes) -> CollectorError:
        if status == http.client.UNAUTHORIZED:
            return CollectorRefused(f"{self.url} wants another token: give the collector's --token")
        says = body[:200].decode(errors="replace").strip()
        with contextlib.suppress(msgspec.MsgspecError):
            says = msgspec.json.decode(body, type=dict[str, str]).get("error", says)
        message = f"{self.url} answers {status}: {says}"
        return UnreachableError(message) if status >= 500 else CollectorRefused(message)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=_TIMEOUT)
        return self._connection


def _check(parts: SplitResult, url: str) -> None:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of a collector's page, such as http://127.0.0.1:3000")
    if "@" in parts.netloc:
        raise ValueError("the URL holds a password: give the token by --token")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} has a port that is none: {error}") from error
