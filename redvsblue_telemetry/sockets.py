"""Sockets that never block: how one is opened, and what stands between it and websocket-client.

All waiting is done by a function that the caller passes in, so a stop can interrupt it at any
byte; and one deadline spans name look-up, TCP, TLS and the handshake that follows.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import os
import re
import selectors
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Iterator
from time import monotonic

from . import proxies

__all__ = [
    "ConnectionLost",
    "Stream",
    "Wait",
    "default_ssl_context",
    "open_socket",
    "prepare",
    "words",
]

_NO_LINGERING = struct.pack("ii", 1, 0)  # on, for no time at all

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Wait = Callable[[int, int, float], None]
"""``wait(fd, events, deadline)``: return when the descriptor is ready.

Raises TimeoutError at the deadline, and whatever else the caller wants a connect to end with.
"""

TOOK_TOO_LONG = "connecting took too long"
NO_HANDSHAKE = "the server's answer to the handshake is no WebSocket handshake"
TOO_MUCH = "the server sends more than it may"

_HANDSHAKE_BYTES = 16384  # an answer to the handshake that is longer is no answer
_HEAD_END = rb"\n\r?\n"
_PROXY_BYTES = 16384  # nor is one of a proxy
_READ_BYTES = 65536
_WRITE_BYTES = 65536
_NO_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)


class ConnectionLost(Exception):  # noqa: N818 (it is an event in a connection's life)
    """A connection could not be made, or is gone.

    Attributes:
        close_code: what the server closed with, if it did.
        status: the HTTP status with which it refused the handshake, if it did.
        retry_after: for how many seconds it asked to be left alone, if it did.
        is_offline: there is no network: no name, no route.
    """

    def __init__(
        self,
        reason: str,
        *,
        close_code: int | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        is_offline: bool = False,
    ) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.status = status
        self.retry_after = retry_after
        self.is_offline = is_offline


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
    proxies.prepare()
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
    name = host
    try:
        proxy = proxies.find_proxy(host, port, is_secure=tls is not None)
        if proxy is None:
            sock = _open_tcp(host, port, wait, deadline)
        else:
            request = proxy.request(host, port)
            name = proxy.host  # the one that is looked up: the server's is the proxy's to resolve
            sock = _open_tcp(proxy.host, proxy.port, wait, deadline)
            name = host
            _open_tunnel(sock, request, wait, deadline)
        return sock if tls is None else _open_tls(sock, host, tls, wait, deadline)
    except (OSError, UnicodeError) as error:  # the latter: it can't be a name at all
        raise _failure(error, name) from None


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
                raise proxies.ProxyError("the proxy closed the connection")
            if len(answer) > _PROXY_BYTES:
                raise proxies.ProxyError("the proxy sends more than it may")
        proxies.check_answer(answer)
        # A server speaks when it is spoken to, so what comes before that isn't the server's.
        if not answer.endswith(b"\r\n\r\n"):
            raise proxies.ProxyError("the proxy sends more than it may")
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


def _failure(error: OSError | UnicodeError, host: str) -> ConnectionLost:
    """Say what went wrong in words that hold no secret."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return ConnectionLost(f"the name {host} can't be resolved", is_offline=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionLost(f"the server's certificate is refused: {error.verify_message}")
    if isinstance(error, TimeoutError):
        return ConnectionLost(TOOK_TOO_LONG)
    return ConnectionLost(words(error), is_offline=error.errno in _NO_NETWORK)


def words(error: OSError) -> str:
    """What an error of the operating system or of TLS says, without its number."""
    return error.strerror or str(error) or type(error).__name__


def _without_cookies(head: bytes) -> bytes:
    lines = head.split(b"\n")
    return b"\n".join(
        line for line in lines if b"set-cookie" not in line.partition(b":")[0].lower()
    )


class Stream:
    """A socket that never blocks, in the shape that websocket-client expects of a socket.

    While :meth:`waiting`, the first read waits, by the given function, for the whole head of the
    server's answer, and that is all there is to read. Otherwise a read with nothing there raises
    BlockingIOError, upon which websocket-client keeps its place within a frame.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = b""
        self._position = 0
        self._outgoing = bytearray()
        self._wait: Callable[[int], None] | None = None
        self._budget = 0  # bytes that may still be read before the frame has to be complete
        self.is_at_end = False
        self.head = b""
        """The head of the answer to the handshake, or what came in its place."""

    @contextlib.contextmanager
    def waiting(self, wait: Wait, deadline: float) -> Iterator[None]:
        """Let reads wait until the deadline, for the answer to a handshake."""
        self._wait = lambda events: wait(self._sock.fileno(), events, deadline)
        yield
        self._wait = None

    def allow(self, size: int) -> None:
        """Let so many bytes be read from now on."""
        self._budget = size

    # What websocket-client calls:

    def gettimeout(self) -> float:
        """Zero: it never blocks."""
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """Waiting isn't websocket-client's to do."""

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once it is closed."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Up to so many of the bytes that have arrived; none at the end of the connection."""
        if self._wait is not None and not self.head:
            self._read_head(self._wait)
        if self._position >= len(self._incoming) and not self.is_at_end:
            if self._wait is None:
                raise BlockingIOError(errno.EAGAIN, "nothing there yet")
            # The body of an error, which websocket-client would read whole; or no head at all.
            raise ConnectionLost(NO_HANDSHAKE)
        chunk = self._incoming[self._position : self._position + size]
        self._position += len(chunk)
        self._budget -= len(chunk)
        if self._budget < 0:
            raise ConnectionLost(TOO_MUCH)
        return chunk

    def _read_head(self, wait: Callable[[int], None]) -> None:
        end = None
        while b"HTTP/".startswith(self._incoming[:5]) and not self.is_at_end:
            if end := re.search(_HEAD_END, self._incoming):
                break
            if len(self._incoming) >= _HANDSHAKE_BYTES:
                raise ConnectionLost(TOO_MUCH)
            self.flush()
            if not self.fill():
                wait(READ | WRITE if self._outgoing else READ)
        length = len(self._incoming) if end is None else end.end()
        self.head = self._incoming[:length]
        # websocket-client keeps cookies for the whole process, fails at odd ones, and sends them.
        self._incoming = _without_cookies(self.head) + self._incoming[length:]
        self.allow(len(self._incoming))

    def send(self, data: bytes) -> int:
        """Take all of it, to be written by :meth:`flush`."""
        self._outgoing += data
        return len(data)

    def close(self) -> None:
        """Close the socket, without a word."""
        self._sock.close()

    def reset(self) -> None:
        """Close it, and take back what has not left this machine yet."""
        with contextlib.suppress(OSError):  # it is gone, and so is what was in it
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._sock.close()

    # What the connection calls:

    @property
    def unwritten(self) -> int:
        """Bytes that the socket hasn't taken yet."""
        return len(self._outgoing)

    def fill(self) -> bool:
        """Read what has arrived; whether there was something, the end included."""
        if len(self._incoming) - self._position >= _READ_BYTES:
            return True  # enough to go on with: a flood has to wait in the network
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._incoming = self._incoming[self._position :] + chunk
        self._position = 0
        self.is_at_end = not chunk
        return True

    def take(self, end_of: Callable[[bytes, int], int]) -> bytes:
        """Take what has arrived, up to the end that is found in it; nothing if that is 0."""
        start = self._position
        self._position = end_of(self._incoming, start) or start
        return self._incoming[start : self._position]

    @property
    def has_unread(self) -> bool:
        """Whether something has arrived that wasn't taken yet."""
        return self._position < len(self._incoming)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        while self._outgoing:
            with memoryview(self._outgoing) as view:
                try:
                    written = self._sock.send(view[:_WRITE_BYTES])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
            del self._outgoing[:written]
