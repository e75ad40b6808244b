"""Tools that read annotations at run time, such as Sphinx, can evaluate those of the public API."""

from __future__ import annotations

import typing
from collections.abc import Callable

import pytest

from redvsblue_telemetry import TelemetrySettings, start_telemetry
from redvsblue_telemetry.testing import record_events
from redvsblue_telemetry.testing.collector import RunningCollector


@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (start_telemetry, "overrides"),
        (TelemetrySettings.from_environment, "overrides"),
        (record_events, "settings"),
        (RunningCollector.__init__, "options"),
    ],
)
def test_the_hints_of_typed_keywords_can_be_evaluated(
    function: Callable[..., object], keywords: str
):
    assert {keywords, "return"} <= typing.get_type_hints(function).keys()
