"""A server that alerts are posted to."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from typing import Any


class Receiver:
    """A server for webhooks that answers with the statuses, and then with 200.

    A redirect leads to another path of it. ``SECRET`` is in its URL, and belongs nowhere else.
    """

    SECRET = "T0K3N"

    def __init__(self, *statuses: int, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        statuses_left = list(statuses)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                status = statuses_left.pop(0) if statuses_left else 200
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/{self.SECRET}?key={self.SECRET}"

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.requests]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(body)["alert"] for body in self.bodies]
