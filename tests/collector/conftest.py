"""A collector, for the tests of its parts and of what is built on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import RunningCollector, collector_running

# What runs the commands as processes is beside the tests of the commands.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    """A collector on a free port, with its database in a file."""
    with collector_running(db=tmp_path / "telemetry.sqlite3") as running:
        yield running
