"""Settings: the environment, the switches, secrets, and extreme values."""

from __future__ import annotations

import logging
import pickle
import re
import socket
import threading
import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest

import redvsblue_telemetry
from redvsblue_telemetry import (
    ConnectionState,
    SettingsError,
    TelemetrySettings,
    get_telemetry,
    start_telemetry,
)
from redvsblue_telemetry import settings as settings_module
from redvsblue_telemetry.testing import RecordingServer

ROOT = Path(redvsblue_telemetry.__file__).parents[1]
FIELDS = {field.name: field for field in attrs.fields(TelemetrySettings)}
VARIABLES = {
    name: field.metadata["variable"]
    for name, field in FIELDS.items()
    if "variable" in field.metadata
}
EXAMPLE = (ROOT / ".env.example").read_text()
DOCUMENTED = dict(re.findall(r"(?m)^#? ?([A-Z_]+)=(.*)$", EXAMPLE))
SWITCH = "REDVSBLUE_ENABLE_TELEMETRY"


def test_the_overrides_are_typed_as_the_settings_are() -> None:
    settings = {name: field.type for name, field in FIELDS.items()}
    assert settings_module.SettingsOverrides.__annotations__.keys() == settings.keys()
    overrides = {
        name: annotation.__forward_arg__
        for name, annotation in settings_module.SettingsOverrides.__annotations__.items()
    }
    assert overrides == settings


def test_the_variables_have_the_names_of_their_fields() -> None:
    short = {"enabled": SWITCH, "url": "REDVSBLUE_TELEMETRY_WS_URL"}
    without = {"session_id", "headers", "ssl_context", "before_send", "on_state_change"}
    assert {
        name: short.get(name, f"REDVSBLUE_TELEMETRY_{name.upper()}")
        for name in FIELDS
        if name not in without
    } == VARIABLES


def test_the_example_documents_exactly_the_variables_that_exist() -> None:
    assert set(DOCUMENTED) == {*VARIABLES.values(), "DO_NOT_TRACK"}


def test_the_example_shows_the_defaults() -> None:
    shown = {name: text for name, text in DOCUMENTED.items() if text}
    assert TelemetrySettings.from_environment(shown) == TelemetrySettings()
    defaults = TelemetrySettings()
    for name, variable in VARIABLES.items():
        assert bool(DOCUMENTED[variable]) == (getattr(defaults, name) is not None), variable


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "TRUE", " On "])
def test_a_switch_is_on_by_any_of_these(word: str) -> None:
    settings = TelemetrySettings.from_environment({SWITCH: word, VARIABLES["strict"]: word})
    assert settings.enabled
    assert settings.strict


def test_a_keyword_wins_over_the_environment_and_that_over_the_default() -> None:
    environment = {VARIABLES["capacity"]: "7", VARIABLES["version"]: "from outside"}
    settings = TelemetrySettings.from_environment(environment, version="from code")
    assert (settings.capacity, settings.version, settings.batch_size) == (7, "from code", 50)


def test_a_keyword_of_false_wins_over_the_environment() -> None:
    assert not TelemetrySettings.from_environment({SWITCH: "true"}, enabled=False).enabled


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_variable_counts_as_not_set(text: str) -> None:
    environment = dict.fromkeys(VARIABLES.values(), text)
    assert TelemetrySettings.from_environment(environment) == TelemetrySettings()


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False", " OFF "])
def test_the_operators_off_wins_in_the_process_too(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, word)
    threads = set(threading.enumerate())
    telemetry = start_telemetry(enabled=True)
    telemetry.emit("hit")
    assert not telemetry.enabled
    assert telemetry.stats().emitted == 0
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize("word", ["1", "true", "yes", "please", " 1 "])
def test_do_not_track_wins_in_the_process_too(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", word)
    monkeypatch.setenv(SWITCH, "true")
    assert not start_telemetry(enabled=True).enabled


def test_a_wrong_keyword_raises_also_while_the_switch_is_off() -> None:
    with pytest.raises(SettingsError):
        TelemetrySettings.from_environment({SWITCH: "false"}, batch_size=0)


WRONG_TEXTS = [
    ("enabled", "maybe"),
    ("url", "http://example.com"),
    ("batch_size", "0"),
    ("batch_size", "many"),
    ("batch_size", "1.5"),
    ("capacity", "-1"),
    ("drain_interval", "0"),
    ("drain_interval", "nan"),
    ("backoff_base", "inf"),
    ("backoff_max", "soon"),
    ("connect_timeout", "-1"),
    ("confirm_timeout", """ '5' """),
    ("keepalive_interval", "1e999"),
    ("confirm", "perhaps"),
    ("wire_format", "xml"),
    ("max_event_bytes", "255"),
    ("max_batch_bytes", "511"),
    ("strict", "2"),
]


@pytest.mark.parametrize(("name", "text"), WRONG_TEXTS)
def test_an_invalid_variable_is_named_with_its_value_and_the_rule(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings.from_environment({VARIABLES[name]: text})
    error = caught.value
    assert (error.field, error.variable) == (name, VARIABLES[name])
    assert f"{VARIABLES[name]}={text.strip()!r} is not allowed: " in str(error)
    assert error.allowed.startswith("must be ")
    assert str(error).endswith(f" is not allowed: it {error.allowed}")


def test_an_invalid_keyword_has_no_variable() -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings.from_environment({}, capacity=0)
    assert (caught.value.field, caught.value.variable) == ("capacity", None)


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings.from_environment({}, batchsize=3)  # type: ignore[call-arg]
    assert str(caught.value) == "unknown setting 'batchsize'; did you mean 'batch_size'?"
    assert caught.value.field == "batchsize"
    assert "drain_interval" in caught.value.allowed


@pytest.mark.parametrize(
    "field", [name for name, field in FIELDS.items() if isinstance(field.default, float)]
)
@pytest.mark.parametrize(
    "value", [0, -1, float("nan"), float("inf"), True, "1", None, 10**400], ids=lambda v: str(v)[:9]
)
def test_a_time_is_a_number_above_zero(field: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(**{field: value})
    assert caught.value.field == field


def test_wrong_keywords_start_nothing() -> None:
    before = get_telemetry()
    with pytest.raises(SettingsError):
        start_telemetry(enabled=True, capacity=0)
    assert get_telemetry() is before


@pytest.mark.parametrize(("name", "text"), WRONG_TEXTS)
def test_a_wrong_environment_is_one_error_in_the_log_and_telemetry_is_off(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setenv(VARIABLES[name], text)
    threads = set(threading.enumerate())
    telemetry = start_telemetry()
    telemetry.emit("hit")
    assert telemetry.flush()
    assert (telemetry.enabled, telemetry.is_running) == (False, False)
    assert set(threading.enumerate()) == threads
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "redvsblue_telemetry")
    assert VARIABLES[name] in record.getMessage()


def test_a_switch_that_cannot_be_read_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator who wrote "disabled" meant no: code that says yes must not win by a typo."""
    monkeypatch.setenv(SWITCH, "disabled")
    assert not start_telemetry(enabled=True, url="ws://127.0.0.1:9").enabled
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert SWITCH in caplog.text


# Secrets.


@pytest.mark.parametrize(
    "secrets",
    [
        {"token": "hush\n"},
        {"token": b"hush"},
        {"token": ["hush"]},
        {"headers": {"X-Key": "hush\n"}},
        {"headers": {"hush": 5}},
        {"headers": ["hush"]},
        {"headers": {"Authorization": "Bearer hush"}},
    ],
    ids=repr,
)
def test_a_secret_that_is_refused_is_shown_nowhere(secrets: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(**secrets)
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(caught.value)
    chain = "".join(traceback.format_exception_only(caught.value))
    assert "hush" not in chain
    assert caught.value.__cause__ is None


def test_a_token_of_the_environment_that_is_refused_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setenv(VARIABLES["token"], "hush\N{SNOWMAN}")
    assert not start_telemetry().enabled
    assert VARIABLES["token"] in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize("url", ["ws://player:hush@host/", "ws://hush@host/", "ws://:hush@host/"])
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(url=url)
    assert "hush" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings.from_environment({VARIABLES["url"]: url})
    assert "hush" not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    settings = TelemetrySettings(token="hush", headers={"X-Key": "hush"})
    telemetry = redvsblue_telemetry.Telemetry(settings)
    for text in (repr(settings), str(settings), repr(telemetry), repr(telemetry.stats())):
        assert "hush" not in text


# The settings object.


def test_the_scheme_of_a_url_may_be_upper_case() -> None:
    assert TelemetrySettings(url="WSS://Example.com/A?b=C").url == "wss://Example.com/A?b=C"


def test_settings_cannot_be_changed() -> None:
    settings = TelemetrySettings()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.capacity = 3  # type: ignore[misc]


def test_headers_are_a_copy() -> None:
    headers = {"X-Game": "red"}
    settings = TelemetrySettings(headers=headers)
    headers["X-Game"] = "changed"
    assert settings.headers == {"X-Game": "red"}


def test_settings_are_copied_by_pickle() -> None:
    settings = TelemetrySettings(capacity=7, token="secret")
    assert pickle.loads(pickle.dumps(settings)) == settings


# Extreme values work.


@pytest.mark.parametrize(
    "times",
    [
        {"connect_timeout": 1e9},
        {"drain_interval": 1e9, "keepalive_interval": 1e9, "confirm_timeout": 1e9},
    ],
    ids=["connecting", "connected"],
)
def test_a_time_may_be_thousands_of_years(times: dict[str, float]) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(enabled=True, url=server.url, **times)
        telemetry.emit("hit")
        assert telemetry.flush(3)
        assert [event["type"] for event in server.events] == ["hit"]


def test_a_backoff_may_be_thousands_of_years() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    waits = threading.Event()

    def look(state: ConnectionState) -> None:
        if state is ConnectionState.BACKING_OFF:
            waits.set()

    telemetry = start_telemetry(
        enabled=True,
        url=f"ws://127.0.0.1:{port}/telemetry",
        backoff_base=1e12,
        backoff_max=1e12,
        on_state_change=look,
    )
    assert waits.wait(5)
    with RecordingServer(port=port) as server:
        telemetry.emit("hit")
        assert telemetry.stop(3)
        assert [event["type"] for event in server.events] == ["hit"]
