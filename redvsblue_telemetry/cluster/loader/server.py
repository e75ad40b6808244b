"""Runs a loader: one connection to the stream, one lake, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.js import JetStreamContext

from ..._compression import CompressionError
from ..._schema import SchemaError
from ...collector.checking import read_checker
from ...collector.server import OptionsError
from ...collector.storage.upkeep import Keep
from ..lake.errors import LakeError
from ..lake.table import check_place
from ..stream import (
    StreamClient,
    StreamHealth,
    StreamOptions,
    StreamState,
    connect,
    ensure_stream,
    ensured_info,
    health_of,
    state_of,
)
from ..tasks import end
from .answering import Answering
from .continuity import Continuity
from .http import listen, serving
from .leases import Times
from .loader import Loader
from .membership import Membership
from .metrics import Lag, Metrics, State
from .partitions import Limits
from .reading import Reader
from .source import Source
from .storing import LostPartitionsError, Storing
from .upkeep import Upkeep

__all__ = ["Options", "serve"]

logger = logging.getLogger("redvsblue_telemetry.loader")

_REQUEST_TIMEOUT = 2.0  # seconds; shorter than a lease
_RETRY = 0.5
_LOOK_INTERVAL = 2.0  # seconds between looks at the stream, which may be another one


class Options(msgspec.Struct, kw_only=True):
    """How a loader runs."""

    stream: StreamOptions
    lake: str
    """A directory, or the URL of an object store, such as ``s3://bucket/lake``."""
    schema: Path | None = None
    """The file of ``redvsblue-telemetry schema`` that events are checked against."""
    keep: Keep = Keep()
    stream_keep: float = 3600.0
    """Seconds that messages stay in the stream after they are in the lake."""
    upkeep_interval: float = 60.0
    """Seconds from one time that the lake and the stream are tended to the next."""
    limits: Limits = Limits()
    times: Times = Times()
    host: str = "127.0.0.1"
    port: int | None = None
    """For ``/healthz`` and ``/metrics``; 0 picks a free one, None serves none."""


async def serve(
    options: Options, stop: asyncio.Event, on_ready: Callable[[str | None], None] = lambda _: None
) -> None:
    """Run a loader until it is stopped.

    What it has read by then is in the lake, and others have its partitions.

    Args:
        options: how it runs.
        stop: set to stop it.
        on_ready: called once it takes part, with the URL of its metrics, if it serves them.

    Raises:
        OptionsError: it can't run with these options, or the port is taken.
    """
    try:
        options.stream.check()
        check_place(options.lake)
    except (ValueError, LakeError) as error:
        raise OptionsError(str(error)) from error
    check = None
    if options.schema is not None:
        try:
            check = read_checker(options.schema).fault
        except SchemaError as error:
            raise OptionsError(str(error)) from error
    async with contextlib.AsyncExitStack() as stack:
        listener = None
        if options.port is not None:
            listener = stack.enter_context(listen(options.host, options.port))
        client = await _connected(options.stream, stop)
        if client is None:
            return
        stack.push_async_callback(client.close)
        jetstream = client.jetstream(timeout=_REQUEST_TIMEOUT)
        state = await _stream(jetstream, options.stream, stop)
        if state is None:
            return
        try:
            reader = Reader(state.partitions)
        except CompressionError as error:
            raise OptionsError(str(error)) from error
        running = _Running(options, client, jetstream, state, reader, check)
        url = None
        if listener is not None:
            await stack.enter_async_context(
                serving(
                    listener,
                    lambda: running.metrics.exposition(),  # noqa: PLW0108 (it may be another one)
                    lambda: running.is_storing(),  # noqa: PLW0108
                )
            )
            host = f"[{options.host}]" if ":" in options.host else options.host
            url = f"http://{host}:{listener.getsockname()[1]}/"
        on_ready(url)
        while not await running.run(stop):
            state = await _stream(jetstream, options.stream, stop)
            if state is None:
                return
            logger.warning("the stream is another one; loading it from its beginning")
            reader = Reader(state.partitions)
            running = _Running(options, client, jetstream, state, reader, check)


async def _connected(options: StreamOptions, stop: asyncio.Event) -> StreamClient | None:
    """Return a connection, as soon as there is one; None if it is stopped before."""
    warned_of: list[Exception] = []

    async def note(error: Exception) -> None:
        # Later ones show where a call fails.
        if not connecting.done() and not warned_of:
            warned_of.append(error)
            logger.warning("the stream can't be reached yet: %r", error)

    connecting = asyncio.create_task(
        connect(options, _name(), role="loader", on_error=note, buffers=False)
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        return connecting.result() if connecting.done() else None
    finally:
        await end(connecting, stopping)


async def _stream(
    jetstream: JetStreamContext, options: StreamOptions, stop: asyncio.Event
) -> StreamState | None:
    """Return what is true of the stream, as soon as its servers answer; None if stopped before."""
    has_warned = False
    while not stop.is_set():
        try:
            return await ensure_stream(jetstream, options)
        except ValueError as error:
            raise OptionsError(str(error)) from error
        except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
            if not has_warned:
                logger.warning("the stream can't be used: %r", error)
                has_warned = True
            await asyncio.sleep(_RETRY)
    return None


def _name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class _Running:
    """A loader and all that belongs to it."""

    def __init__(
        self,
        options: Options,
        client: StreamClient,
        jetstream: JetStreamContext,
        state: StreamState,
        reader: Reader,
        check: Any,
    ) -> None:
        source = Source(client)
        replicas = options.stream.replica_count
        self._options = options.stream
        self._jetstream = jetstream
        self._stream_state = state
        self._partitions = state.partitions
        self._health: StreamHealth | None = None
        self.metrics = Metrics(self._state)
        self._loader = Loader(
            source,
            Continuity(jetstream),
            Answering(client, state.identity),
            reader,
            Storing(options.lake, state.identity, check),
            options.limits,
            self.metrics.record,
            self._note_failure,
        )
        self._membership = Membership(
            jetstream,
            state.partitions,
            replicas,
            options.times,
            _name(),
            self._loader.wake,
            lambda: self._loader.reaches_lake,
            client.leave_server,
        )
        self._upkeep = Upkeep(
            options.lake,
            state,
            jetstream,
            source,
            keep=options.keep,
            stream_keep=options.stream_keep,
            interval=options.upkeep_interval,
            is_mine=lambda: 0 in self._membership.owned,
            on_failure=self.metrics.record_upkeep_failure,
        )

    async def run(self, stop: asyncio.Event) -> bool:
        """Load until it is stopped; then let others have its partitions.

        Returns:
            Whether it was stopped. Otherwise the stream is another one.
        """
        # It takes no partition from the others before it can store what is in there.
        lake = await self._loader.open_lake(stop)
        if lake is None:
            return True
        ending = asyncio.Event()
        loading = asyncio.create_task(self._loader.run(self._membership, ending))
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._watch_stream()),
        ]
        for each in ends:
            each.add_done_callback(lambda _: ending.set())
        beside = [
            asyncio.create_task(self._membership.run(lake)),
            asyncio.create_task(self._upkeep.run()),
            asyncio.create_task(self._loader.watch()),
            asyncio.create_task(self._loader.watch_lake()),
        ]
        try:
            await asyncio.wait([loading, *beside], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(loading, *ends, *beside)
        for task in (loading, *ends, *beside):
            if not task.cancelled():
                task.result()
        await self._membership.leave()
        return stop.is_set()

    async def _watch_stream(self) -> None:
        """Return when the numbers of the stream mean other messages."""
        state = self._stream_state
        while state == self._stream_state:
            await asyncio.sleep(_LOOK_INTERVAL)
            with contextlib.suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
                info = await ensured_info(self._jetstream, self._options)
                self._health = health_of(info)
                state = state_of(info)

    def is_storing(self) -> bool:
        """Return whether events can be stored, as far as this loader knows."""
        loader = self._loader
        is_able = loader.reaches_lake and loader.lake_error is None and loader.source_error is None
        return is_able and not self._membership.is_waiting

    def _note_failure(self, error: LakeError | LostPartitionsError) -> None:
        self.metrics.record_failure(is_lost=isinstance(error, LostPartitionsError))

    def _state(self) -> State:
        now = time.time_ns() // 1_000_000
        lags = {}
        for each in self._loader.partitions:
            seconds = max(0.0, (now - each.oldest) / 1000) if each.oldest else 0.0
            lags[each.number] = Lag(each.uncommitted + each.pending, seconds)
        return State(
            lags, self._partitions, self._membership.loaders, self._health, self.is_storing()
        )
