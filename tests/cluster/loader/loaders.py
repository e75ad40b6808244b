"""Loaders as processes, with leases that are short, and what they have put into the lake."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import deltalake
from prometheus_client.parser import text_string_to_metric_families

from redvsblue_telemetry.cluster.local.ledgers import count_events
from tests.support.command import Running, running_process
from tests.support.wait import wait_until

PATIENCE = 60.0  # seconds for what takes a few, on a machine that has other things to do
EXPIRY = 2.0  # seconds

_QUICK = f"""
import sys
from redvsblue_telemetry.__main__ import main
from redvsblue_telemetry.cli import load
from redvsblue_telemetry.cluster.loader.leases import Times
load._TIMES = Times(beat=0.3, look=0.1, certain=1.5, expiry={EXPIRY})
load._UPKEEP_INTERVAL = 0.3
sys.exit(main())
"""


class Loader:
    """A loader that runs."""

    def __init__(self, running: Running) -> None:
        self.running = running
        assert wait_until(lambda: "metrics at" in running.output, PATIENCE), running.said
        found = re.search(r"metrics at (\S+)", running.output)
        assert found
        self.address = urlsplit(found[1]).netloc

    def ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        _, text = self.ask("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    def wait_for_metric(self, name: str, value: float) -> None:
        """Wait for a value: the loader counts a commit just after it is in the lake."""
        assert wait_until(lambda: self.metric(name) == value, PATIENCE), self.metric(name)

    @property
    def owned(self) -> int:
        return int(self.metric("telemetry_partitions_owned"))

    def wait_for_owned(self, count: int) -> None:
        assert wait_until(lambda: self.owned == count, PATIENCE), self.running.said

    def send(self, number: int) -> None:
        os.kill(self.running.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.running.end()

    def stop(self) -> None:
        assert self.running.end(signal.SIGTERM) == 0, self.running.said


@contextlib.contextmanager
def loader_running(
    urls: tuple[str, ...], lake: Path | str, *arguments: object, before: tuple[str, ...] = ()
) -> Iterator[Loader]:
    program = [sys.executable, "-c", _QUICK, "load", "--stream", ",".join(urls)]
    program += ["--lake", str(lake), "--interval", "0.2", "--port", "0", "--partitions", "4"]
    with running_process([*before, *program, *map(str, arguments)]) as running:
        yield Loader(running)


def stored(lake: Path | str, kind: str = "events") -> list[dict[str, Any]]:
    """The rows of a kind, in order of arrival."""
    try:
        table = deltalake.DeltaTable(str(lake))
    except deltalake.exceptions.TableNotFoundError:
        return []
    rows = table.to_pyarrow_dataset().to_table(filter=_is(kind)).to_pylist()
    return sorted(rows, key=lambda row: row["arrival"])


def _is(kind: str) -> Any:
    import pyarrow.compute as pc

    return pc.field("kind") == kind


def sequences(lake: Path | str) -> Counter[tuple[str, int]]:
    """How often each event is in the lake."""
    return Counter((row["session"], row["seq"]) for row in stored(lake))


def wait_for_events(lake: Path | str, count: int, timeout: float = PATIENCE) -> None:
    assert wait_until(lambda: count_events(str(lake)) >= count, timeout), count_events(str(lake))
