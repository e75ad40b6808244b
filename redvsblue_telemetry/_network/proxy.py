"""Proxies: finds the one that the environment names for a server, and speaks its protocol.

The rules are those of :mod:`urllib.request`, which most programs follow: ``HTTP_PROXY`` for
``ws://``, ``HTTPS_PROXY`` for ``wss://``, ``ALL_PROXY`` for either, and ``NO_PROXY`` for hosts that
need no proxy, which here may be blocks of addresses as well (``10.0.0.0/8``), as in curl and Go.
Every connection goes through a tunnel that ``CONNECT`` opens (:rfc:`9110`, section 9.3.6), as
:rfc:`6455`, section 4.1, requires, encrypted or not. So the proxy of a ``wss://`` server sees only
its name and port.

websocket-client can open a tunnel too. That is not used, since it reads the proxy's answer with
blocking calls and a timeout for each, accepts no status but 200, and formats IPv6 addresses without
brackets. No socket is touched here.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sys
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from .._shared import PicklableError, escape

__all__ = ["Proxy", "ProxyError", "authority", "find_proxy", "prepare"]

_DEFAULT_PORT = 80
_PROCESS = os.getpid()  # a forked child has another
_STATUS_LINE = rb"HTTP/1\.[01] (\d{3})(?: |\r|$)"


class ProxyError(PicklableError):
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

    @property
    def name(self) -> str:
        """Its host and port, fit for a log."""
        return _name(self.host, self.port)

    def request(self, host: str, port: int) -> bytes:
        """Return the request for a tunnel to a server."""
        server = authority(host, port)
        lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
        if self.credentials is not None:
            lines.append(f"Proxy-Authorization: Basic {self.credentials}")
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def check_answer(self, head: bytes) -> None:
        """Check the proxy's answer to that request.

        Args:
            head: the answer, up to the empty line.

        Raises:
            ProxyError: the proxy opened no tunnel.
        """
        match = re.match(_STATUS_LINE, head)
        if match is None:
            raise self.error("sent an answer that is not HTTP")
        status = int(match[1])
        if status == 407:
            raise self.error("requires valid credentials (HTTP status 407)", status=status)
        if not 200 <= status < 300:
            raise self.error(f"refused the tunnel with HTTP status {status}", status=status)

    def error(self, fault: str, *, status: int | None = None) -> ProxyError:
        """Return the error that names the proxy and what it did."""
        return ProxyError(f"the proxy {self.name} {fault}", status=status)


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


def _name(host: str, port: int | None) -> str:
    name = escape(f"[{host}]" if ":" in host else host)
    return name if port is None else f"{name}:{port}"


def prepare() -> None:
    """Import the modules that find a proxy: too slow for a game that never starts telemetry."""
    import ipaddress  # noqa: F401, PLC0415
    import urllib.request  # noqa: F401, PLC0415


def find_proxy(host: str, port: int, *, is_secure: bool) -> Proxy | None:
    """Return the proxy that the environment currently names for a server; None for no proxy.

    Raises:
        ProxyError: the proxy's URL is invalid or unsupported.
    """
    from urllib import request  # noqa: PLC0415 (see `prepare`)

    if sys.platform == "darwin" and os.getpid() != _PROCESS:
        # There, a forked child must not ask the system: https://docs.python.org/3/library/os.html#os.fork
        proxies = request.getproxies_environment()
    else:
        proxies = request.getproxies()
    url = proxies.get("https" if is_secure else "http") or proxies.get("all")
    if not url or _is_exempt(host, port) or _is_in_block(host, proxies.get("no", "")):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        proxy_port = parts.port
    except ValueError:
        raise ProxyError("the proxy URL in the environment is invalid") from None
    if not parts.hostname:
        raise ProxyError("the proxy URL in the environment has no host")
    if parts.scheme != "http":
        name = _name(parts.hostname, proxy_port)
        raise ProxyError(f"the {parts.scheme}:// proxy {name} is not supported; use http://")
    return Proxy(parts.hostname, proxy_port or _DEFAULT_PORT, _credentials(parts))


def _is_exempt(host: str, port: int) -> bool:
    from urllib.request import proxy_bypass  # noqa: PLC0415

    # urllib compares with and without the port, but splits off a port only behind brackets.
    names = (f"[{host}]:{port}", host) if ":" in host else (f"{host}:{port}",)
    return any(proxy_bypass(name) for name in names)


def _is_in_block(host: str, no_proxy: str) -> bool:
    """Return whether a block of addresses in ``NO_PROXY`` contains the host, given by address."""
    import ipaddress  # noqa: PLC0415

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name is not resolved for this: the proxy may see another network
    for entry in no_proxy.split(","):
        with contextlib.suppress(ValueError):
            if "/" in entry and address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False


def _credentials(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
    return base64.b64encode(user + b":" + password).decode()
