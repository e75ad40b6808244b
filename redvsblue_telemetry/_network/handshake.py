"""The opening handshake (:rfc:`6455`, section 4): its request, and the check of the answer.

websocket-client can shake hands too, but it shows secrets. Once the game calls
``websocket.enableTrace(True)`` for its own connections, websocket-client logs every request of the
process, with the token, the headers and the query of the URL. It also keeps the server's cookies in
a jar of the process and sends them with later handshakes (websocket-client pull request 292), by
which a server could mark its players; it follows redirects, with the token (pull request 491); and
each of its connections is a cycle of objects, which stays in memory where the game has turned off
the garbage collector. No socket is touched here.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import string
from collections.abc import Mapping
from datetime import timezone
from urllib.parse import quote, urlsplit

from .._shared import ACK_ARCHIVED, ACK_CUMULATIVE, REPORT_VERSION
from .contract import ConnectionLost, Endpoint, LostKind
from .proxy import authority

__all__ = ["HEAD_END", "Handshake"]

HEAD_END = rb"\n\r?\n"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_SWITCHING_PROTOCOLS = 101
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_BE_RETRIED = (429, 503)
_REDIRECTED = "the server redirected the handshake; redirects are not followed"
_CLOSED = "the server closed the connection during the handshake"
_NO_HANDSHAKE = "the server's answer is not a WebSocket handshake"
_STATUS_LINE = rb"HTTP/\d\.\d (\d{3})(?!\d)"
_INTERIM = rb"HTTP/\d\.\d 1(?!01)\d\d(?!\d)"
_MAX_SECONDS_DIGITS = 9


class Handshake:
    """One handshake. It has no ``__repr__``, since it holds secrets.

    Args:
        endpoint: the server.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = base64.b64encode(os.urandom(_KEY_BYTES))

    def request(self) -> bytes:
        """Return the request that opens it."""
        endpoint, url = self._endpoint, urlsplit(self._endpoint.url)
        port = None if url.port == _DEFAULT_PORTS[url.scheme] else url.port
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = [
            f"GET {quote(target, safe=string.punctuation)} HTTP/1.1",
            f"Host: {authority(url.hostname or '', port)}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in endpoint.headers.items()),
        ]
        if endpoint.token:
            lines.append(f"Authorization: Bearer {endpoint.token}")
        if endpoint.offers_acks:
            lines.append(f"Telemetry-Ack: {ACK_CUMULATIVE}")
        if endpoint.offers_archived_acks:
            lines.append(f"Telemetry-Confirm: {ACK_ARCHIVED}")
        if endpoint.offers_reports:
            lines.append(f"Telemetry-Report: {REPORT_VERSION}")
        if endpoint.encodings:
            lines.append(f"Telemetry-Encoding: {', '.join(endpoint.encodings)}")
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def is_interim(self, head: bytes) -> bool:
        """Return whether another answer follows this one (:rfc:`9110`, section 15.2)."""
        return bool(re.match(_INTERIM, head))

    def check(self, head: bytes) -> Mapping[str, str]:
        """Return the headers of the server's answer, with their names in lower case.

        Args:
            head: the answer up to the empty line, or all that came before the connection ended.

        Raises:
            ConnectionLost: the server refused. No text of the server's goes into the message.
        """
        status = int(match[1]) if (match := re.match(_STATUS_LINE, head)) else None
        if status in _REDIRECTS:
            raise ConnectionLost(LostKind.REDIRECT, _REDIRECTED, status=status)
        if status not in (None, _SWITCHING_PROTOCOLS):
            raise ConnectionLost(
                LostKind.REFUSED,
                f"the server refused the handshake with HTTP status {status}",
                status=status,
                retry_after=_retry_after(_headers(head)) if status in _MAY_BE_RETRIED else None,
            )
        if b"HTTP/".startswith(head[:5]) and not re.search(HEAD_END, head):
            raise ConnectionLost(LostKind.HANDSHAKE, _CLOSED)
        headers = _headers(head)
        if (
            status is None
            or "websocket" not in _tokens(headers.get("upgrade", ""))
            or "upgrade" not in _tokens(headers.get("connection", ""))
            or headers.get("sec-websocket-accept") != self._expected
        ):
            raise ConnectionLost(LostKind.HANDSHAKE, _NO_HANDSHAKE)
        return headers

    @property
    def _expected(self) -> str:
        digest = hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest()
        return base64.b64encode(digest).decode()


def _headers(head: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (:rfc:`9110`, section 10.2.3).

    A date counts from the answer's own ``Date``, because the player's clock may be hours wrong.
    Without a ``Date``, nobody knows how far away the date is: then the usual delays apply.
    """
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_SECONDS_DIGITS])
    # Slow, and rarely needed. No thread waits for this import: `proxy.prepare` does it as well.
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        until, now = (
            moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)  # an obsolete form
            for moment in map(parsedate_to_datetime, (text, headers.get("date", "")))
        )
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
