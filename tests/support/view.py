"""A real view of a lake for a test: on a thread, asked over HTTP, as a collector is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from redvsblue_telemetry.cluster.view.app import view_running as running_view
from redvsblue_telemetry.collector.server import serve

from .collector import RunningCollector


class RunningView(RunningCollector):
    """A view in place of a collector."""

    lake: Path

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        running: Any = partial(running_view, str(self.lake))
        await serve(self._options, self._stop, self._ready.set_result, running=running)


@contextlib.contextmanager
def view_running(lake: Path, **options: Any) -> Iterator[RunningView]:
    """A view on a free port.

    Args:
        lake: its directory.
        options: any of :class:`Options`.
    """
    view = RunningView(**options)
    view.lake = lake
    view.start()
    try:
        yield view
    finally:
        view.stop()
