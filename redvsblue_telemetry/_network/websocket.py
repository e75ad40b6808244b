"""Opens WebSocket connections and moves their frames. The only importer of ``websocket``.

websocket-client speaks the protocol: the handshake, and the frames that ``frames`` leaves to it.
It expects a socket that blocks; :class:`Stream` gives it one that doesn't.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from time import time
from urllib.parse import urlsplit

import websocket

from .._shared import ACK_CUMULATIVE, ACK_HEADER
from .contract import (
    NO_HANDSHAKE,
    TIMED_OUT,
    TOO_MUCH,
    ConnectionLost,
    Endpoint,
    Frame,
    FrameKind,
    LostKind,
    Wait,
    lost_by_os_error,
)
from .dial import default_ssl_context, open_socket
from .frames import MaskingKeys, client_frame, pong_end
from .stream import Stream

__all__ = ["WebSocketConnection", "open_websocket"]

_MAX_MESSAGE_BYTES = 65536  # from a server, which sends acks only
_PONG_HEADER_BYTES = 2
_MAX_HEADER_BYTES = 14
_MAX_UNWRITTEN_TO_ANSWER = 65536  # bytes; with more unwritten, pings aren't answered
_FRAMES_PER_CALL = 256  # then other work gets its turn
_SWITCHING_PROTOCOLS = 101
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTED = "the server redirected the handshake; redirects are not followed"
_VIOLATION = "the server violated the WebSocket protocol"
_NO_CLOSE_CODE = 1005  # RFC 6455, section 7.4.1
_STATUS_LINE = rb"HTTP/\d\.\d (\d{3})(?!\d)"
_RETRY_AFTER = rb"(?im)^retry-after:([^\r\n]*)"
_NORMAL_CLOSURE = websocket.STATUS_NORMAL.to_bytes(2, "big")


def open_websocket(endpoint: Endpoint, wait: Wait, deadline: float) -> WebSocketConnection:
    """Open a connection: name look-up, TCP, TLS and handshake.

    Args:
        endpoint: the server.
        wait: waits for the socket; see :data:`Wait`.
        deadline: the time limit for all of it, on the clock of ``wait``.

    Raises:
        ConnectionLost: it failed.
    """
    url = urlsplit(endpoint.url)
    host = url.hostname or ""
    is_secure = url.scheme == "wss"
    tls = (endpoint.ssl_context or default_ssl_context()) if is_secure else None
    port = url.port or (443 if is_secure else 80)
    stream = Stream(open_socket(host, port, tls, wait, deadline))
    try:
        with stream.waiting(wait, deadline):
            client = _open_protocol(stream, endpoint)
    except (OSError, ValueError, ConnectionLost, websocket.WebSocketException) as error:
        lost = _refusal(error, stream.head)
    except BaseException:
        stream.close()
        raise
    else:
        return WebSocketConnection(client, stream)
    stream.close()
    # Raised outside the except clause: `from None` would only hide the original error, and that
    # one holds the server's answer, which may repeat the token.
    raise lost


def _open_protocol(stream: Stream, endpoint: Endpoint) -> websocket.WebSocket:
    headers = [f"{name}: {value}" for name, value in endpoint.headers.items()]
    if endpoint.token:
        headers.append(f"Authorization: Bearer {endpoint.token}")
    if endpoint.offers_acks:
        headers.append(f"Telemetry-Ack: {ACK_CUMULATIVE}")
    client = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
    # redirect_limit=0: by default websocket-client follows redirects (pull request 491), and the
    # request to the next server would carry the token.
    client.connect(  # type: ignore[no-untyped-call]
        endpoint.url, socket=stream, header=headers, redirect_limit=0, suppress_origin=True
    )
    return client


def _refusal(error: Exception, head: bytes) -> ConnectionLost:
    """Return why a handshake failed. No text of the server's goes into the message.

    Args:
        error: the error of websocket-client or of the socket.
        head: the head of the server's answer, as far as it was read.
    """
    status = int(match[1]) if (match := re.match(_STATUS_LINE, head)) else None
    if status in _REDIRECTS:
        return ConnectionLost(LostKind.REDIRECT, _REDIRECTED, status=status)
    if status not in (None, _SWITCHING_PROTOCOLS):
        return ConnectionLost(
            LostKind.REFUSED,
            f"the server refused the handshake with HTTP status {status}",
            status=status,
            retry_after=_retry_after(head) if status in (429, 503) else None,
        )
    if isinstance(error, ConnectionLost):
        return error
    if isinstance(error, websocket.WebSocketConnectionClosedException):
        message = "the server closed the connection during the handshake"
        return ConnectionLost(LostKind.HANDSHAKE, message)
    if isinstance(error, (TimeoutError, websocket.WebSocketTimeoutException)):
        return ConnectionLost(LostKind.TIMEOUT, TIMED_OUT)
    if isinstance(error, OSError):
        return lost_by_os_error(error, LostKind.HANDSHAKE)
    return ConnectionLost(LostKind.HANDSHAKE, NO_HANDSHAKE)


def _retry_after(head: bytes) -> float | None:
    """Return the seconds of a ``Retry-After`` header (:rfc:`9110`, section 10.2.3)."""
    match = re.search(_RETRY_AFTER, head)
    if match is None:
        return None
    text = match[1].decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 (slow, and rarely needed)

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


_KINDS = {
    websocket.ABNF.OPCODE_TEXT: FrameKind.TEXT,
    websocket.ABNF.OPCODE_BINARY: FrameKind.BINARY,
}


class WebSocketConnection:
    """An open connection; see :class:`Connection`."""

    def __init__(self, client: websocket.WebSocket, stream: Stream) -> None:
        self._client = client
        self._stream = stream
        self._keys = MaskingKeys()
        self._fragments: bytearray | None = None
        self._kind = FrameKind.TEXT  # of the message whose frames are coming in
        self._end: ConnectionLost | None = None
        self._has_more = False
        self._is_within_frame = False
        stream.limit_read(_MAX_HEADER_BYTES + _MAX_MESSAGE_BYTES)
        answer: Mapping[str, str] = client.getheaders() or {}
        self.has_acks = answer.get(ACK_HEADER, "").strip().lower() == ACK_CUMULATIVE

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
        self._stream.send(client_frame(opcode, payload, self._keys.next()))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise lost_by_os_error(error, LostKind.RESET) from None

    @property
    def has_more(self) -> bool:
        return self._has_more

    def receive(self) -> list[Frame]:
        received: list[Frame] = []
        if self._end is None:
            self._end = self._read_frames(received)
        if self._end is not None and not received:
            raise self._end
        # Frames that arrived before the end still count; the next call raises it.
        self._has_more = self._has_more or self._end is not None
        return received

    def _read_frames(self, received: list[Frame]) -> ConnectionLost | None:
        """Append arrived frames to ``received``; return why the connection ended, if it did."""
        self._has_more = False
        try:
            self._stream.fill()
            for _ in range(_FRAMES_PER_CALL):
                if not self._is_within_frame and (pong := self._stream.take(pong_end)):
                    received.append(Frame(pong[_PONG_HEADER_BYTES:], FrameKind.PONG))
                    continue
                # websocket-client may hold the beginning of a frame, so that the next bytes are
                # its continuation, even if they look like a pong.
                self._is_within_frame = self._is_within_frame or self._stream.has_unread
                frame = self._client.recv_frame()  # type: ignore[no-untyped-call]
                self._is_within_frame = False
                self._stream.limit_read(_MAX_HEADER_BYTES + _MAX_MESSAGE_BYTES)
                self._take(frame, received)
            self._has_more = True
        except BlockingIOError:
            pass  # no more data for now
        except ConnectionLost as lost:
            return lost
        except websocket.WebSocketConnectionClosedException:
            return ConnectionLost(LostKind.RESET, "the connection ended without a close frame")
        except websocket.WebSocketException:
            return ConnectionLost(LostKind.PROTOCOL, _VIOLATION)
        except OSError as error:
            return lost_by_os_error(error, LostKind.RESET)
        return None

    def _take(self, frame: websocket.ABNF, received: list[Frame]) -> None:
        if frame.mask_value:  # RFC 6455, section 5.1: a server must not mask
            raise ConnectionLost(LostKind.PROTOCOL, _VIOLATION)
        if frame.opcode == websocket.ABNF.OPCODE_PONG:
            received.append(Frame(_payload(frame), FrameKind.PONG))
        elif frame.opcode == websocket.ABNF.OPCODE_PING:
            self._answer(_payload(frame))
        elif frame.opcode == websocket.ABNF.OPCODE_CLOSE:
            self._send_close()
            raise _closed(_payload(frame))
        else:
            received.extend(self._message(frame))

    def _answer(self, ping: bytes) -> None:
        # A server that sends pings but doesn't read would fill the memory with answers.
        if self.unwritten < _MAX_UNWRITTEN_TO_ANSWER:
            self._send(ping, websocket.ABNF.OPCODE_PONG)

    def _message(self, frame: websocket.ABNF) -> list[Frame]:
        is_continued = frame.opcode == websocket.ABNF.OPCODE_CONT
        if is_continued != (self._fragments is not None):
            raise ConnectionLost(LostKind.PROTOCOL, _VIOLATION)
        if not is_continued:
            self._kind = _KINDS[frame.opcode]
        whole = (self._fragments or bytearray()) + _payload(frame)
        if len(whole) > _MAX_MESSAGE_BYTES:
            raise ConnectionLost(LostKind.PROTOCOL, TOO_MUCH)
        self._fragments = None if frame.fin else whole
        return [Frame(bytes(whole), self._kind)] if frame.fin else []

    def close(self) -> None:
        self._send_close()
        self.abort()

    def _send_close(self) -> None:
        """Send a close frame, unless unwritten data is in front of it."""
        with contextlib.suppress(ConnectionLost):  # the server has closed already
            if not self.unwritten:
                self._send(_NORMAL_CLOSURE, websocket.ABNF.OPCODE_CLOSE)
                self.flush()

    def abort(self) -> None:
        self._stream.close()

    def reset(self) -> None:
        self._stream.reset()


def _payload(frame: websocket.ABNF) -> bytes:
    return frame.data if isinstance(frame.data, bytes) else frame.data.encode()


def _closed(payload: bytes) -> ConnectionLost:
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else _NO_CLOSE_CODE
    return ConnectionLost(
        LostKind.CLOSED,
        f"the server closed with code {code}",
        close_code=code,
        close_reason=payload[2:].decode(errors="replace"),
    )
