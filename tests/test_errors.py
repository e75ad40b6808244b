"""Exceptions cross process boundaries: multiprocessing pickles them, and what can't be unpickled
leaves a pool waiting forever."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import pickle
from typing import Any

import pytest

from redvsblue_telemetry import InvalidEventError, SettingsError, TelemetryError, TelemetrySettings
from redvsblue_telemetry._network.contract import ConnectionLost, LostKind
from redvsblue_telemetry._network.proxy import ProxyError
from redvsblue_telemetry.cli._terminal import CommandError
from redvsblue_telemetry.testing import record_events

ERRORS: list[Exception] = [
    TelemetryError("can't attach"),
    InvalidEventError("hit", "data.at", "refers to itself"),
    SettingsError("no", field="url", variable="URL", allowed="must be a URL"),
    ConnectionLost(LostKind.REFUSED, "refused", status=503, retry_after=2.0),
    ProxyError("refused", status=407),
    CommandError("no such file"),
]


def shown(error: BaseException) -> Any:
    return type(error), str(error), error.args, vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_pickles_and_copies_with_its_attributes(error: Exception) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert shown(pickle.loads(pickle.dumps(error, protocol))) == shown(error)
    assert shown(copy.copy(error)) == shown(error)
    assert shown(copy.deepcopy(error)) == shown(error)


def emit_a_bad_event(_: int) -> None:
    with record_events(strict=True) as events:
        events._telemetry.emit("hit", {"at": object()})


def make_bad_settings(_: int) -> None:
    TelemetrySettings(capacity=0)


TASKS = [
    (emit_a_bad_event, InvalidEventError, {"event_type": "hit", "path": "data.at"}),
    (make_bad_settings, SettingsError, {"field": "capacity", "variable": None}),
]


@pytest.mark.parametrize(("task", "kind", "attributes"), TASKS)
def test_an_error_in_a_pool_reaches_the_parent(
    task: Any, kind: type[Exception], attributes: dict[str, Any]
) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(kind) as caught:
            pool.map_async(task, [1]).get(timeout=60)
        pool.close()
        pool.join()
    assert vars(caught.value).items() >= attributes.items()


@pytest.mark.parametrize(("task", "kind", "attributes"), TASKS)
def test_an_error_in_an_executor_reaches_the_parent(
    task: Any, kind: type[Exception], attributes: dict[str, Any]
) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        error = executor.submit(task, 1).exception(timeout=60)
    assert type(error) is kind
    assert vars(error).items() >= attributes.items()
