"""Wires the parts of a gateway together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ...collector.http.access import Access
from ...collector.http.application import application, health_route
from ...collector.http.metrics import Metrics
from ...collector.ingest import Ingest, Limits
from ...collector.server import Options, OptionsError
from ..stream import StreamOptions
from ..tasks import end
from .archive import ArchiveWatch
from .following import Following
from .link import FormatError, Link
from .metrics import StreamMetrics
from .storage import Counts, StreamStorage

__all__ = ["Gateway", "gateway_running"]

_START_TIMEOUT = 5.0  # seconds to wait for the stream before clients are refused


class Gateway:
    """A gateway without its port. Created, used and closed on the event loop's thread.

    Args:
        link: the connection to the stream.
        access: the rules for requests.
        limits: the limits on clients.
        public_url: the address of the page for people, if it is known.
    """

    def __init__(self, link: Link, access: Access, limits: Limits, public_url: str | None) -> None:
        self._public_url = public_url
        self.storage = storage = StreamStorage(link, self._on_stored, self._on_failure)
        self._following = following = Following()
        self.archive = ArchiveWatch(link, following)
        link.on_loss = self._on_loss
        self._stream_metrics = StreamMetrics(
            is_connected=lambda: link.is_connected,
            is_storing=lambda: storage.last_error is None,
            waiting_bytes=lambda: storage.waiting_bytes,
            in_flight=lambda: storage.in_flight,
            retries=lambda: storage.retries,
            unarchived=lambda: following.unarchived,
        )
        self.metrics = Metrics(
            lambda: self.ingest.connections, lambda: 0, more=[self._stream_metrics]
        )
        self.ingest = Ingest(storage, limits, self.metrics.record_message, following)
        routes = [
            *self.ingest.routes,
            health_route(storage),
            Route("/metrics", self._exposition),
            Route("/", self._introduction),
        ]
        self._access = application(routes, access, self.metrics.record_refusal)
        self.app: ASGIApp = self._access

    def start(self, url: str) -> None:
        """Do nothing: a gateway has no page."""

    async def close(self) -> None:
        """Store and acknowledge what was received, and close all clients."""
        self._access.close()
        await self.ingest.close()

    def _on_stored(self, counts: Counts) -> None:
        self.metrics.count(
            events=counts.events,
            repeats=counts.repeats,
            rejected=counts.rejected,
            crashes=counts.crashes,
        )
        self._stream_metrics.observe(counts.seconds)

    def _on_loss(self) -> None:
        self.storage.lose_all()
        self._following.lose_all()

    def _on_failure(self) -> None:
        self.metrics.record_failure()

    async def _introduction(self, _: Request) -> Response:
        where = self._public_url or "where `redvsblue-telemetry view` runs"
        return PlainTextResponse(
            "This is a gateway: games send their events here, to /telemetry.\n"
            f"The page for people is {where}.\n"
        )

    async def _exposition(self, _: Request) -> Response:
        return Response(self.metrics.exposition(None, None), media_type=CONTENT_TYPE_LATEST)


@contextlib.asynccontextmanager
async def gateway_running(stream: StreamOptions, options: Options) -> AsyncIterator[Gateway]:
    """A gateway with its connection to the stream.

    Args:
        stream: the servers of the stream.
        options: those of a collector; the ones about its database and its page have no effect.

    Raises:
        OptionsError: it can't run with these options.
    """
    try:
        stream.check()
    except ValueError as error:
        raise OptionsError(str(error)) from error
    link = Link(stream, f"gateway on {socket.gethostname()}")
    gateway = Gateway(link, options.access(), options.limits(), options.public_url)
    try:
        await gateway.storage.start(_START_TIMEOUT)
        watching = asyncio.create_task(gateway.archive.run())
        try:
            yield gateway
        finally:
            await end(watching)
    except FormatError as error:
        raise OptionsError(str(error)) from error
    finally:
        await gateway.storage.close()
