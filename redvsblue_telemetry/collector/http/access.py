"""Who may do what: looked at before anything else, for pages, API and WebSockets alike.

- The *token*, where there is one: as a bearer token, as the SDK sends it, or as the password of
  HTTP Basic authentication, which browsers ask for by themselves.
- The *Host*: a page of another site can have its name resolve to this machine, and then read what
  is here as its own (DNS rebinding). So a request has to name this machine by an address, by
  ``localhost``, or by a name that was allowed.
- The *Origin*: a page of another site can open a WebSocket to any host, and send what forms send.
  So what a browser sends for a page of another origin is refused. Following a link to here is fine.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections.abc import Iterable

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "AccessControl"]

_OPEN_PATHS = frozenset({"/healthz"})  # says no more than that it runs
_CHALLENGE = 'Basic realm="telemetry: the token is the password", charset="UTF-8"'
_HOST = re.compile(
    r"(?:(?P<name>[\w.-]+)|\[(?P<address>[\da-f.]*:[\da-f:.]*(?:%[\w.~%-]+)?)\])(?::\d*)?",
    re.ASCII | re.IGNORECASE,
)
"""A Host header (RFC 9110, section 7.2). What a URL may have besides, such as ``user@``, it hasn't:
a parser of URLs would find a name in it that no browser means."""
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Access:
    """The rules. Immutable; safe in any thread.

    Args:
        token: what a client has to know; None: nobody is asked.
        hosts: names, besides addresses and ``localhost``, that this server goes by.
    """

    def __init__(self, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._token = token
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)

    def fault(self, headers: Headers, path: str, *, is_secure: bool) -> Response | None:
        """Why a request is refused: what to answer; None if it isn't."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._knows(_hostname(hosts[0])):
            return _refusal(421, "this server doesn't go by that name: see --allow-host")
        if any(not _is_same(origin, hosts[0], is_secure=is_secure) for origin in origins):
            return _refusal(403, "not for a page of another origin")
        if _is_fetched_by_another_site(headers):
            return _refusal(403, "not for a page of another site")
        if self._token is None or path in _OPEN_PATHS or self._has_token(headers):
            return None
        return _refusal(401, "a token is needed", **{"WWW-Authenticate": _CHALLENGE})

    def _knows(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_token(self, headers: Headers) -> bool:
        shown = headers.getlist("authorization")
        if len(shown) != 1:  # which one counts, a proxy in between may see differently
            return False
        scheme, _, credentials = shown[0].partition(" ")
        credentials = credentials.strip(" \t")  # not the other spaces, which UTF-8 has parts of
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(credentials, validate=True)
            except ValueError:  # binascii.Error, or characters that are no ASCII
                return False
            given = pair.partition(b":")[2]
        elif scheme.lower() == "bearer":
            given = credentials.encode("latin-1")  # as Starlette decoded it
        else:
            return False
        expected = (self._token or "").encode()
        return hmac.compare_digest(given, expected)


def _hostname(host: str) -> str | None:
    """The name or address in a Host header, without the port."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    return (found["name"] or found["address"]).lower().rstrip(".") or None


def _is_fetched_by_another_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site asks, other than by a link.

    A frame is no link: it shows nothing (see ``frame-ancestors``), but it would be answered.
    """
    if headers.get("sec-fetch-site") in (None, "same-origin", "none"):
        return False
    is_document = headers.get("sec-fetch-dest", "document") == "document"
    return not (headers.get("sec-fetch-mode") == "navigate" and is_document)


def _refusal(status: int, reason: str, **headers: str) -> Response:
    body = msgspec.json.encode({"error": reason})
    return Response(body, status, headers, media_type="application/json")


def _is_same(origin: str, host: str, *, is_secure: bool) -> bool:
    """Whether an origin is the one that a Host header is part of."""
    schemes = ("https", "wss") if is_secure else ("http", "ws")
    return origin.lower() in {f"{scheme}://{host.lower()}" for scheme in schemes}


class AccessControl:
    """An ASGI middleware that holds all requests to the rules, and answers with safe headers.

    Args:
        app: what it stands before.
        access: the rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_secure = scope["scheme"] in ("https", "wss")
        fault = self._access.fault(Headers(scope=scope), scope["path"], is_secure=is_secure)
        if fault is not None:
            await self._refuse(fault, scope, receive, send)
            return

        is_handshake = scope["type"] == "websocket"

        async def send_safely(message: Message) -> None:
            nonlocal is_handshake
            if is_handshake and message["type"] == "websocket.close":  # no route takes it
                await _deny(_refusal(404, "no WebSocket is here: it is at /telemetry"), scope, send)
                return
            is_handshake = False
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)

    async def _refuse(self, fault: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fault.headers.update(_SECURITY_HEADERS)
            await fault(scope, receive, send)
            return
        await receive()  # websocket.connect
        await _deny(fault, scope, send)


async def _deny(answer: Response, scope: Scope, send: Send) -> None:
    """Refuse a WebSocket's handshake."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    answer.headers.update(_SECURITY_HEADERS)
    status = {"status": answer.status_code, "headers": answer.raw_headers}
    await send({"type": "websocket.http.response.start", **status})
    await send({"type": "websocket.http.response.body", "body": answer.body})
