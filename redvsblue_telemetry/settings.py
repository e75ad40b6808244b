"""Settings: their defaults, the environment that sets them, and what each may be.

A keyword argument wins over the environment, the environment over the default; but an explicit
off in the environment wins over everything: it is the operator's kill switch.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from ._shared import ACK_HEADER
from .errors import SettingsError

if TYPE_CHECKING:
    from ._delivery.states import ConnectionState
    from .events import TelemetryEvent

__all__ = ["TelemetrySettings"]

Token = str | Callable[[], str | None]
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

ENABLE = "REDVSBLUE_ENABLE_TELEMETRY"
DO_NOT_TRACK = "DO_NOT_TRACK"
_TRUE = ("1", "true", "yes", "on")
_CREDENTIALS = r"//[^/]*@"
_QUERY = r"(://[^?'\"]*)\?[^'\"]*"
_FALSE = ("0", "false", "no", "off")
_HANDSHAKE_HEADERS = frozenset({"authorization", "connection", "host", ACK_HEADER, "upgrade"})


def _fault(field: str, value: object, allowed: str) -> SettingsError:
    return SettingsError(f"{field}={_shown(value)} is not allowed: {allowed}", field=field)


def _shown(value: object) -> str:
    """As it may be shown: without the password and the query of a URL."""
    return re.sub(_QUERY, r"\1?…", re.sub(_CREDENTIALS, "//…@", repr(value)))


def _must(allowed: str, holds: Callable[[Any], bool], *, secret: bool = False) -> Validator:
    """A validator: the value has to satisfy ``holds``; ``allowed`` says so in words."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not holds(value):
            raise _fault(attribute.name, "…" if secret else value, allowed)

    return validate


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int past what a float can be
        return False


def _is_header_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value.isascii()


def _is_websocket_url(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        url = urlsplit(value)
        _ = url.port  # raises if it is no port
    except ValueError:
        return False
    has_credentials = url.username is not None or url.password is not None
    return url.scheme in ("ws", "wss") and bool(url.hostname) and not has_credentials


def _with_scheme_in_lower_case(url: Any) -> Any:
    """The same URL: case means nothing in a scheme, but to websocket-client it does."""
    if not isinstance(url, str):
        return url
    scheme, colon, rest = url.partition(":")
    return scheme.lower() + colon + rest


def is_token(value: object) -> bool:
    """Whether it can stand in a handshake as a bearer token."""
    return _is_header_text(value) and value != ""


def _are_headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_header_text(name)
        and name
        and not set(name) & set(' :"(),/;<=>?@[\\]{}')
        and name.lower() not in _HANDSHAKE_HEADERS
        and not name.lower().startswith("sec-websocket-")
        and _is_header_text(text)
        for name, text in value.items()
    )


def _copied(headers: Any) -> Any:
    return dict(headers) if isinstance(headers, Mapping) else headers


def _seconds(default: float, variable: str) -> Any:
    return attrs.field(
        default=default,
        validator=_must(
            "a number of seconds above 0, and finite", lambda v: _is_number(v) and v > 0
        ),
        metadata={"variable": variable, "parse": float},
    )


def _amount(default: int, variable: str, unit: str, least: int = 1) -> Any:
    return attrs.field(
        default=default,
        validator=_must(
            f"a whole number of {unit}, at least {least}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        ),
        metadata={"variable": variable, "parse": int},
    )


def _flag(variable: str) -> Any:
    return attrs.field(
        default=False,
        validator=_must(
            f"True or False (in the environment: {', '.join(_TRUE + _FALSE)})",
            lambda v: isinstance(v, bool),
        ),
        metadata={"variable": variable, "parse": _parse_flag},
    )


def _choice(default: str, variable: str, *choices: str) -> Any:
    return attrs.field(
        default=default,
        validator=_must(" or ".join(map(repr, choices)), lambda v: v in choices),
        metadata={"variable": variable, "parse": str},
    )


def _callback() -> Any:
    return attrs.field(
        default=None,
        repr=False,
        validator=_must("a callable, or None", lambda v: v is None or callable(v)),
    )


def _optional_text(variable: str | None = None) -> Any:
    return attrs.field(
        default=None,
        validator=_must(
            "a string that is not empty, or None",
            lambda v: v is None or (isinstance(v, str) and v != "" and _is_encodable(v)),
        ),
        metadata={"variable": variable, "parse": str} if variable else {},
    )


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_flag(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


@attrs.frozen(kw_only=True)
class TelemetrySettings:
    """What can be set. Immutable. Times are seconds, sizes are bytes or events.

    Raises:
        SettingsError: a value isn't allowed; it names the field, the value and what is.
    """

    enabled: bool = _flag(ENABLE)
    """The feature flag: nothing is recorded, opened or sent unless it is on."""

    url: str = attrs.field(
        repr=_shown,
        default="ws://localhost:3000/telemetry",
        converter=_with_scheme_in_lower_case,
        validator=_must("a ws:// or wss:// URL with a host and no credentials", _is_websocket_url),
        metadata={"variable": "REDVSBLUE_TELEMETRY_WS_URL", "parse": str},
    )
    """Where to send to."""

    token: Token | None = attrs.field(
        default=None,
        repr=False,
        validator=_must(
            "a string of printable ASCII that is not empty, a callable, or None",
            lambda v: v is None or callable(v) or is_token(v),
            secret=True,
        ),
        metadata={"variable": "REDVSBLUE_TELEMETRY_TOKEN", "parse": str},
    )
    """Goes into the handshake as ``Authorization: Bearer``; a callable is asked at each attempt."""

    batch_size: int = _amount(50, "REDVSBLUE_TELEMETRY_BATCH_SIZE", "events")
    """The most events in one message."""

    drain_interval: float = _seconds(1.0, "REDVSBLUE_TELEMETRY_DRAIN_INTERVAL")
    """The longest that an event waits before it is sent."""

    capacity: int = _amount(5000, "REDVSBLUE_TELEMETRY_CAPACITY", "events")
    """The most events that wait; one more, and the oldest is dropped."""

    backoff_base: float = _seconds(1.0, "REDVSBLUE_TELEMETRY_BACKOFF_BASE")
    """The upper bound of the wait before the first new attempt; it doubles with each."""

    backoff_max: float = _seconds(30.0, "REDVSBLUE_TELEMETRY_BACKOFF_MAX")
    """The upper bound that no wait exceeds."""

    connect_timeout: float = _seconds(10.0, "REDVSBLUE_TELEMETRY_CONNECT_TIMEOUT")
    """For the whole of connecting: TCP, TLS and the WebSocket handshake."""

    confirm_timeout: float = _seconds(10.0, "REDVSBLUE_TELEMETRY_CONFIRM_TIMEOUT")
    """A batch that is unconfirmed for so long means that the connection is dead."""

    keepalive_interval: float = _seconds(20.0, "REDVSBLUE_TELEMETRY_KEEPALIVE_INTERVAL")
    """After so long without a word from the server, it is asked for one."""

    confirm: str = _choice("auto", "REDVSBLUE_TELEMETRY_CONFIRM", "auto", "none")
    """``"auto"``: by acks where the server offers them, else by pongs. ``"none"``: sent counts."""

    wire_format: str = _choice("json", "REDVSBLUE_TELEMETRY_WIRE_FORMAT", "json", "ndjson")
    """A message is one JSON array, or one event a line."""

    max_event_bytes: int = _amount(16384, "REDVSBLUE_TELEMETRY_MAX_EVENT_BYTES", "bytes", 256)
    """A larger event is rejected."""

    max_batch_bytes: int = _amount(262144, "REDVSBLUE_TELEMETRY_MAX_BATCH_BYTES", "bytes", 512)
    """The most bytes in one message; so no event may be larger either."""

    strict: bool = _flag("REDVSBLUE_TELEMETRY_STRICT")
    """For development: ``emit`` raises on a bad event instead of counting it."""

    version: str | None = _optional_text("REDVSBLUE_TELEMETRY_VERSION")
    """The version of the game's build, written into each event."""

    session_id: str | None = _optional_text()
    """The id of this run of the game; a fresh one if None."""

    headers: Mapping[str, str] = attrs.field(
        factory=dict[str, str],
        repr=False,
        converter=_copied,
        validator=_must(
            "a mapping of header names to printable ASCII, none of them the handshake's own",
            _are_headers,
            secret=True,
        ),
    )
    """Sent along in the handshake."""

    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None,
        repr=False,
        validator=_must(
            "an ssl.SSLContext, or None", lambda v: v is None or isinstance(v, ssl.SSLContext)
        ),
    )
    """For ``wss://``; by default one that trusts what the system trusts."""

    before_send: Callable[[TelemetryEvent], TelemetryEvent | None] | None = _callback()
    """Called with each event on the worker thread; returns it, another, or None to drop it."""

    on_state_change: Callable[[ConnectionState], object] | None = _callback()
    """Called on the worker thread with each new state of the connection."""

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **overrides: Any
    ) -> TelemetrySettings:
        """The settings that hold: keyword over environment over default, the kill switch over all.

        Args:
            environment: ``os.environ`` if None.
            overrides: settings by keyword.

        Raises:
            SettingsError: a value isn't allowed. Its ``variable`` names the environment variable
                that it came from, or is None for a keyword.
        """
        environment = os.environ if environment is None else environment
        for name in overrides:
            if name not in attrs.fields_dict(cls):
                raise SettingsError(f"there is no setting {name!r}", field=name)
        cls(**overrides)  # a wrong keyword is its author's to see, whatever the environment says
        _read(cls, {ENABLE: environment.get(ENABLE, "")}, skip={})  # a kill switch must be legible
        if is_killed(environment):
            return cls(**{**overrides, "enabled": False})
        return cls(**_read(cls, environment, skip=overrides), **overrides)


def is_killed(environment: Mapping[str, str]) -> bool:
    """Whether the environment forbids telemetry, whatever the code says."""
    do_not_track = environment.get(DO_NOT_TRACK, "").strip().lower()
    switch = environment.get(ENABLE, "").strip().lower()
    return switch in _FALSE or do_not_track not in ("", *_FALSE)


def _read(
    cls: type[TelemetrySettings], environment: Mapping[str, str], skip: Mapping[str, Any]
) -> dict[str, Any]:
    """What the environment sets, each value checked alone, so that a fault names its variable."""
    found: dict[str, Any] = {}
    for field in attrs.fields(cls):
        variable = field.metadata.get("variable")
        text = environment.get(variable, "").strip() if variable else ""
        if not text or field.name in skip:
            continue
        shown = _shown(text) if field.repr else "…"
        value: Any = text
        # What can't be parsed stays a string, and the validator says what is allowed instead.
        with contextlib.suppress(ValueError):
            value = field.metadata["parse"](text)
        try:
            cls(**{field.name: value})
        except SettingsError as error:
            allowed = str(error).partition(" is not allowed: ")[2]
            raise SettingsError(
                f"{variable}={shown} is not allowed: {allowed}",
                field=field.name,
                variable=variable,
            ) from None
        found[field.name] = value
    return found
