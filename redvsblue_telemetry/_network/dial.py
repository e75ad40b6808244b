"""Dialing: opens a socket to a server, straight or through a proxy, with or without TLS.

All waiting is done by a function that the caller passes in, so a stop can interrupt it at any
byte; and one deadline spans name look-up, TCP, TLS and the handshake that follows.
"""

from __future__ import annotations

import codecs
import errno
import functools
import os
import selectors
import socket
import ssl
import weakref
from time import monotonic

from . import proxy
from .contract import TIMED_OUT, ConnectionLost, LostKind, Wait, lost_by_os_error

__all__ = ["default_ssl_context", "open_socket", "prepare"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_READ_BYTES = 65536
_PROXY_BYTES = 16384  # limit on the head of a proxy's answer
_PROXY_AUTHENTICATION_REQUIRED = 407
_NO_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)

_open_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """Close them in a forked child: also those of a handshake, which only a lost thread knows."""
    for sock in tuple(_open_sockets):
        sock.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_the_parent)


@functools.lru_cache(maxsize=1)
def default_ssl_context() -> ssl.SSLContext:
    """The context that trusts what the system trusts. Built once, since that is slow."""
    return ssl.create_default_context()


def prepare(*, is_secure: bool) -> None:
    """Do what is slow the first time, so that no connect does it while frames are drawn.

    Args:
        is_secure: there will be connections with TLS, and no other context is given for them.
    """
    # Here, since what a thread imports while another forks is broken in the child for good.
    codecs.lookup("idna")
    proxy.prepare()
    if is_secure:
        default_ssl_context()


def open_socket(
    host: str, port: int, tls: ssl.SSLContext | None, wait: Wait, deadline: float
) -> socket.socket:
    """Open a connection that doesn't block: through a proxy, if the environment names one.

    Args:
        host: a name or an address.
        port: the server's.
        tls: for an encrypted connection; None for a plain one.
        wait: waits for the socket; see :data:`Wait`.
        deadline: until when it has to be done, on the clock of :func:`time.monotonic`.

    Raises:
        ConnectionLost: it can't be done; its message is fit for a log.
    """
    name, kind = host, LostKind.TCP
    try:
        found = proxy.find_proxy(host, port, is_secure=tls is not None)
        if found is None:
            sock = _open_tcp(host, port, wait, deadline)
        else:
            request = found.request(host, port)
            name = found.host  # the proxy resolves the server's name
            sock = _open_tcp(found.host, found.port, wait, deadline)
            name, kind = host, LostKind.PROXY
            _open_tunnel(sock, request, wait, deadline)
        if tls is None:
            return sock
        kind = LostKind.TLS
        return _open_tls(sock, host, tls, wait, deadline)
    except proxy.ProxyError as error:
        needs_credentials = error.status == _PROXY_AUTHENTICATION_REQUIRED
        kind = LostKind.PROXY_AUTH if needs_credentials else LostKind.PROXY
        raise ConnectionLost(kind, str(error)) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: no encoding of it can be a name
        raise _failure(error, kind, name) from None


def _open_tcp(host: str, port: int, wait: Wait, deadline: float) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, proto, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, proto)
        _open_sockets.add(sock)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if (code := sock.connect_ex(address)) in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                # An address that doesn't answer must leave time for the others.
                share = (deadline - monotonic()) / (len(addresses) - index)
                wait(sock.fileno(), WRITE, min(deadline, monotonic() + share))
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException as error:
            sock.close()
            is_last = index + 1 == len(addresses)
            if is_last or not isinstance(error, OSError):
                raise
        else:
            return sock
    raise OSError(errno.EHOSTUNREACH, f"{host} has no address")


def _open_tunnel(sock: socket.socket, request: bytes, wait: Wait, deadline: float) -> None:
    try:
        while request:
            wait(sock.fileno(), WRITE, deadline)
            request = request[sock.send(request) :]
        answer = b""
        while b"\r\n\r\n" not in answer:
            wait(sock.fileno(), READ, deadline)
            chunk = sock.recv(_READ_BYTES)
            answer += chunk
            if not chunk:
                raise proxy.ProxyError("the proxy closed the connection")
            if len(answer) > _PROXY_BYTES:
                raise proxy.ProxyError("the proxy sent too much data")
        proxy.check_answer(answer)
        # A server speaks when it is spoken to, so what comes before that isn't the server's.
        if not answer.endswith(b"\r\n\r\n"):
            raise proxy.ProxyError("the proxy sent too much data")
    except BaseException:
        sock.close()
        raise


def _open_tls(
    plain: socket.socket, host: str, context: ssl.SSLContext, wait: Wait, deadline: float
) -> ssl.SSLSocket:
    sock = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    _open_sockets.add(sock)
    try:
        while True:
            try:
                sock.do_handshake()
                return sock
            except ssl.SSLWantReadError:
                wait(sock.fileno(), READ, deadline)
            except ssl.SSLWantWriteError:
                wait(sock.fileno(), WRITE, deadline)
    except BaseException:
        sock.close()  # `plain` is detached by now
        raise


def _failure(error: OSError | UnicodeError, kind: LostKind, host: str) -> ConnectionLost:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return ConnectionLost(LostKind.NAME, f"the host name {host} can't be resolved")
    if isinstance(error, TimeoutError):
        return ConnectionLost(LostKind.TIMEOUT, TIMED_OUT)
    is_offline = error.errno in _NO_NETWORK and not isinstance(error, ssl.SSLError)
    return lost_by_os_error(error, LostKind.UNREACHABLE if is_offline else kind)
