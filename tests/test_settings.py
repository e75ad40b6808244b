"""Settings: the environment, the switches, secrets, and extreme values."""

from __future__ import annotations

import copy
import logging
import pickle
import re
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
    stop_telemetry,
)
from redvsblue_telemetry import settings as settings_module
from redvsblue_telemetry.testing import RecordingServer, record_events
from tests.support.ports import own_port
from tests.support.systems import not_on_windows

PACKAGE = Path(redvsblue_telemetry.__file__).parent
ROOT = PACKAGE.parent
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
    without |= {"sample", "rate_limits"}
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
    ("journal_max_bytes", "0"),
    ("journal_max_bytes", "64MB"),
    ("journal_max_age", "-1"),
    ("journal_max_age", "30d"),
    ("compression", "zstd"),
    ("reports", "all"),
    ("crash_events", "2"),
    ("frame_interval", "0"),
    ("hang_timeout", "0"),
    ("hang_timeout", "inf"),
    ("hang_timeout", "never"),
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


@pytest.mark.parametrize("value", ["", b"runs", 7, "a\0b", object()], ids=lambda v: repr(v)[:9])
def test_a_journal_is_the_path_of_a_directory(value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(journal=value)
    assert caught.value.field == "journal"


def test_a_journal_may_be_given_as_any_path_and_comes_from_the_environment_too() -> None:
    assert TelemetrySettings(journal="runs").journal == "runs"
    assert TelemetrySettings(journal=Path("runs")).journal == Path("runs")
    environment = {VARIABLES["journal"]: " runs/of mine ", VARIABLES["journal_max_age"]: "60"}
    settings = TelemetrySettings.from_environment(environment)
    assert (settings.journal, settings.journal_max_age) == ("runs/of mine", 60.0)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1"])
def test_a_hang_takes_a_time_above_zero(value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(hang_timeout=value)
    assert caught.value.field == "hang_timeout"


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_a_sampled_type_has_a_share(share: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(sample={"hit": share})
    assert caught.value.field == "sample"


@pytest.mark.parametrize("limit", [0, -1, 1.5, float("inf"), True, "50", None])
def test_a_rate_limit_is_a_whole_number_of_events(limit: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(rate_limits={"hit": limit})
    assert caught.value.field == "rate_limits"


@pytest.mark.parametrize("field", ["sample", "rate_limits"])
@pytest.mark.parametrize("value", [None, [("hit", 1)], {7: 1}, {"": 1}, {"x" * 1025: 1}], ids=str)
def test_sampling_is_by_type(field: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings(**{field: value})
    assert caught.value.field == field


def test_shares_and_limits_are_copied() -> None:
    shares, limits = {"hit": 0.5, "all": 1, "none": 0}, {"spark": 50}
    settings = TelemetrySettings(sample=shares, rate_limits=limits)
    shares.clear()
    limits.clear()
    assert settings.sample == {"hit": 0.5, "all": 1, "none": 0}
    assert settings.rate_limits == {"spark": 50}


def test_a_capacity_that_was_set_is_told_from_the_default() -> None:
    variable = {VARIABLES["capacity"]: "5000"}
    assert settings_module.is_given(TelemetrySettings(capacity=5000).capacity)
    assert settings_module.is_given(TelemetrySettings.from_environment(variable).capacity)
    for settings in (TelemetrySettings(), TelemetrySettings.from_environment({}, strict=True)):
        for same in (settings, attrs.evolve(settings, enabled=True), copy.deepcopy(settings)):
            assert same.capacity == 5000
            assert not settings_module.is_given(same.capacity)


def test_archived_needs_a_journal_from_wherever_it_comes() -> None:
    archived, journal = {VARIABLES["confirm"]: "archived"}, {VARIABLES["journal"]: "here"}
    for settings in (
        TelemetrySettings.from_environment({**archived, **journal}),
        TelemetrySettings.from_environment(archived, journal="here"),
        TelemetrySettings.from_environment(journal, confirm="archived"),
        TelemetrySettings(confirm="archived", journal="here"),
    ):
        assert (settings.confirm, settings.journal) == ("archived", "here")


def test_archived_as_a_keyword_without_a_journal_is_a_wrong_keyword() -> None:
    for environment in ({}, {SWITCH: "false"}):
        with pytest.raises(SettingsError, match=r"confirm='archived' .* needs a journal") as caught:
            TelemetrySettings.from_environment(environment, confirm="archived")
        assert (caught.value.field, caught.value.variable) == ("confirm", None)
    with pytest.raises(SettingsError, match="needs a journal"):
        TelemetrySettings.from_environment(
            {VARIABLES["journal"]: "here"}, confirm="archived", journal=None
        )


@pytest.mark.parametrize("overrides", [{}, {"journal": None}])
def test_archived_in_the_environment_without_a_journal_is_a_wrong_environment(
    overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError) as caught:
        TelemetrySettings.from_environment({VARIABLES["confirm"]: "archived"}, **overrides)
    assert (caught.value.field, caught.value.variable) == ("confirm", VARIABLES["confirm"])
    monkeypatch.setenv(VARIABLES["confirm"], "archived")
    assert not start_telemetry(enabled=True, **overrides).enabled
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{VARIABLES['confirm']}='archived' is not allowed: it needs a journal" in caplog.text


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


# Off is not mute.

OFF = "telemetry is off: "
FLAG_NOT_SET = (
    f"nothing turned it on; set {SWITCH}=true in the environment, or pass enabled=True to "
    "start_telemetry()"
)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("environment", "overrides", "reason"),
    [
        ({}, {}, FLAG_NOT_SET),
        ({SWITCH: " "}, {"capacity": 7}, FLAG_NOT_SET),
        ({}, {"enabled": False}, "start_telemetry() was called with enabled=False"),
        ({SWITCH: "1"}, {"enabled": False}, "start_telemetry() was called with enabled=False"),
        ({SWITCH: "no"}, {}, f"the environment forbids it ({SWITCH})"),
        ({SWITCH: "off"}, {"enabled": True}, f"the environment forbids it ({SWITCH})"),
        ({"DO_NOT_TRACK": "1"}, {"enabled": False}, "the environment forbids it (DO_NOT_TRACK)"),
        (
            {"DO_NOT_TRACK": "1", SWITCH: "0"},
            {},
            f"the environment forbids it (DO_NOT_TRACK and {SWITCH})",
        ),
    ],
)
def test_the_reason_for_off_is_one_line_in_the_log(
    environment: dict[str, str],
    overrides: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    for _ in range(3):  # a game may start it in each level
        assert not start_telemetry(**overrides).enabled
    assert lines(caplog) == [("INFO", OFF + reason)]
    assert {record.name for record in caplog.records} == {"redvsblue_telemetry"}


def test_another_reason_for_off_is_another_line_and_so_is_a_start_after_a_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    by_keyword = f"{OFF}start_telemetry() was called with enabled=False"
    start_telemetry()
    start_telemetry(enabled=False)
    start_telemetry()
    assert lines(caplog) == [("INFO", OFF + FLAG_NOT_SET), ("INFO", by_keyword)]
    stop_telemetry()
    start_telemetry()
    assert lines(caplog)[2:] == [("INFO", OFF + FLAG_NOT_SET)]


def test_a_wrong_environment_is_one_error_however_often_the_game_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(VARIABLES["capacity"], "lots")
    for _ in range(3):
        assert not start_telemetry(enabled=True).enabled
    ((level, line),) = lines(caplog)
    assert level == "ERROR"
    assert line.startswith(f"{OFF}{VARIABLES['capacity']}='lots' is not allowed")


def test_a_client_that_runs_is_not_called_off_for_an_environment_that_is_wrong_by_now(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingServer() as server:
        running = start_telemetry(enabled=True, url=server.url)
        monkeypatch.setenv(VARIABLES["capacity"], "lots")
        assert start_telemetry(url=server.url) is running
        assert running.enabled
        assert lines(caplog) == []
        assert start_telemetry(batch_size=3) is running
        assert [level for level, _ in lines(caplog)] == ["WARNING"]


def test_a_recording_says_nothing_about_off_or_about_variables(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_ENABLED", "true")
    monkeypatch.setenv(VARIABLES["capacity"], "lots")
    with record_events() as events:
        start_telemetry().emit("hit")
        start_telemetry(enabled=False).emit("hit")
    assert events.types() == ["hit", "hit"]
    assert lines(caplog) == []


# Unknown variables.


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("REDVSBLUE_TELEMETRY_ENABLED", SWITCH),
        ("REDVSBLUE_TELEMETRY_ENABLE", SWITCH),
        ("REDVSBLUE_ENABLED", SWITCH),
        ("REDVSBLUE_ENABLE_TELEMTRY", SWITCH),
        ("REDVSBLUE_TELEMETRY", SWITCH),
        ("REDVSBLUE_DISABLE_TELEMETRY", f"{SWITCH}=false"),
        ("REDVSBLUE_TELEMETRY_DO_NOT_TRACK", "DO_NOT_TRACK"),
        ("REDVSBLUE_TELEMETRY_URL", VARIABLES["url"]),
        ("REDVSBLUE_WS_URL", VARIABLES["url"]),
        ("REDVSBLUE_TELEMETRY_URI", VARIABLES["url"]),
        ("REDVSBLUE_TELEMETRY_ENDPOINT", VARIABLES["url"]),
        ("REDVSBLUE_TELEMETRY_WEBSOCKET_URL", VARIABLES["url"]),
        ("REDVSBLUE_TELEMETRY_API_KEY", VARIABLES["token"]),
        ("REDVSBLUE_TELEMTRY_TOKEN", VARIABLES["token"]),
        ("REDVSBLUE_TELEMETRY_BATCHSIZE", VARIABLES["batch_size"]),
        ("REDVSBLUE_TELEMETRY_MAX_EVENT_SIZE", VARIABLES["max_event_bytes"]),
        ("REDVSBLUE_TELEMETRY_FLUSH_INTERVAL", VARIABLES["drain_interval"]),
        ("REDVSBLUE_TELEMETRY_RELEASE", VARIABLES["version"]),
        ("REDVSBLUE_TELEMETRY_SESSION_ID", "start_telemetry(session_id=…)"),
        ("REDVSBLUE_TELEMETRY_HEADER", "start_telemetry(headers=…)"),
        ("REDVSBLUE_JOURNAL", VARIABLES["journal"]),
        ("REDVSBLUE_TELEMETRY_JOURNAL_DIR", VARIABLES["journal"]),
        ("REDVSBLUE_TELEMETRY_JOURNAL_MAX_SIZE", VARIABLES["journal_max_bytes"]),
        ("VITE_ENABLE_TELEMETRY", SWITCH),
        ("VITE_TELEMETRY_WS_URL", VARIABLES["url"]),
    ],
)
def test_an_unknown_variable_is_one_warning_with_the_right_name_and_without_its_value(
    name: str, right: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "hush")
    for _ in range(3):
        assert not start_telemetry().enabled
    expected = f"ignored the unknown environment variable {name}; did you mean {right}?"
    assert lines(caplog) == [("WARNING", expected)]
    assert "hush" not in caplog.text


def test_an_unknown_variable_is_one_warning_also_while_telemetry_is_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_BATCHSIZE", "7")
    with RecordingServer() as server:
        for _ in range(3):
            assert start_telemetry(enabled=True, url=server.url).enabled
        stop_telemetry()  # before the server is gone, which is another line
    ((level, line),) = lines(caplog)
    assert level == "WARNING"
    assert line.endswith(f"BATCHSIZE; did you mean {VARIABLES['batch_size']}?")


@pytest.mark.parametrize("word", ["PROXY", "DEBUG", "LEVEL"])
def test_an_unknown_variable_with_no_more_than_some_letters_of_a_setting_has_no_hint(
    word: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"REDVSBLUE_TELEMETRY_{word}", "1")
    start_telemetry()
    ((_, line),) = lines(caplog)
    assert line == f"ignored the unknown environment variable REDVSBLUE_TELEMETRY_{word}"


@not_on_windows("the names of all variables are upper case")
def test_a_variable_in_lower_case_is_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH.lower(), "true")
    assert not start_telemetry().enabled
    assert f"{SWITCH.lower()}; did you mean {SWITCH}?" in caplog.text


def test_an_unknown_variable_unlike_any_other_has_no_hint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDVSBLUE_PLAYERS\n", "4")
    start_telemetry()
    expected = r"ignored the unknown environment variable REDVSBLUE_PLAYERS\u000a"
    assert lines(caplog) == [("WARNING", expected)]


def test_right_and_empty_variables_and_those_of_other_programs_are_not_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in DOCUMENTED.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_ENABLED", " ")
    monkeypatch.setenv("VITE_TELEMETRY_WS_URL", "ws://browser.example.com/")  # beside the right one
    sources = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    others = set(re.findall(r"\bREDVSBLUE_[A-Z_]+[A-Z]\b", sources)) - set(DOCUMENTED)
    assert "REDVSBLUE_COLLECTOR_TOKEN" in others
    for name in others:
        monkeypatch.setenv(name, "any")
    start_telemetry()
    assert lines(caplog) == []


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
    port = own_port()
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
