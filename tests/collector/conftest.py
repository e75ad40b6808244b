"""A collector, for the tests of its parts and of what is built on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import RunningCollector, collector_running


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    """A collector on a free port, with its database in a file."""
    with collector_running(db=tmp_path / "telemetry.sqlite3") as running:
        yield running
