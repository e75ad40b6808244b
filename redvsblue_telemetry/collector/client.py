"""An HTTP client of the collector's API. Knows nothing of terminals."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit, urlunsplit

import msgspec

from .models import (
    MAX_PAGE_SIZE,
    CrashGroup,
    CrashPage,
    EventFilter,
    EventPage,
    FaultGroup,
    FaultPage,
    Forgotten,
    FramePage,
    FrameSummary,
    RejectedMessage,
    RejectedPage,
    Session,
    SessionDetail,
    SessionPage,
    Stats,
    StoredEvent,
    VersionHealth,
    VersionPage,
)

__all__ = [
    "READ_TOKEN_VARIABLE",
    "TOKEN_VARIABLE",
    "CollectorClient",
    "CollectorError",
    "CollectorRefused",
    "ConnectionLostError",
    "NotFoundError",
    "UnreachableError",
]

TOKEN_VARIABLE = "REDVSBLUE_COLLECTOR_TOKEN"
READ_TOKEN_VARIABLE = "REDVSBLUE_COLLECTOR_READ_TOKEN"
_TIMEOUT = 20.0  # seconds; a search waits for up to ten until it begins
_TELEMETRY = "/telemetry"  # the path that games connect to
_OF_GAMES = {"ws": "http", "wss": "https"}  # the schemes of their URLs, and of the page's
_MEBIBYTE = 1024 * 1024
# A page holds 8 Mi characters of data, each of up to four bytes, and its last event may exceed
# that; the names of a thousand events, with every character escaped, take 24 MiB.
_MAX_RESPONSE_MEBIBYTES = 64
_Answer = TypeVar("_Answer")


class CollectorError(Exception):
    """A request to the collector failed; the message says why."""


class UnreachableError(CollectorError):
    """The collector did not respond, or cannot respond now. A retry may succeed."""


class ConnectionLostError(UnreachableError):
    """The kept connection was closed; a new connection may succeed at once.

    Servers close connections that are idle for a few seconds, so this is common after a pause.
    The client does not retry by itself: meanwhile another collector may have taken the port, and
    the caller has to know that.
    """


class CollectorRefused(CollectorError):  # noqa: N818 (it names what the collector did)
    """The collector rejected the request; retrying will not help."""


class NotFoundError(CollectorRefused):
    """The collector does not have what was asked for."""


class CollectorClient:
    """One collector, over one connection that is kept open. No proxy is used. Not thread-safe.

    Args:
        url: The URL of the collector's page.
        token: The collector's token, if it has one.

    Raises:
        ValueError: The URL is not a collector's, or the token cannot be sent.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = _split(url)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError(
                "the token has characters that an HTTP header cannot carry; "
                "use ASCII letters and digits"
            )
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port
        self._is_secure = parts.scheme == "https"
        self._folder = parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None

    def newest(self, wanted: EventFilter | None = None) -> StoredEvent | None:
        """Return the matching event that arrived last, or None if there is none."""
        found = self.events(wanted, limit=1, newest_first=True)
        return found[0] if found else None

    def events(
        self,
        wanted: EventFilter | None = None,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 100,
        newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Return one page of events, which is empty only after the last one."""
        pages = self._pages(wanted, after, before, limit, newest_first=newest_first)
        return next((page.events for page in pages if page.events), [])

    def _pages(
        self,
        wanted: EventFilter | None,
        after: int,
        before: int | None,
        limit: int,
        *,
        newest_first: bool = False,
    ) -> Iterator[EventPage]:
        """Yield the pages up to the last event; see :func:`.storage.queries.search`."""
        chosen = msgspec.to_builtins(wanted or EventFilter())
        chosen["context"] = [f"{name}={value}" for name, value in chosen["context"].items()]
        order = "desc" if newest_first else "asc"
        while True:
            page = self._get(
                "events", EventPage, **chosen, after=after, before=before, limit=limit, order=order
            )
            # A short page is not the last one: a page is cut where its data grows large.
            if not (page.events or page.partial):
                return
            yield page
            after, before = (after, page.next) if newest_first else (page.next, before)

    def iter_events(self, wanted: EventFilter | None = None) -> Iterator[StoredEvent]:
        """Yield the matching events that are stored now, oldest first, page by page."""
        # Without this limit, a game that never pauses would keep the loop going forever.
        newest = self.newest()
        if newest is not None:
            for page in self._pages(wanted, 0, newest.arrival + 1, MAX_PAGE_SIZE):
                yield from page.events

    def sessions(self, *, limit: int = 100, offset: int = 0) -> list[Session]:
        """Return one page of sessions, the most recently active first."""
        return self._get("sessions", SessionPage, limit=limit, offset=offset).sessions

    def session(self, session_id: str) -> SessionDetail:
        """Return one session with its gaps and types."""
        return self._get(f"sessions/{quote(session_id, safe='')}", SessionDetail)

    def find_session(self, session_id: str) -> SessionDetail | None:
        """Return one session as :meth:`session` does, or None if the collector has none."""
        try:
            return self.session(session_id)
        except NotFoundError:
            return None

    def versions(self, *, limit: int = 100) -> list[VersionHealth]:
        """Return the outcomes of the sessions by version; see :func:`.storage.queries.versions`."""
        return self._get("versions", VersionPage, limit=limit).versions

    def crashes(self, *, version: str | None = None, limit: int = 100) -> list[CrashGroup]:
        """Return the crashes in groups; see :func:`.storage.queries.crashes`."""
        return self._get("crashes", CrashPage, version=version, limit=limit).crashes

    def faults(self, *, version: str | None = None, limit: int = 100) -> list[FaultGroup]:
        """Return the events with a fault in groups; see :func:`.storage.queries.faults`."""
        return self._get("faults", FaultPage, version=version, limit=limit).faults

    def frames(self, *, version: str | None = None, limit: int = 100) -> list[FrameSummary]:
        """Return the frame times by version; see :func:`.storage.queries.frames`."""
        return self._get("frames", FramePage, version=version, limit=limit).frames

    def rejected(self, *, limit: int = 100) -> list[RejectedMessage]:
        """Return the rejected messages that arrived last, newest first."""
        return self._get("rejected", RejectedPage, limit=limit).rejected

    def stats(self) -> Stats:
        """Return the counts over everything, and the collector's state."""
        return self._get("stats", Stats)

    def clear(self) -> None:
        """Delete everything that is stored."""
        self._request("DELETE", "events")

    def forget(
        self, session_id: str | None = None, field: tuple[str, str] | None = None
    ) -> Forgotten | None:
        """Delete a session, or all events with a field in their context.

        Waits until it is done, for as long as it takes.

        Returns:
            The receipt; None if nothing was found.
        """
        path = f"sessions/{quote(session_id or '', safe='')}"
        if field is not None:
            path = f"sessions?{urlencode({'context': '='.join(field)})}"
        try:
            body = self._request("DELETE", path, timeout=None)
        except NotFoundError:
            return None
        return self._decoded(body, Forgotten)

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, path: str, kind: type[_Answer], **parameters: object) -> _Answer:
        given = {name: value for name, value in parameters.items() if value is not None}
        body = self._request("GET", f"{path}?{urlencode(given, doseq=True)}" if given else path)
        return self._decoded(body, kind)

    def _decoded(self, body: bytes, kind: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise CollectorRefused(self._about_url(f"({error})")) from error

    def _request(self, method: str, path: str, *, timeout: float | None = _TIMEOUT) -> bytes:
        connection = self._connected()
        is_kept = connection.sock is not None  # from the request before
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            connection.request(method, f"{self._folder}/api/{path}", headers=self._headers)
            with connection.getresponse() as response:  # it may be left unread
                body = response.read(_MAX_RESPONSE_MEBIBYTES * _MEBIBYTE + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            is_lost = is_kept and isinstance(error, ConnectionError)
            kind = ConnectionLostError if is_lost else UnreachableError
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise kind(f"{self.url} does not respond: {reason}") from error
        if len(body) > _MAX_RESPONSE_MEBIBYTES * _MEBIBYTE:
            self.close()
            limit = _MAX_RESPONSE_MEBIBYTES
            raise CollectorRefused(f"the response of {self.url} is larger than {limit} MiB")
        if response.status in (http.client.OK, http.client.NO_CONTENT):
            return body
        self.close()
        raise self._refusal(response.status, body)

    def _refusal(self, status: int, body: bytes) -> CollectorError:
        reason = None
        with contextlib.suppress(msgspec.MsgspecError):
            reason = msgspec.json.decode(body, type=dict[str, str]).get("error")
        if status == http.client.UNAUTHORIZED:
            return CollectorRefused(self._about_token(reason or "wrong token"))
        if status == http.client.NOT_FOUND:
            if reason is None or self._folder.endswith(_TELEMETRY):
                return CollectorRefused(self._about_url(f"(HTTP status {status})"))
            return NotFoundError(f"{self.url}: {reason}")
        reason = reason or body[:200].decode(errors="replace").strip()
        message = f"{self.url} responded with status {status}: {reason}"
        return UnreachableError(message) if status >= 500 else CollectorRefused(message)

    def _about_token(self, reason: str) -> str:
        if not self._headers:
            return (
                f"{self.url} requires a token; set {READ_TOKEN_VARIABLE} or {TOKEN_VARIABLE}, or "
                "pass it with --token"
            )
        return (
            f"{self.url} rejected the token ({reason}); pass the collector's with --token, and if "
            "it has a --read-token, that one"
        )

    def _about_url(self, reason: str) -> str:
        if self._folder.endswith(_TELEMETRY):
            url = self.url.rstrip("/")
            page = url[: -len(_TELEMETRY)]
            return f"{self.url} is where games send to; give the URL of the page: {page}"
        return f"{self.url} is not the page of a collector {reason}"

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=_TIMEOUT)
        return self._connection


def _split(url: str) -> SplitResult:
    if "@" in url.partition("//")[2].partition("/")[0]:  # first: other messages show the URL
        raise ValueError("the URL contains a password; pass the token with --token instead")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a valid URL: {error}") from error
    if parts.scheme in _OF_GAMES and parts.hostname:
        page = parts._replace(
            scheme=_OF_GAMES[parts.scheme], path=parts.path.removesuffix(_TELEMETRY)
        )
        raise ValueError(
            f"{url!r} is where games send to; give the URL of the page: {urlunsplit(page)}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{url!r} is not the URL of a collector's page, such as http://127.0.0.1:3000"
        )
    return parts
