"""Servers of a stream for a test: real ones, which nobody else uses.

One is ready in a twentieth of a second, three in half of one, so each test gets its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers


@contextlib.contextmanager
def stream_servers_running(directory: Path, count: int, **options: Any) -> Iterator[StreamServers]:
    """Servers in a directory; the options are those of :class:`StreamServers`."""
    from redvsblue_telemetry.cluster.local.servers import (
        ServersError,
        StreamServers,
        find_program,
    )

    try:
        find_program()
    except ServersError as error:
        pytest.skip(f"needs nats-server: {error}")
    with StreamServers(directory, count, **options) as servers:
        yield servers


@pytest.fixture
def stream_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServers]:
    """One server: a stream without replicas."""
    with stream_servers_running(tmp_path_factory.mktemp("stream"), 1) as servers:
        yield servers


@pytest.fixture
def three_stream_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServers]:
    """Three servers, one of which may be away."""
    with stream_servers_running(tmp_path_factory.mktemp("stream"), 3) as servers:
        yield servers
