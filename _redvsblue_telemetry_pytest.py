"""The pytest plugin: fixtures for the tests of games, and assertions that say where events differ.

It is a module beside the package because pytest loads it in every run of every project: a module
inside the package would import the package, and websocket-client with it, each time. So the package
is imported when a test requests a fixture. See docs/testing.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from redvsblue_telemetry.testing import RecordedEvents
    from redvsblue_telemetry.testing.collector import RunningCollector

_DRAIN_INTERVAL = "0.02"  # seconds; with the default of one, each test would take that long


@pytest.fixture
def telemetry_events() -> Iterator[RecordedEvents]:
    """Record the events that the code under test emits; nothing is sent.

    Compare them with a list of types, pairs or instances: ``events == ["start", Hit(damage=1)]``.
    """
    from redvsblue_telemetry.testing import record_events

    with record_events() as events:
        yield events


@pytest.fixture
def telemetry_collector(_telemetry_collectors: _Collectors) -> Iterator[RunningCollector]:
    """An empty collector that ``start_telemetry()`` sends to."""
    from redvsblue_telemetry.testing.collector import sending_for_real

    collector = _telemetry_collectors.take()
    try:
        with pytest.MonkeyPatch.context() as patch:
            _set_environment(patch, collector.url)
            with sending_for_real():
                yield collector
    finally:
        _telemetry_collectors.give_back()


@pytest.fixture(scope="session")
def _telemetry_collectors() -> Iterator[_Collectors]:
    try:
        from redvsblue_telemetry.testing.collector import RunningCollector
    except ImportError as error:
        pytest.fail(
            f"telemetry_collector needs the collector's dependencies ({error}): "
            "pip install 'redvsblue-telemetry[collector]'",
            pytrace=False,
        )
    collectors = _Collectors(RunningCollector)
    yield collectors
    collectors.close()


class _Collectors:
    """Gives each test an empty collector: the same one, as long as it can be emptied.

    A new one follows where a client is still connected, which would send to the next test, and
    where the deletion fails.
    """

    def __init__(self, make: Callable[[], RunningCollector]) -> None:
        self._make = make
        self._running: RunningCollector | None = None

    def take(self) -> RunningCollector:
        if self._running is None:
            self._running = self._make().start()
        return self._running

    def give_back(self) -> None:
        returned, self._running = self._running, None
        if returned is None:
            return
        try:
            if returned.is_running and returned.is_deserted():
                returned.reset()
                self._running = returned
        finally:
            if self._running is None:
                returned.stop()

    def close(self) -> None:
        if self._running is not None:
            self._running.stop()


def _set_environment(patch: pytest.MonkeyPatch, url: str) -> None:
    """Make ``start_telemetry()`` send to a URL, here and in child processes."""
    for name in tuple(os.environ):
        if name.startswith("REDVSBLUE_") or name == "DO_NOT_TRACK":
            patch.delenv(name)
    patch.setenv("REDVSBLUE_ENABLE_TELEMETRY", "true")
    patch.setenv("REDVSBLUE_TELEMETRY_WS_URL", url)
    patch.setenv("REDVSBLUE_TELEMETRY_DRAIN_INTERVAL", _DRAIN_INTERVAL)
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    patch.setenv("no_proxy", f"{direct},127.0.0.1" if direct else "127.0.0.1")


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain where events differ from the expected ones."""
    recording = sys.modules.get("redvsblue_telemetry.testing._recording")
    return None if recording is None else recording.explain_assertion(op, left, right)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Add the events that a failed test has emitted to its report."""
    if call.when != "call" or call.excinfo is None:
        return
    fixtures = getattr(item, "funcargs", None) or {}
    for name in ("telemetry_events", "telemetry_collector"):
        if (source := fixtures.get(name)) is not None:
            item.add_report_section("call", name, _summary_of(source))


def _summary_of(source: RecordedEvents | RunningCollector) -> str:
    try:
        return source.summary()
    except Exception as error:  # a report of a failure must not become one
        return f"the summary failed: {error!r}"
