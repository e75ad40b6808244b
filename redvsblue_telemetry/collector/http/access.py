"""Access control: the first thing that every request meets, for page, API and WebSocket alike.

- The *token*, if one is set: as a bearer token, which the SDK sends, or as the password of HTTP
  Basic authentication, which browsers ask their user for.
- The *Host*: another site can make its own name resolve to this machine, and then read what is here
  as its own (DNS rebinding). So a request has to name this machine by an address, by
  ``localhost``, or by an allowed name.
- The *Origin*: a page of another site can open a WebSocket to any host, and send forms to it. So
  requests that a browser makes for a page of another origin are refused, except for links.
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

_OPEN_PATHS = frozenset({"/healthz"})  # reveals only whether it works
_CHALLENGE = 'Basic realm="telemetry: use the token as the password", charset="UTF-8"'
_HOST = re.compile(
    r"(?:(?P<name>[\w.-]+)|\[(?P<address>[\da-f.]*:[\da-f:.]*(?:%[\w.~%-]+)?)\])(?::\d*)?",
    re.ASCII | re.IGNORECASE,
)
"""A Host header (RFC 9110, section 7.2). ``urllib.parse`` is not used because it parses URLs: in
``localhost@evil.example`` it would find a name that no browser means."""
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
        token: what a client must present; None if no token is needed.
        hosts: names that a request may use for this server, besides addresses and ``localhost``.
    """

    def __init__(self, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._token = token
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)

    def check(self, headers: Headers, path: str, *, is_secure: bool) -> Response | None:
        """Return the response that refuses a request; None if it is allowed."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_known_host(_hostname(hosts[0])):
            return _refusal(421, "unknown host name; allow it with --allow-host")
        if any(not _same_origin(origin, hosts[0], is_secure=is_secure) for origin in origins):
            return _refusal(403, "pages of another origin are not allowed")
        if _is_fetched_by_another_site(headers):
            return _refusal(403, "pages of another site are not allowed")
        if self._token is None or path in _OPEN_PATHS or self._has_token(headers):
            return None
        return _refusal(401, "missing or wrong token", **{"WWW-Authenticate": _CHALLENGE})

    def _is_known_host(self, name: str | None) -> bool:
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
        values = headers.getlist("authorization")
        if len(values) != 1:  # a proxy in between might check another one of them
            return False
        scheme, _, credentials = values[0].partition(" ")
        # Without an argument it would also strip \x85 and \xa0, which are bytes of UTF-8 here.
        credentials = credentials.strip(" \t")
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(credentials, validate=True)
            except ValueError:  # not base64, or not ASCII
                return False
            given = pair.partition(b":")[2]
        elif scheme.lower() == "bearer":
            given = credentials.encode("latin-1")  # as Starlette decoded it
        else:
            return False
        expected = (self._token or "").encode()
        return hmac.compare_digest(given, expected)


def _hostname(host: str) -> str | None:
    """Return the name or address in a Host header, without the port; None if it is invalid."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    return (found["name"] or found["address"]).lower().rstrip(".") or None


def _is_fetched_by_another_site(headers: Headers) -> bool:
    """Return whether, as the browser says, a page of another site sends this, not a link.

    A frame is not a link. The browser wouldn't show it (see ``frame-ancestors``), but only after
    the request was answered.
    """
    if headers.get("sec-fetch-site") in (None, "same-origin", "none"):
        return False
    is_document = headers.get("sec-fetch-dest", "document") == "document"
    return not (headers.get("sec-fetch-mode") == "navigate" and is_document)


def _refusal(status: int, reason: str, **headers: str) -> Response:
    body = msgspec.json.encode({"error": reason})
    return Response(body, status, headers, media_type="application/json")


def _same_origin(origin: str, host: str, *, is_secure: bool) -> bool:
    """Return whether an Origin header names the server that the Host header names."""
    schemes = ("https", "wss") if is_secure else ("http", "ws")
    return origin.lower() in {f"{scheme}://{host.lower()}" for scheme in schemes}


class AccessControl:
    """ASGI middleware that applies the rules, and adds security headers to every response.

    Args:
        app: the application that it protects.
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
        refusal = self._access.check(Headers(scope=scope), scope["path"], is_secure=is_secure)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
            return

        is_handshake = scope["type"] == "websocket"

        async def send_safely(message: Message) -> None:
            nonlocal is_handshake
            if is_handshake and message["type"] == "websocket.close":  # no route matched
                not_found = _refusal(404, "no WebSocket endpoint here; connect to /telemetry")
                await _deny(not_found, scope, send)
                return
            is_handshake = False
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)

    async def _refuse(self, refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal.headers.update(_SECURITY_HEADERS)
            await refusal(scope, receive, send)
            return
        await receive()  # websocket.connect
        await _deny(refusal, scope, send)


async def _deny(refusal: Response, scope: Scope, send: Send) -> None:
    """Refuse the handshake of a WebSocket."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    refusal.headers.update(_SECURITY_HEADERS)
    status = {"status": refusal.status_code, "headers": refusal.raw_headers}
    await send({"type": "websocket.http.response.start", **status})
    await send({"type": "websocket.http.response.body", "body": refusal.body})
