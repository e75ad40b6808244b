"""A WebSocket server that records the messages it receives, on threads of its own."""

from __future__ import annotations

import json
import ssl
import threading
from typing import TYPE_CHECKING, Any

from .._shared import ACK_CUMULATIVE, ACK_HEADER, REPORT_HEADER, REPORT_VERSION

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

__all__ = ["RecordingServer"]


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
        reports: Take reports, if the client offers them. They are in :attr:`reports`, and neither
            in :attr:`messages` nor in :attr:`events`.
        token: Respond with 401 to handshakes without this bearer token.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        acks: bool = True,
        reports: bool = True,
        token: str | None = None,
    ) -> None:
        self._requested_port = port
        self._ssl_context = ssl_context
        self._acks = acks
        self._takes_reports = reports
        self._token = token
        self._changed = threading.Condition()
        self._messages: list[str | bytes] = []
        self._events: list[dict[str, Any]] = []
        self._reports: list[dict[str, Any]] = []
        self._requests: list[Request] = []
        self._open: set[ServerConnection] = set()

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
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="recording-server", daemon=True
        )
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
        """The messages with events in order of arrival, repeats included."""
        with self._changed:
            return list(self._messages)

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
            response.headers[ACK_HEADER] = ACK_CUMULATIVE
        if self._takes_reports and request.headers.get(REPORT_HEADER) == REPORT_VERSION:
            response.headers[REPORT_HEADER] = REPORT_VERSION
        return response

    def _receive(self, connection: ServerConnection) -> None:
        response = connection.response
        is_acking = response is not None and ACK_HEADER in response.headers
        with self._changed:
            self._open.add(connection)
            self._changed.notify_all()
        try:
            for number, message in enumerate(connection, start=1):
                self._keep(message)
                if is_acking:
                    connection.send(json.dumps({"ack": number}))
        except self._closed_errors:
            pass  # however a client leaves, its events are kept
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _keep(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        lines = text.splitlines()
        events = json.loads(text) if text.startswith("[") else list(map(json.loads, lines))
        with self._changed:
            if len(events) == 1 and events[0].keys() == {"report"}:
                self._reports.append(events[0]["report"])
            else:
                self._messages.append(message)
                self._events.extend(events)
            self._changed.notify_all()
