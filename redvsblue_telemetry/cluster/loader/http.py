"""Serves ``/healthz`` and ``/metrics`` of a loader: to load balancers, Prometheus and operators.

They have counts only, no data of a game or a player.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ...collector.connections import Config, Server
from ...collector.server import OptionsError

__all__ = ["listen", "serving"]

_MAX_CONNECTIONS = 200


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OptionsError: the port is taken, or the host isn't this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionsError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port"
        ) from error


@contextlib.asynccontextmanager
async def serving(
    listener: socket.socket, metrics: Callable[[], bytes], is_storing: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve while the block runs.

    Args:
        listener: closed at the end.
        metrics: returns them in Prometheus's format.
        is_storing: returns whether events can be stored.
    """

    async def healthz(_: Request) -> Response:
        if is_storing():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("events can't be stored\n", 503)

    async def exposition(_: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[Route("/healthz", healthz), Route("/metrics", exposition)],
    )
    config = Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = Server(config, listener, _MAX_CONNECTIONS, None)
    task = asyncio.create_task(server.serve())
    try:
        await server.ready.wait()
        yield
    finally:
        server.should_exit = True
        await task
