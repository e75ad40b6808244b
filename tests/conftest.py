"""Applies to every test: a clean environment before it, none of the package's threads after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.support.chromium import browser, chromium
from tests.support.stream import stream_servers, three_stream_servers
from tests.support.systems import IS_WINDOWS, IS_WINE

__all__ = ["browser", "chromium", "stream_servers", "three_stream_servers"]  # fixtures

# They share a wheel that is installed, battles that were played, and a browser.
TOGETHER = (
    "tests/packaging/",
    "tests/cli/test_battle.py",
    "tests/collector/http/test_page",
    "tests/network/test_page_behind_proxies.py",
)

if IS_WINDOWS:  # the parts of a cluster run on servers with Linux
    collect_ignore = ["cluster", "cli/cluster"]

THREADS = ("redvsblue-telemetry", "recording-server")
THREAD_EXIT_TIMEOUT = 2.0  # seconds for a thread that is on its way out; a leaked one stays forever

# An example may take as long as the machine needs, and a failure is printed, not kept in a file.
# Each run tries other examples, so few are enough for each: 50 find a property that is broken in
# general, and the rare cases are for the nightly run, HYPOTHESIS_PROFILE=nightly.
EXAMPLES = 50
settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    max_examples=EXAMPLES,
)
settings.register_profile("nightly", settings.get_profile("tests"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job; the programs that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # As under nohup. A handler is not inherited, and the tests themselves still ignore it.
    signal.signal(signal.SIGHUP, lambda *_: None)
if sys.platform == "darwin":
    # It allows 256 files, and tests of the collector open hundreds of connections.
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))


def pytest_report_header() -> list[str]:
    if not IS_WINDOWS:
        return []
    system = "Windows, as far as wine has it" if IS_WINE else "Windows"
    return [f"system: {system}", "not collected: the tests of clusters, whose servers run on Linux"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for ``-n auto``: more than cores, since many tests wait."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests singly, but together those whose set-up takes longer than they do.

    ``--dist=loadgroup`` would do so by marks, but with pytest 9.2 it hands out all singly, because
    pytest-xdist 3.8 appends the group to ``Item._nodeid``, where the id no longer comes from.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((path for path in TOGETHER if nodeid.startswith(path)), nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)  # after the tests were shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow tests first, so that none of them is left to run alone at the end.

    Property tests get time for all of their examples. One whose timeout is over fails in ways that
    hide the cause: Hypothesis tries the example again, and finds that it behaves differently.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    times = settings().max_examples / EXAMPLES
    for item in items:
        if times > 1 and item.get_closest_marker("hypothesis"):
            mark = item.get_closest_marker("timeout")
            seconds = mark.args[0] if mark else float(item.config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(seconds * times), append=False)


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return fails_without_its_tool((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return fails_without_its_tool((yield))


def fails_without_its_tool(report: Report) -> Report:
    """Turn a skip for want of a tool into a failure where all tools have to be there.

    ``REQUIRE_TOOLS=1`` asks for that. The reason of such a skip begins with "needs"; other reasons
    name a property of the system, such as the rights of root, and stay skips.
    """
    if report.skipped and os.environ.get("REQUIRE_TOOLS") and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if reason.removeprefix("Skipped: ").startswith(("needs ", "could not import ")):
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: {reason}, and REQUIRE_TOOLS is set"
    return report


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own DO_NOT_TRACK or HTTP_PROXY must not decide what a test finds."""
    for variable in tuple(os.environ):
        is_proxy = variable.lower().endswith("_proxy")
        if is_proxy or variable.startswith("REDVSBLUE_") or variable == "DO_NOT_TRACK":
            monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A leaked worker would disturb later tests: let the test that leaked it fail."""
    before = threads_of_ours()  # such as those of a fixture that many tests share
    yield
    # Not imported here: what a test doesn't use must not decide whether it passes.
    if package := sys.modules.get("redvsblue_telemetry"):
        package.stop_telemetry(timeout=1)
    deadline = time.monotonic() + THREAD_EXIT_TIMEOUT
    for thread in threads_of_ours() - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not threads_of_ours() - before, "threads left behind"


def threads_of_ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in THREADS}
