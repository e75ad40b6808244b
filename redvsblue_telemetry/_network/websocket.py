"""Opens WebSocket connections and moves their frames. The only importer of ``websocket``.

websocket-client reads the frames that ``frames`` leaves to it: all but pongs. Only its buffer is
used, not its ``WebSocket``, for the reasons that ``handshake`` gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from .._packages import check
from .._shared import (
    ACK_ARCHIVED,
    ACK_CUMULATIVE,
    ACK_HEADER,
    CHECK_HEADER,
    CHECK_VERSION,
    ENCODING_HEADER,
    REPORT_HEADER,
    REPORT_VERSION,
)
from .contract import (
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
from .handshake import Handshake
from .stream import Stream

check("websocket", "websocket-client", "frame_buffer")

import websocket  # noqa: E402 (it is checked first)

__all__ = ["WebSocketConnection", "open_websocket"]

_MAX_MESSAGE_BYTES = 65536  # from a server, which sends acks only
_MAX_CONTROL_BYTES = 125  # RFC 6455, section 5.5
_MAX_INTERIM_ANSWERS = 8  # to a handshake, such as "103 Early Hints" from a gateway
_PONG_HEADER_BYTES = 2
_MAX_HEADER_BYTES = 14
_MAX_UNWRITTEN_TO_ANSWER = 65536  # bytes; with more unwritten, pings aren't answered
_FRAMES_PER_CALL = 256  # then other work gets its turn
_VIOLATION = "the server violated the WebSocket protocol"
_NO_CLOSE_CODE = 1005  # RFC 6455, section 7.4.1
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
    handshake = Handshake(endpoint)
    stream = Stream(open_socket(host, port, tls, wait, deadline))
    try:
        stream.send(handshake.request())
        head = stream.read_head(wait, deadline)
        for _ in range(_MAX_INTERIM_ANSWERS):
            if handshake.is_interim(head):
                head = stream.read_head(wait, deadline)
        headers = handshake.check(head)
    except BaseException as error:
        stream.close()
        if isinstance(error, TimeoutError):
            raise ConnectionLost(LostKind.TIMEOUT, TIMED_OUT) from None
        if isinstance(error, OSError):
            raise lost_by_os_error(error, LostKind.HANDSHAKE) from None
        raise
    return WebSocketConnection(
        stream, headers, endpoint.encodings, offers_archived_acks=endpoint.offers_archived_acks
    )


_KINDS = {
    websocket.ABNF.OPCODE_TEXT: FrameKind.TEXT,
    websocket.ABNF.OPCODE_BINARY: FrameKind.BINARY,
}


class WebSocketConnection:
    """An open connection; see :class:`Connection`."""

    def __init__(
        self,
        stream: Stream,
        headers: Mapping[str, str],
        encodings: Sequence[str] = (),
        *,
        offers_archived_acks: bool = False,
    ) -> None:
        self._stream = stream
        self._frames = websocket.frame_buffer(stream.read, skip_utf8_validation=True)
        self._keys = MaskingKeys()
        self._fragments: bytearray | None = None
        self._kind = FrameKind.TEXT  # of the message whose frames are coming in
        self._end: ConnectionLost | None = None
        self._has_more = False
        self._is_within_frame = False
        stream.limit_read(_MAX_HEADER_BYTES + _MAX_MESSAGE_BYTES)
        kind = headers.get(ACK_HEADER, "").lower()
        self.has_archived_acks = kind == ACK_ARCHIVED and offers_archived_acks
        self.has_acks = kind == ACK_CUMULATIVE or self.has_archived_acks
        self.has_reports = headers.get(REPORT_HEADER) == REPORT_VERSION
        self.forgets_checks = headers.get(CHECK_HEADER) == CHECK_VERSION
        # Any other answer counts as none, because text is always right.
        answer = headers.get(ENCODING_HEADER, "").lower()
        self.encoding = answer if answer in encodings else None

    @property
    def unwritten(self) -> int:
        return self._stream.unwritten

    def fileno(self) -> int:
        return self._stream.fileno()

    def send(self, payload: bytes, *, is_binary: bool = False) -> None:
        opcode = websocket.ABNF.OPCODE_BINARY if is_binary else websocket.ABNF.OPCODE_TEXT
        self._send(payload, opcode)

    def ping(self, payload: bytes) -> None:
        self._send(payload, websocket.ABNF.OPCODE_PING)

    def _send(self, payload: bytes, opcode: int) -> None:
        self._stream.send(client_frame(opcode, payload, self._keys.next()))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            # The reason that the server gave has been read already, if it gave one.
            raise (self._end or lost_by_os_error(error, LostKind.RESET)) from None

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
            # A flood waits in the network, not in memory; and a read that fails would hide frames.
            if not self._stream.has_unread:
                self._stream.fill()
            for _ in range(_FRAMES_PER_CALL):
                if not self._is_within_frame and (pong := self._stream.take(pong_end)):
                    received.append(Frame(pong[_PONG_HEADER_BYTES:], FrameKind.PONG))
                    continue
                # websocket-client may hold the beginning of a frame, so that the next bytes are
                # its continuation, even if they look like a pong.
                self._is_within_frame = self._is_within_frame or self._stream.has_unread
                frame = self._frames.recv_frame()
                self._is_within_frame = False
                self._stream.limit_read(_MAX_HEADER_BYTES + _MAX_MESSAGE_BYTES)
                self._take(frame, received)
            self._has_more = True
        except BlockingIOError:
            pass  # no more data for now
        except ConnectionLost as lost:
            # With its traceback it would be part of a cycle: itself, a frame, and this connection.
            return lost.with_traceback(None)
        except websocket.WebSocketException:
            return ConnectionLost(LostKind.PROTOCOL, _VIOLATION)
        except OSError as error:
            return lost_by_os_error(error, LostKind.RESET)
        return None

    def _take(self, frame: websocket.ABNF, received: list[Frame]) -> None:
        is_control = frame.opcode >= websocket.ABNF.OPCODE_CLOSE
        if (
            frame.mask_value  # RFC 6455, section 5.1: a server must not mask
            or (is_control and not (frame.fin and len(frame.data) <= _MAX_CONTROL_BYTES))
        ):
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
