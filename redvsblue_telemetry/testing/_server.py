"""A WebSocket server that records the messages it receives, on threads of its own."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _compression
from .._shared import (
    ACK_ARCHIVED,
    ACK_CUMULATIVE,
    ACK_HEADER,
    CONFIRM_HEADER,
    ENCODING_HEADER,
    REPORT_HEADER,
    REPORT_VERSION,
)

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

__all__ = ["RecordingServer"]

_MAX_TEXT_BYTES = 64 * 1024 * 1024  # of a message, once it is unpacked
_INVALID_DATA, _TOO_BIG = 1007, 1009  # RFC 6455, section 7.4.1


class RecordingServer:
    """A real WebSocket server on loopback that records the events it receives; a context manager.

    ::

        with RecordingServer() as server:
            telemetry = start_telemetry(enabled=True, url=server.url)
            ...
            assert server.wait_for(3)
            print(server.events)

    Its methods may be called from any thread.

    Args:
        port: The port to listen on. If 0, an available port is picked.
        ssl_context: For ``wss://``.
        acks: Acknowledge each message with ``{"ack": n}`` once it is recorded, if the client
            offers that. Events that ``flush`` confirms are then in :attr:`events`. Without acks,
            only pongs confirm, and a pong can precede the recording.
        archives: Have an archive, for clients with ``confirm="archived"``: their messages are
            stored at once, and acknowledged when :meth:`archive` is called. Needs ``acks``.
        reports: Take reports, if the client offers them. They are in :attr:`reports`, and neither
            in :attr:`messages` nor in :attr:`events`.
        encodings: The encodings of messages that the server knows, the best one first, of
            ``"zstd"`` and ``"deflate"``. It picks the first one that the client offers. None: those
            that this Python has. Empty: none, so messages come as text.
        token: Respond with 401 to handshakes without this bearer token.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        acks: bool = True,
        archives: bool = False,
        reports: bool = True,
        encodings: Sequence[str] | None = None,
        token: str | None = None,
    ) -> None:
        self._requested_port = port
        self._ssl_context = ssl_context
        self._acks = acks
        self._archives = archives
        self._takes_reports = reports
        self._encodings = _compression.supported() if encodings is None else tuple(encodings)
        self._token = token
        self._changed = threading.Condition()
        self._messages: list[str | bytes] = []
        self._message_encodings: list[str | None] = []
        self._events: list[dict[str, Any]] = []
        self._reports: list[dict[str, Any]] = []
        self._requests: list[Request] = []
        self._open: set[ServerConnection] = set()
        self._acking = threading.Lock()  # held while an ack is sent, so that none goes back
        self._counts: dict[ServerConnection, tuple[int, int]] = {}  # messages archived, and stored

    def start(self) -> RecordingServer:
        """Start to listen."""
        try:
            from websockets.exceptions import ConnectionClosed
            from websockets.sync.server import serve
        except ImportError as error:
            raise ImportError(
                "RecordingServer needs websockets: pip install redvsblue-telemetry[testing]"
            ) from error
        self._closed_errors = ConnectionClosed
        self._server = serve(
            self._receive,
            "127.0.0.1",
            self._requested_port,
            ssl=self._ssl_context,
            process_request=self._check,
            process_response=self._answer,
            max_size=None,
            compression=None,
        )
        self._thread = threading.Thread(target=self._serve, name="recording-server", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections and stop listening."""
        self._server.shutdown()
        self.disconnect()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def disconnect(self, code: int = 1001) -> None:
        """Close all open connections."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            connection.close(code)

    def archive(self) -> None:
        """Archive all that was received, and acknowledge it. Needs ``archives``."""
        with self._acking:
            for connection, (_, stored) in list(self._counts.items()):
                with contextlib.suppress(self._closed_errors):
                    self._acknowledge(connection, stored, stored)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        port: int = self._server.socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The URL for ``start_telemetry``."""
        scheme = "ws" if self._ssl_context is None else "wss"
        return f"{scheme}://127.0.0.1:{self.port}/telemetry"

    @property
    def messages(self) -> list[str | bytes]:
        """The messages with events in order of arrival, repeats included.

        A compressed message is in it as the text that it was before.
        """
        with self._changed:
            return list(self._messages)

    @property
    def message_encodings(self) -> list[str | None]:
        """The encoding in which each of :attr:`messages` came; None for one that was as it is."""
        with self._changed:
            return list(self._message_encodings)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in order of arrival, repeats included."""
        with self._changed:
            return list(self._events)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The reports in order of arrival, without the ``report`` around each."""
        with self._changed:
            return list(self._reports)

    @property
    def requests(self) -> list[Request]:
        """The handshake requests, including refused ones."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        with self._changed:
            return len(self._open)

    def wait_for(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until ``count`` events have arrived; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._events) >= count, timeout)

    def wait_for_connection(self, timeout: float = 5.0) -> bool:
        """Wait until a client is connected; return whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._open), timeout)

    def __enter__(self) -> RecordingServer:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # On the server's threads.

    def _serve(self) -> None:
        try:
            self._server.serve_forever()
        except OSError:
            # On Windows, waiting for a socket fails when it is closed, which is how a server stops.
            if self._server.socket.fileno() >= 0:
                raise

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        with self._changed:
            self._requests.append(request)
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            return connection.respond(401, "a token is required\n")
        return None

    def _answer(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response | None:
        if self._acks and request.headers.get(ACK_HEADER) == ACK_CUMULATIVE:
            wants_archive = request.headers.get(CONFIRM_HEADER) == ACK_ARCHIVED
            has_archive = self._archives and wants_archive
            response.headers[ACK_HEADER] = ACK_ARCHIVED if has_archive else ACK_CUMULATIVE
        if self._takes_reports and request.headers.get(REPORT_HEADER) == REPORT_VERSION:
            response.headers[REPORT_HEADER] = REPORT_VERSION
        offered = request.headers.get(ENCODING_HEADER, "")
        if encoding := _compression.choose(offered, self._encodings):
            response.headers[ENCODING_HEADER] = encoding
        return response

    def _receive(self, connection: ServerConnection) -> None:
        response = connection.response
        headers = {} if response is None else response.headers
        encoding = headers.get(ENCODING_HEADER)
        unpack = _compression.unpacker(encoding) if encoding else None
        with self._changed:
            self._open.add(connection)
            self._changed.notify_all()
        try:
            for number, message in enumerate(connection, start=1):
                if unpack is None or isinstance(message, str):
                    self._keep(message)
                else:
                    self._keep(unpack(message, _MAX_TEXT_BYTES).decode(), encoding)
                if headers.get(ACK_HEADER) == ACK_ARCHIVED:
                    with self._acking:
                        archived, _ = self._counts.get(connection, (0, 0))
                        self._acknowledge(connection, archived, number)
                elif ACK_HEADER in headers:
                    connection.send(json.dumps({"ack": number}))
        except _compression.TooLargeError as error:
            connection.close(_TOO_BIG, str(error))
        except _compression.CompressionError as error:
            connection.close(_INVALID_DATA, str(error))
        except self._closed_errors:
            pass  # however a client leaves, its events are kept
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()
            with self._acking:
                self._counts.pop(connection, None)

    def _acknowledge(self, connection: ServerConnection, archived: int, stored: int) -> None:
        self._counts[connection] = archived, stored
        connection.send(json.dumps({"ack": archived, "stored": stored}))

    def _keep(self, message: str | bytes, encoding: str | None = None) -> None:
        text = message if isinstance(message, str) else message.decode()
        lines = text.splitlines()
        events = json.loads(text) if text.startswith("[") else list(map(json.loads, lines))
        with self._changed:
            if len(events) == 1 and events[0].keys() == {"report"}:
                self._reports.append(events[0]["report"])
            else:
                self._messages.append(message)
                self._message_encodings.append(encoding)
                self._events.extend(events)
            self._changed.notify_all()
