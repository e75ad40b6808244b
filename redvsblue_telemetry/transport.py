"""The network: opens a WebSocket connection and moves its frames. Alone in importing ``websocket``.

websocket-client speaks the protocol: the handshake and the frames. The socket below it is ours
and never blocks: :class:`_Stream` stands between the two. So all waiting is done in one place, by
a function that the caller passes in, which a stop can interrupt at any byte of a handshake; and
one deadline spans name look-up, TCP, TLS and handshake together.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Protocol
from urllib.parse import urlsplit

import attrs
import websocket

__all__ = [
    "Connection",
    "ConnectionLost",
    "Endpoint",
    "Received",
    "Wait",
    "WebSocketConnection",
    "default_ssl_context",
    "open_websocket",
]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Wait = Callable[[int, int, float], None]
"""``wait(fd, events, deadline)``: return when the descriptor is ready.

Raises TimeoutError at the deadline, and whatever else the caller wants a connect to end with.
"""

_HANDSHAKE_BYTES = 65536  # an answer to the handshake that is longer is no answer
_FRAME_BYTES = 65536  # a server has nothing to say that takes more
_READ_BYTES = 65536
_WRITE_BYTES = 65536
_FRAMES_A_TURN = 256  # then other work gets its turn
_NO_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)
_SWITCHING_PROTOCOLS = 101
_REDIRECTED = "the server redirects, which is refused"
_GOODBYE = websocket.STATUS_NORMAL.to_bytes(2, "big")
_ACK_HEADER = "telemetry-ack"
_CUMULATIVE = "cumulative"


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


@attrs.frozen
class Endpoint:
    """Where to connect to, and how."""

    url: str
    token: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    ssl_context: ssl.SSLContext | None = None
    offers_acks: bool = True


@attrs.frozen
class Received:
    """A frame from the server that has something to say about delivery."""

    payload: bytes
    is_pong: bool
    """A pong; otherwise a whole text or binary message."""


class Connection(Protocol):
    """What the connector needs of a connection. Used by one thread."""

    @property
    def has_acks(self) -> bool:
        """Whether the server promised to acknowledge what it has stored."""

    @property
    def unwritten(self) -> int:
        """Bytes that were sent here but that the network has not taken yet."""

    @property
    def has_more(self) -> bool:
        """Whether :meth:`receive` stopped short: call it again before waiting."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def send(self, payload: bytes) -> None:
        """Send a text message. Never blocks; what can't go at once goes with :meth:`flush`."""

    def ping(self, payload: bytes) -> None:
        """Send a ping, likewise."""

    def flush(self) -> None:
        """Write as much as the network takes now."""

    def receive(self) -> list[Received]:
        """What has arrived by now; never blocks.

        Raises:
            ConnectionLost: the connection is gone, or the server broke the protocol.
        """

    def close(self) -> None:
        """Say goodbye if that can be done at once, and close."""

    def abort(self) -> None:
        """Close without a word."""


@functools.lru_cache(maxsize=1)
def default_ssl_context() -> ssl.SSLContext:
    """The context that trusts what the system trusts. Built once, since that is slow."""
    return ssl.create_default_context()


def open_websocket(endpoint: Endpoint, wait: Wait, deadline: float) -> WebSocketConnection:
    """Connect: name look-up, TCP, TLS and handshake.

    Args:
        endpoint: where to.
        wait: waits for the socket; see :data:`Wait`.
        deadline: until when all of it has to be done, on the clock of ``wait``.

    Raises:
        ConnectionLost: it can't be done; its message is fit for a log.
    """
    url = urlsplit(endpoint.url)
    host = url.hostname or ""
    is_secure = url.scheme == "wss"
    sock = None
    try:
        sock = _open_tcp(host, url.port or (443 if is_secure else 80), wait, deadline)
        if is_secure:
            sock = _open_tls(sock, host, endpoint.ssl_context, wait, deadline)
        stream = _Stream(sock)
        with stream.waiting(wait, deadline):
            client = _open_protocol(stream, endpoint)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, (OSError, ValueError, websocket.WebSocketException)):
            raise _failure(error, host) from None
        raise
    return WebSocketConnection(client, stream)


def _open_tcp(host: str, port: int, wait: Wait, deadline: float) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, proto, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if (code := sock.connect_ex(address)) in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                wait(sock.fileno(), WRITE, deadline)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException as error:
            sock.close()
            is_last = index + 1 == len(addresses)
            if is_last or isinstance(error, TimeoutError) or not isinstance(error, OSError):
                raise
        else:
            return sock
    raise OSError(errno.EHOSTUNREACH, f"{host} has no address")


def _open_tls(
    plain: socket.socket, host: str, context: ssl.SSLContext | None, wait: Wait, deadline: float
) -> ssl.SSLSocket:
    context = context or default_ssl_context()
    sock = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
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


def _open_protocol(stream: _Stream, endpoint: Endpoint) -> websocket.WebSocket:
    headers = [f"{name}: {value}" for name, value in endpoint.headers.items()]
    if endpoint.token:
        headers.append(f"Authorization: Bearer {endpoint.token}")
    if endpoint.offers_acks:
        headers.append(f"Telemetry-Ack: {_CUMULATIVE}")
    client = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
    # redirect_limit=0: a redirect would take the token somewhere else. Before websocket-client
    # 1.9.1 that leaves the redirect looking like a connection, so the status is looked at too.
    client.connect(  # type: ignore[no-untyped-call]
        endpoint.url, socket=stream, header=headers, redirect_limit=0, suppress_origin=True
    )
    if client.getstatus() != _SWITCHING_PROTOCOLS:
        raise ConnectionLost(_REDIRECTED)
    return client


def _failure(error: Exception, host: str) -> ConnectionLost:
    """Say what went wrong in words that hold no secret and nothing that the server made up."""
    if isinstance(error, websocket.WebSocketBadStatusException):
        status = error.status_code
        return ConnectionLost(
            f"the server refused the handshake with HTTP status {status}",
            status=status,
            retry_after=_retry_after(error.resp_headers) if status in (429, 503) else None,
        )
    if isinstance(error, websocket.WebSocketConnectionClosedException):
        return ConnectionLost("the server closed the connection during the handshake")
    if isinstance(error, (TimeoutError, websocket.WebSocketTimeoutException)):
        return ConnectionLost("connecting took too long")
    if isinstance(error, (websocket.WebSocketException, ValueError)):
        if "edirect" in str(error):
            return ConnectionLost(_REDIRECTED)
        return ConnectionLost("the server's answer to the handshake is no WebSocket handshake")
    if isinstance(error, socket.gaierror):
        return ConnectionLost(f"the name {host} can't be resolved", is_offline=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionLost(f"the server's certificate is refused: {error.verify_message}")
    is_offline = isinstance(error, OSError) and error.errno in _NO_NETWORK
    return ConnectionLost(_words(error), is_offline=is_offline)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds, from a ``Retry-After`` header of either form (:rfc:`9110`, section 10.2.3)."""
    text = (headers or {}).get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, TypeError):
        return None


class _Stream:
    """A socket that never blocks, in the shape that websocket-client expects of a socket.

    While :meth:`waiting`, reads wait by the given function. Otherwise a read with nothing there
    raises BlockingIOError, upon which websocket-client keeps its place within a frame.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = b""
        self._position = 0
        self._outgoing = bytearray()
        self._wait: Callable[[int], None] | None = None
        self._budget = 0  # bytes that may still be read before the frame has to be complete
        self.is_at_end = False

    @contextlib.contextmanager
    def waiting(self, wait: Wait, deadline: float) -> Iterator[None]:
        """Let reads wait until the deadline, within the bytes of one handshake."""
        self._budget = _HANDSHAKE_BYTES
        self._wait = lambda events: wait(self._sock.fileno(), events, deadline)
        yield
        self._wait = None

    def allow(self, size: int) -> None:
        """Let so many bytes be read from now on."""
        self._budget = size

    # What websocket-client calls:

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """Waiting isn't websocket-client's to do."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        while self._position >= len(self._incoming) and not self.is_at_end:
            if self._wait is None:
                raise BlockingIOError(errno.EAGAIN, "nothing there yet")
            self.flush()
            if not self.fill():
                self._wait(READ | WRITE if self._outgoing else READ)
        chunk = self._incoming[self._position : self._position + size]
        self._position += len(chunk)
        self._budget -= len(chunk)
        if self._budget < 0:
            raise ConnectionLost("the server sends more than it may")
        return chunk

    def send(self, data: bytes) -> int:
        self._outgoing += data
        return len(data)

    def close(self) -> None:
        self._sock.close()

    # What the connection calls:

    @property
    def unwritten(self) -> int:
        return len(self._outgoing)

    def fill(self) -> bool:
        """Read what has arrived; whether there was something, the end included."""
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._incoming = self._incoming[self._position :] + chunk
        self._position = 0
        self.is_at_end = not chunk
        return True

    def flush(self) -> None:
        """Write as much as the socket takes."""
        while self._outgoing:
            with memoryview(self._outgoing) as view:
                try:
                    written = self._sock.send(view[:_WRITE_BYTES])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
            del self._outgoing[:written]


class WebSocketConnection:
    """An open connection; see :class:`Connection`."""

    def __init__(self, client: websocket.WebSocket, stream: _Stream) -> None:
        self._client = client
        self._stream = stream
        self._fragments: bytearray | None = None
        self._end: ConnectionLost | None = None
        self._has_more = False
        stream.allow(_FRAME_BYTES)
        answer: Mapping[str, str] = client.getheaders() or {}
        self.has_acks = answer.get(_ACK_HEADER, "").strip().lower() == _CUMULATIVE

    @property
    def unwritten(self) -> int:
        return self._stream.unwritten

    def fileno(self) -> int:
        return self._stream.fileno()

    def send(self, payload: bytes) -> None:
        self._send(payload, websocket.ABNF.OPCODE_TEXT)

    def ping(self, payload: bytes) -> None:
        self._send(payload, websocket.ABNF.OPCODE_PING)

    def _send(self, payload: bytes, opcode: int) -> None:
        try:
            self._client.send_frame(websocket.ABNF.create_frame(payload, opcode))
        except websocket.WebSocketConnectionClosedException:
            raise ConnectionLost("the connection ended without a close") from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise ConnectionLost(_words(error)) from None

    @property
    def has_more(self) -> bool:
        return self._has_more

    def receive(self) -> list[Received]:
        received: list[Received] = []
        if self._end is None:
            self._end = self._read_frames(received)
        if self._end is not None and not received:
            raise self._end
        # What arrived before the end still counts; the next call raises it.
        self._has_more = self._end is not None or len(received) >= _FRAMES_A_TURN
        return received

    def _read_frames(self, received: list[Received]) -> ConnectionLost | None:
        """Read what has arrived into ``received``; returns the connection's end if it is met."""
        try:
            self._stream.fill()
            while len(received) < _FRAMES_A_TURN:
                frame = self._client.recv_frame()  # type: ignore[no-untyped-call]
                self._stream.allow(_FRAME_BYTES)
                self._take(frame, received)
        except BlockingIOError:
            return None  # all that has arrived is read
        except ConnectionLost as lost:
            return lost
        except websocket.WebSocketConnectionClosedException:
            return ConnectionLost("the connection ended without a close")
        except websocket.WebSocketException:
            return ConnectionLost("the server broke the WebSocket protocol")
        except OSError as error:
            return ConnectionLost(_words(error))
        return None

    def _take(self, frame: websocket.ABNF, received: list[Received]) -> None:
        if frame.opcode == websocket.ABNF.OPCODE_PONG:
            received.append(Received(_payload(frame), is_pong=True))
        elif frame.opcode == websocket.ABNF.OPCODE_PING:
            self._answer(_payload(frame))
        elif frame.opcode == websocket.ABNF.OPCODE_CLOSE:
            self._say_goodbye()
            raise _closed(_payload(frame))
        else:
            received.extend(self._message(frame))

    def _answer(self, ping: bytes) -> None:
        # While the server doesn't read, it has no right to answers (RFC 6455, section 5.5.3).
        if self.unwritten < _WRITE_BYTES:
            self._send(ping, websocket.ABNF.OPCODE_PONG)

    def _message(self, frame: websocket.ABNF) -> list[Received]:
        is_continued = frame.opcode == websocket.ABNF.OPCODE_CONT
        if is_continued != (self._fragments is not None):
            raise ConnectionLost("the server broke the WebSocket protocol")
        whole = (self._fragments or bytearray()) + _payload(frame)
        if len(whole) > _FRAME_BYTES:
            raise ConnectionLost("the server sends more than it may")
        self._fragments = None if frame.fin else whole
        return [Received(bytes(whole), is_pong=False)] if frame.fin else []

    def close(self) -> None:
        self._say_goodbye()
        self.abort()

    def _say_goodbye(self) -> None:
        """Send a close, unless it would have to wait behind what the network hasn't taken yet."""
        with contextlib.suppress(ConnectionLost):  # whoever has gone already doesn't hear it
            if not self.unwritten:
                self._send(_GOODBYE, websocket.ABNF.OPCODE_CLOSE)
                self.flush()

    def abort(self) -> None:
        self._stream.close()


def _payload(frame: websocket.ABNF) -> bytes:
    return frame.data if isinstance(frame.data, bytes) else frame.data.encode()


def _closed(payload: bytes) -> ConnectionLost:
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
    return ConnectionLost(f"the server closed with code {code}", close_code=code)
