"""Settings: precedence, the kill switches, validation, and what they keep to themselves."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest

from redvsblue_telemetry import SettingsError, TelemetrySettings, start_telemetry

ROOT = Path(__file__).parent.parent
VARIABLES = {
    field.name: field.metadata["variable"]
    for field in attrs.fields(TelemetrySettings)
    if "variable" in field.metadata
}


def test_defaults() -> None:
    settings = TelemetrySettings.from_environment({})
    assert attrs.asdict(settings) == {
        "enabled": False,
        "url": "ws://localhost:3000/telemetry",
        "token": None,
        "batch_size": 50,
        "drain_interval": 1.0,
        "capacity": 5000,
        "backoff_base": 1.0,
        "backoff_max": 30.0,
        "connect_timeout": 10,
        "confirm_timeout": 10,
        "keepalive_interval": 20,
        "confirm": "auto",
        "wire_format": "json",
        "max_event_bytes": 16384,
        "max_batch_bytes": 262144,
        "strict": False,
        "version": None,
        "session_id": None,
        "headers": {},
        "ssl_context": None,
        "before_send": None,
        "on_state_change": None,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enabled", "true", True),
        ("url", "wss://example.com/t", "wss://example.com/t"),
        ("token", "secret", "secret"),
        ("batch_size", "7", 7),
        ("drain_interval", "0.5", 0.5),
        ("capacity", "10", 10),
        ("backoff_base", "0.1", 0.1),
        ("backoff_max", "3", 3.0),
        ("connect_timeout", "1", 1.0),
        ("confirm_timeout", "2", 2.0),
        ("keepalive_interval", "3", 3.0),
        ("confirm", "none", "none"),
        ("wire_format", "ndjson", "ndjson"),
        ("max_event_bytes", "1000", 1000),
        ("max_batch_bytes", "2000", 2000),
        ("strict", "on", True),
        ("version", "1.2", "1.2"),
    ],
)
def test_the_environment_sets_each_field(name: str, text: str, value: object) -> None:
    settings = TelemetrySettings.from_environment({VARIABLES[name]: f" {text} "})
    assert getattr(settings, name) == value


def test_each_variable_is_tested_above_and_documented() -> None:
    documented = set(re.findall(r"(?m)^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    assert set(VARIABLES.values()) | {"DO_NOT_TRACK"} <= documented


def test_a_keyword_wins_over_the_environment() -> None:
    environment = {"REDVSBLUE_TELEMETRY_BATCH_SIZE": "nonsense"}
    assert TelemetrySettings.from_environment(environment, batch_size=9).batch_size == 9


@pytest.mark.parametrize(
    "environment",
    [
        {"REDVSBLUE_ENABLE_TELEMETRY": "false"},
        {"REDVSBLUE_ENABLE_TELEMETRY": "OFF"},
        {"REDVSBLUE_ENABLE_TELEMETRY": "0"},
        {"DO_NOT_TRACK": "1"},
        {"DO_NOT_TRACK": "true", "REDVSBLUE_ENABLE_TELEMETRY": "true"},
    ],
)
def test_the_kill_switch_wins_over_everything(environment: dict[str, str]) -> None:
    assert not TelemetrySettings.from_environment(environment, enabled=True).enabled


@pytest.mark.parametrize("word", ["", "0", "false"])
def test_do_not_track_that_says_no_kills_nothing(word: str) -> None:
    assert TelemetrySettings.from_environment({"DO_NOT_TRACK": word}, enabled=True).enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", 1),
        ("url", "http://example.com"),
        ("url", "ws://user:password@example.com"),
        ("url", "ws://"),
        ("url", "ws://host:99999"),
        ("url", "ws://a b"),
        ("url", 5),
        ("batch_size", 0),
        ("batch_size", "50"),
        ("batch_size", True),
        ("batch_size", 1.5),
        ("capacity", -1),
        ("drain_interval", 0),
        ("drain_interval", float("nan")),
        ("backoff_max", float("inf")),
        ("confirm", "maybe"),
        ("wire_format", "xml"),
        ("max_event_bytes", 10),
        ("strict", "yes"),
        ("version", ""),
        ("session_id", "\ud800"),
        ("ssl_context", "no context"),
        ("before_send", "not callable"),
        ("on_state_change", 3),
    ],
)
def test_a_wrong_keyword_names_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(**{name: value})
    assert caught.value.field == name
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "allowed: " in str(caught.value)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(SettingsError, match="batchsize"):
        start_telemetry(batchsize=3)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "x"},
        {"Sec-WebSocket-Key": "x"},
        {"a b": "x"},
        {"X": "line\r\nbreak"},
        {"X": 5},
        "X: y",
    ],
)
def test_headers_that_could_break_the_handshake_are_refused(headers: Any) -> None:
    with pytest.raises(SettingsError):
        TelemetrySettings(headers=headers)


@pytest.mark.parametrize("token", ["hush\r\nX: y", "hush\N{SNOWMAN}", ""])
def test_a_bad_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(token=token)
    assert "hush" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    settings = TelemetrySettings(
        token="hush", headers={"X-Key": "hush"}, ssl_context=ssl.create_default_context()
    )
    assert "hush" not in repr(settings)
    assert settings.headers == {"X-Key": "hush"}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REDVSBLUE_TELEMETRY_BATCH_SIZE", "many"),
        ("REDVSBLUE_TELEMETRY_DRAIN_INTERVAL", "-1"),
        ("REDVSBLUE_ENABLE_TELEMETRY", "maybe"),
    ],
)
def test_a_wrong_environment_is_logged_once_and_telemetry_is_off(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDVSBLUE_ENABLE_TELEMETRY", "true")
    monkeypatch.setenv(variable, text)
    telemetry = start_telemetry()
    telemetry.emit("nothing")
    assert not telemetry.enabled
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert variable in record.getMessage()
    assert text in record.getMessage()
