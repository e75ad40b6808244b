"""Believes the ``X-Forwarded-*`` headers of a trusted proxy.

Of several values, the rightmost counts: that is the one that the nearest proxy wrote, whether it
appends to what a client sent or replaces it. uvicorn could do a part of this, but it believes any
proxy on this machine without being asked to, and knows neither the host nor the prefix.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import Scope

__all__ = ["as_forwarded", "forwarded_host"]

_SECURE = {"https": True, "wss": True, "http": False, "ws": False}
_ADDRESS = re.compile(r"\[(?P<bracketed>[^\]]+)\](?::\d+)?|(?P<v4>[\d.]+):\d+|(?P<bare>.+)")


def as_forwarded(scope: Scope) -> Scope:
    """Return the scope of a request as the proxy received it: its client, scheme and path.

    A path that still begins with the proxy's prefix loses it. A header that is absent or invalid
    changes nothing.
    """
    headers = Headers(scope=scope)
    changed = dict(scope)
    if (is_secure := _SECURE.get(_rightmost(headers, "x-forwarded-proto").lower())) is not None:
        plain = "ws" if scope["type"] == "websocket" else "http"
        changed["scheme"] = f"{plain}s" if is_secure else plain
    if (address := _address(_rightmost(headers, "x-forwarded-for"))) is not None:
        changed["client"] = (address, 0)
    prefix = _rightmost(headers, "x-forwarded-prefix").rstrip("/")
    path: str = scope["path"]
    if prefix.startswith("/") and path.startswith(f"{prefix}/"):
        changed["path"] = path[len(prefix) :]
    return changed


def forwarded_host(headers: Headers) -> str | None:
    """Return the host that the proxy was asked for; None if it does not say."""
    return _rightmost(headers, "x-forwarded-host") or None


def _rightmost(headers: Headers, name: str) -> str:
    values = headers.getlist(name)
    return values[-1].rpartition(",")[2].strip(" \t") if values else ""


def _address(text: str) -> str | None:
    """Return the address without a port; None if it isn't one, such as ``unknown``."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found["bracketed"] or found["v4"] or found["bare"])
    except ValueError:
        return None
    # The zone of an IPv6 address means nothing here, and may be any text.
    return str(address).partition("%")[0]
