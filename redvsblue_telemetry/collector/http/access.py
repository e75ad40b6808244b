"""Access control: the first thing that every request meets, for page, API and WebSocket alike.

Four things are checked, in this order.

- The *Host*: another site can make its own name resolve to this machine, and then read the data
  here as its own (DNS rebinding). So a request has to name this machine by an address, by
  ``localhost``, or by an allowed name.
- The *site*: browsers say in ``Sec-Fetch-Site`` where a request comes from. Scripts can't set it,
  and a proxy can't break it by changing the Host or by ending TLS. So ``same-origin`` is the
  collector's own page, and no other header matters; another site may do nothing but link to
  the page.
- The *Origin*, where browsers send no ``Sec-Fetch-Site``: with the handshake of a WebSocket
  (Chromium), at plain-HTTP addresses other than the machine's own, and if they are old.
- The *token*, if one is set: as a bearer token, which the SDK sends, or as the password of HTTP
  Basic authentication, which browsers ask their user for.

Why ``same-origin`` is enough without the Origin:

- *DNS rebinding* makes an attacker's page same-origin, but for the Host, which is then the
  attacker's name and was refused before. A proxy that replaces the Host hides that name. But for a
  rebound name over plain HTTP, no browser sends ``Sec-Fetch-Site``, so the Origin is compared, and
  over TLS the attacker would need a certificate for that name at the proxy. What remains is reading
  over plain HTTP, since a GET of one's own origin has no Origin: behind such a proxy, only a token
  prevents that, which the browser does not send for another name.
- *A page on another port of this host*, or of another scheme, is ``same-site`` or ``cross-site``.
- *A form of another site* is a navigation, as a link is. Links get the page with GET and HEAD only.

The Origin has to name the host and port of the Host. Two deviations are safe, and ordinary proxies
cause them:

- The Origin has ``https``, and the request came by HTTP: a proxy ends TLS without saying so. To
  serve a page by ``https`` at this name and port, one needs a certificate for it. The reverse is
  refused where the request is known to have come by TLS: anybody on the network can serve a page by
  HTTP.
- Any Origin may GET the page's own files. Browsers send it with a module script, even of the same
  origin, so a proxy that drops the port from the Host, or replaces it, would stop the page. The
  files are public, and the page's own reads of the API have no Origin.

The port is not ignored for anything else: a WebSocket that a page on another port of this host
opens could write, and the browser would send the password of this page along.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..._shared import escape
from ..loglimit import LogLimit
from .forwarded import as_forwarded, forwarded_host
from .guesses import RETRY_AFTER, Guesses

__all__ = ["Access", "AccessControl", "Reason"]

logger = logging.getLogger("redvsblue_telemetry.collector")

Reason = Literal["host", "origin", "site", "no_token", "wrong_token", "other_token", "too_many"]
"""Why a request was refused."""

_OPEN_PATHS = frozenset({"/healthz"})  # reveals only whether it works
_CHALLENGE = 'Basic realm="telemetry: use the token as the password", charset="UTF-8"'
_HOST = re.compile(
    r"(?:(?P<name>[\w.-]+)|\[(?P<address>[\da-f.]*:[\da-f:.]*(?:%[\w.~%-]+)?)\])(?::\d*)?",
    re.ASCII | re.IGNORECASE,
)
"""A Host header (RFC 9110, section 7.2). ``urllib.parse`` is not used because it parses URLs: in
``localhost@evil.example`` it would find a name that no browser means."""
_OWN_FILES = "/static/"
_DEFAULT_PORTS = {"http": ":80", "ws": ":80", "https": ":443", "wss": ":443"}
_HOST_ADVICE = (
    "let the proxy pass on the Host that it gets (nginx: proxy_set_header Host $http_host), "
    "or allow the name with --allow-host"
)
_NO_ENDPOINT = "no WebSocket endpoint here; connect to /telemetry"
_MAX_ECHO = 100  # characters of a header that an error repeats
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


class _Refusal(NamedTuple):
    """Why a request is refused, and how."""

    reason: Reason
    status: int
    message: str
    headers: Mapping[str, str] = MappingProxyType({})


_OTHER_SITE = _Refusal("site", 403, "pages of another site are not allowed")


class Access:
    """The rules. Immutable; safe in any thread.

    Args:
        token: the one that a client must present; None if no token is needed.
        hosts: names that a request may use for this server, besides addresses and ``localhost``.
        read_token: the one for everything but ``/telemetry``, where it opens nothing; None if it is
            the same token.
        trust_proxy: whether the headers ``X-Forwarded-*`` are believed.
    """

    def __init__(
        self,
        token: str | None = None,
        hosts: Iterable[str] = (),
        *,
        read_token: str | None = None,
        trust_proxy: bool = False,
    ) -> None:
        self._token = token
        self._read_token = read_token
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.trust_proxy = trust_proxy

    def check(self, scope: Scope, *, shows_token: bool) -> _Refusal | None:
        """Return why a request is refused; None if it is allowed.

        Args:
            scope: the request.
            shows_token: the answer of :meth:`shows_token`.
        """
        headers = Headers(scope=scope)
        named = headers.getlist("host")
        if len(named) != 1:
            return _Refusal("host", 421, f"there must be one Host header; {_HOST_ADVICE}")
        hosts = [named[0]]
        if self.trust_proxy and (forwarded := forwarded_host(headers)) is not None:
            hosts.append(forwarded)  # scripts can set it, so it does not replace the other one
        for host in hosts:
            if not self._is_known_host(_hostname(host)):
                message = f"unknown host name {_shown(host)}; {_HOST_ADVICE}"
                return _Refusal("host", 421, message)
        refusal = _page_refusal(scope, headers, hosts[-1])
        is_open = self._token is None or scope["path"] in _OPEN_PATHS
        if refusal is not None or is_open or shows_token:
            return refusal
        return self._token_refusal(scope, headers)

    def _token_refusal(self, scope: Scope, headers: Headers) -> _Refusal:
        is_for_games = _is_for_games(scope)
        needed = ""
        if self._read_token is not None:
            needed = f"; this needs the {'token of games' if is_for_games else 'read token'}"
        challenge = {"WWW-Authenticate": _CHALLENGE}
        if "authorization" not in headers:
            return _Refusal("no_token", 401, f"missing token{needed}", challenge)
        other = self._read_token if is_for_games else self._token
        if self._read_token is not None and _matches(_credentials(headers), other):
            message = f"this is the {'read token' if is_for_games else 'token of games'}{needed}"
            return _Refusal("other_token", 401, message, challenge)
        return _Refusal("wrong_token", 401, f"wrong token{needed}", challenge)

    def shows_token(self, scope: Scope) -> bool:
        """Return whether a request shows the token of its path. False if no token is set."""
        is_read = self._read_token is not None and not _is_for_games(scope)
        expected = self._read_token if is_read else self._token
        return _matches(_credentials(Headers(scope=scope)), expected)

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


def _is_for_games(scope: Scope) -> bool:
    """Return whether a request needs the token of games: any WebSocket is a game's."""
    return bool(scope["type"] == "websocket" or scope["path"] == "/telemetry")


def _credentials(headers: Headers) -> bytes | None:
    """Return the token that a request shows; None if it shows none, or in an invalid way."""
    values = headers.getlist("authorization")
    if len(values) != 1:  # a proxy in between might check another one of them
        return None
    scheme, _, credentials = values[0].partition(" ")
    # Without an argument it would also strip \x85 and \xa0, which are bytes of UTF-8 here.
    credentials = credentials.strip(" \t")
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(credentials, validate=True)
        except ValueError:  # not base64, or not ASCII
            return None
        return pair.partition(b":")[2]
    if scheme.lower() == "bearer":
        return credentials.encode("latin-1")  # as Starlette decoded it
    return None


def _matches(given: bytes | None, expected: str | None) -> bool:
    if given is None or expected is None:
        return False
    return hmac.compare_digest(given, expected.encode())


def _hostname(host: str) -> str | None:
    """Return the name or address in a Host header, without the port; None if it is invalid."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    return (found["name"] or found["address"]).lower().rstrip(".") or None


def _page_refusal(scope: Scope, headers: Headers, host: str) -> _Refusal | None:
    """Return why the page that a browser sends a request for may not send it; None if it may."""
    site = headers.get("sec-fetch-site")
    if site == "same-origin" and len(headers.getlist("sec-fetch-site")) == 1:
        return None
    is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    if not (is_read and scope["path"].startswith(_OWN_FILES)):
        is_secure = scope["scheme"] in ("https", "wss")
        for origin in headers.getlist("origin"):
            if not _is_own(origin, host, is_secure=is_secure):
                return _Refusal("origin", 403, _origin_message(origin, host))
    if site not in (None, "none") and not (is_read and _is_link(headers)):
        return _OTHER_SITE
    return None


def _is_link(headers: Headers) -> bool:
    """Return whether a request is for a link of another site, as the browser says.

    A frame is not a link. The browser wouldn't show it (see ``frame-ancestors``), but only after
    the request was answered.
    """
    is_document = headers.get("sec-fetch-dest", "document") == "document"
    return headers.get("sec-fetch-mode") == "navigate" and is_document


def _is_own(origin: str, host: str, *, is_secure: bool) -> bool:
    """Return whether an Origin header names the server that the Host header names."""
    scheme, separator, place = origin.lower().partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    if is_secure and scheme not in ("https", "wss"):
        return False
    default = _DEFAULT_PORTS[scheme]  # proxies that add the port to the Host also add this one
    return place.removesuffix(default) == host.lower().removesuffix(default)


def _origin_message(origin: str, host: str) -> str:
    return (
        f"pages of another origin are not allowed: the Origin is {_shown(origin)}, but the Host is "
        f"{_shown(host)}; if this is the collector's own page, let the proxy pass on the Host that "
        "it gets (nginx: proxy_set_header Host $http_host), and that TLS ends there "
        "(X-Forwarded-Proto, with --trust-proxy)"
    )


def _shown(header: str) -> str:
    return f'"{escape(header[:_MAX_ECHO])}"'


class AccessControl:
    """ASGI middleware that applies the rules, and adds security headers to every response.

    A request that gets through has ``state.shows_token``: whether it shows the token. It is False
    where none is needed.

    Args:
        app: the application that it protects.
        access: the rules.
        on_refusal: called with the reason of each refusal.
    """

    def __init__(
        self, app: ASGIApp, access: Access, on_refusal: Callable[[Reason], None] = lambda _: None
    ) -> None:
        self._app = app
        self._access = access
        self._on_refusal = on_refusal
        self._guesses = Guesses()
        self._log = LogLimit(logger)

    def close(self) -> None:
        """Answer the requests whose answers are held back."""
        self._guesses.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._access.trust_proxy:
            scope = as_forwarded(scope)
        shows_token = self._access.shows_token(scope)
        refusal = self._access.check(scope, shows_token=shows_token)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
            return
        scope = {**scope, "state": {**scope.get("state", {}), "shows_token": shows_token}}

        is_handshake = scope["type"] == "websocket"

        async def send_safely(message: Message) -> None:
            nonlocal is_handshake
            if is_handshake and message["type"] == "websocket.close":  # no route matched
                await _deny(_error(404, _NO_ENDPOINT), scope, send)
                return
            is_handshake = False
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)

    async def _refuse(self, refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
        client = scope.get("client")
        if refusal.reason != "no_token":  # a browser's first request has none
            self._log.warn(refusal.reason, client, "refused a request: %s", refusal.message)
        if refusal.reason == "wrong_token" and not await self._guesses.hold(client):
            retry = {"Retry-After": str(RETRY_AFTER)}
            refusal = _Refusal("too_many", 429, "too many wrong tokens; try again later", retry)
        self._on_refusal(refusal.reason)
        response = _error(refusal.status, refusal.message, refusal.headers)
        if scope["type"] == "websocket":
            await _deny(response, scope, send)
            return
        response.headers.update(_SECURITY_HEADERS)
        await response(scope, receive, send)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": message})
    return Response(body, status, headers, media_type="application/json")


async def _deny(refusal: Response, scope: Scope, send: Send) -> None:
    """Refuse the handshake of a WebSocket."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    refusal.headers.update(_SECURITY_HEADERS)
    status = {"status": refusal.status_code, "headers": refusal.raw_headers}
    await send({"type": "websocket.http.response.start", **status})
    await send({"type": "websocket.http.response.body", "body": refusal.body})
