"""Proxies: which one the environment names for a server, and what is said to it.

The rules are those of :mod:`urllib.request`, which most programs follow: ``HTTP_PROXY`` for
``ws://``, ``HTTPS_PROXY`` for ``wss://``, ``ALL_PROXY`` for either, and ``NO_PROXY`` for the hosts
that need none. Through the proxy goes a tunnel, made by ``CONNECT`` (:rfc:`9110`, section 9.3.6),
as :rfc:`6455`, section 4.1, wants it for a WebSocket, encrypted or not: so the proxy of a ``wss://``
server sees its name and nothing else. No socket is touched here.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

__all__ = ["Proxy", "ProxyError", "check_answer", "find_proxy", "prepare"]

_DEFAULT_PORT = 80
_STATUS = rb"HTTP/1\.[01] (\d{3})(?: |\r|$)"


class ProxyError(Exception):
    """The proxy can't be used, or opened no tunnel. The message holds no secret.

    Attributes:
        status: the HTTP status of the proxy's answer, if it gave one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Proxy:
    """A proxy that makes tunnels. It has no ``repr`` of its own, since it keeps a secret.

    Args:
        host: its name or address.
        port: its port.
        credentials: for ``Proxy-Authorization``: what ``user:password`` is in Base64, if given.
    """

    def __init__(self, host: str, port: int, credentials: str | None = None) -> None:
        self.host = host
        self.port = port
        self.credentials = credentials

    def request(self, host: str, port: int) -> bytes:
        """What asks for a tunnel to a server."""
        name = host.encode("ascii") if host.isascii() else host.encode("idna")
        authority = b"[%b]:%d" % (name, port) if b":" in name else b"%b:%d" % (name, port)
        lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: %b" % authority]
        if self.credentials is not None:
            lines.append(b"Proxy-Authorization: Basic " + self.credentials.encode())
        return b"\r\n".join((*lines, b"", b""))


def check_answer(head: bytes) -> None:
    """Look at what the proxy answers.

    Args:
        head: the answer, up to the empty line.

    Raises:
        ProxyError: it makes no tunnel.
    """
    match = re.match(_STATUS, head)
    if match is None:
        raise ProxyError("the proxy's answer is not HTTP")
    status = int(match[1])
    if status == 407:
        message = "the proxy requires valid credentials (HTTP status 407)"
        raise ProxyError(message, status=status)
    if not 200 <= status < 300:
        message = f"the proxy refused the tunnel with HTTP status {status}"
        raise ProxyError(message, status=status)


def prepare() -> None:
    """Import what is needed to find a proxy: too slow for a game that never starts telemetry."""
    import urllib.request  # noqa: F401, PLC0415


def find_proxy(host: str, port: int, *, is_secure: bool) -> Proxy | None:
    """The proxy that the environment names for a server, as it is now; None for no proxy.

    Raises:
        ProxyError: it names one of a kind that isn't supported, or nonsense.
    """
    from urllib.request import getproxies  # noqa: PLC0415 (see `prepare`)

    proxies = getproxies()
    url = proxies.get("https" if is_secure else "http") or proxies.get("all")
    if not url or _is_exempt(host, port):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        proxy_port = parts.port or _DEFAULT_PORT
    except ValueError:
        raise ProxyError("the proxy URL in the environment is invalid") from None
    if parts.scheme != "http":
        raise ProxyError(f"a {parts.scheme}:// proxy is not supported; use http://")
    if not parts.hostname:
        raise ProxyError("the proxy URL in the environment has no host")
    return Proxy(parts.hostname, proxy_port, _credentials(parts))


def _is_exempt(host: str, port: int) -> bool:
    from urllib.request import proxy_bypass  # noqa: PLC0415

    # urllib compares with and without the port; an address of IPv6 it knows in brackets only.
    names = (f"[{host}]:{port}", host) if ":" in host else (f"{host}:{port}",)
    return any(proxy_bypass(name) for name in names)


def _credentials(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
    return base64.b64encode(user + b":" + password).decode()
