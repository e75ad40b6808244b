"""Proxies: finds the one that the environment names for a server, and speaks its protocol.

The rules are those of :mod:`urllib.request`, which most programs follow: ``HTTP_PROXY`` for
``ws://``, ``HTTPS_PROXY`` for ``wss://``, ``ALL_PROXY`` for either, and ``NO_PROXY`` for hosts that
need no proxy. Every connection goes through a tunnel that ``CONNECT`` opens (:rfc:`9110`, section
9.3.6), as :rfc:`6455`, section 4.1, requires, encrypted or not. So the proxy of a ``wss://`` server
sees only its name and port.

websocket-client can open a tunnel too. That is not used, since it reads the proxy's answer with
blocking calls and a timeout for each, accepts no status but 200, and formats IPv6 addresses without
brackets. No socket is touched here.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

__all__ = ["Proxy", "ProxyError", "authority", "check_answer", "find_proxy", "prepare"]

_DEFAULT_PORT = 80
_STATUS_LINE = rb"HTTP/1\.[01] (\d{3})(?: |\r|$)"


class ProxyError(Exception):
    """The proxy can't be used, or opened no tunnel. The message holds no secret.

    Attributes:
        status: the HTTP status of the proxy's answer, if it gave one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Proxy:
    """A proxy that opens tunnels. It has no ``__repr__``, since it holds a secret.

    Args:
        host: its name or address.
        port: its port.
        credentials: ``user:password`` in Base64, for ``Proxy-Authorization``; None for none.
    """

    def __init__(self, host: str, port: int, credentials: str | None = None) -> None:
        self.host = host
        self.port = port
        self.credentials = credentials

    def request(self, host: str, port: int) -> bytes:
        """Return the request for a tunnel to a server."""
        server = authority(host, port)
        lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
        if self.credentials is not None:
            lines.append(f"Proxy-Authorization: Basic {self.credentials}")
        return "\r\n".join((*lines, "", "")).encode("ascii")


def authority(host: str, port: int | None) -> str:
    """Return a host and its port as HTTP writes them.

    Args:
        host: its name or address.
        port: None to leave it out.

    Raises:
        UnicodeError: IDNA can't encode the name.
    """
    name = host if host.isascii() else host.encode("idna").decode()
    name = f"[{name}]" if ":" in name else name
    return name if port is None else f"{name}:{port}"


def check_answer(head: bytes) -> None:
    """Check the proxy's answer.

    Args:
        head: the answer, up to the empty line.

    Raises:
        ProxyError: the proxy opened no tunnel.
    """
    match = re.match(_STATUS_LINE, head)
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
    """Import the modules that find a proxy: too slow for a game that never starts telemetry."""
    import urllib.request  # noqa: F401, PLC0415


def find_proxy(host: str, port: int, *, is_secure: bool) -> Proxy | None:
    """Return the proxy that the environment currently names for a server; None for no proxy.

    Raises:
        ProxyError: the proxy's URL is invalid or unsupported.
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

    # urllib compares with and without the port, but splits off a port only behind brackets.
    names = (f"[{host}]:{port}", host) if ":" in host else (f"{host}:{port}",)
    return any(proxy_bypass(name) for name in names)


def _credentials(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
    return base64.b64encode(user + b":" + password).decode()
