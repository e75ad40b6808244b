"""A WebSocket server of the library ``websockets``, with a handler of the test's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from websockets.sync.server import Server, ServerConnection, serve


@contextlib.contextmanager
def websocket_server(
    handler: Callable[[ServerConnection], None], scheme: str = "ws", **options: Any
) -> Iterator[str]:
    """Run a server on another thread; yields its URL."""
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=_run, args=(server,))
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


def _run(server: Server) -> None:
    try:
        server.serve_forever()
    except OSError:  # on Windows, from waiting for a socket that the shutdown closes
        if server.socket.fileno() >= 0:
            raise
