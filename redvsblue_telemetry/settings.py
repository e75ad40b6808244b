"""Settings: their defaults, the environment variables that set them, and the values allowed.

A keyword argument wins over the environment, and the environment over the default. An explicit off
in the environment wins over everything: it is the operator's kill switch.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args
from urllib.parse import urlsplit

import attrs

from ._shared import (
    ACK_HEADER,
    CONFIRM_HEADER,
    ENCODING_HEADER,
    MAX_NAME_LENGTH,
    REPORT_HEADER,
    Unpack,
    escape,
)
from .errors import SettingsError

if TYPE_CHECKING:
    from ._delivery.states import ConnectionState
    from .events import TelemetryEvent

__all__ = ["SettingsOverrides", "TelemetrySettings"]

Token = str | Callable[[], str | None]
BeforeSend = Callable[["TelemetryEvent"], "TelemetryEvent | None"]
OnStateChange = Callable[["ConnectionState"], object]
Directory = str | os.PathLike[str]
Confirm = Literal["auto", "archived", "none"]
WireFormat = Literal["json", "ndjson"]
Compression = Literal["auto", "none"]
Reports = Literal["auto", "none"]

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

ENABLE = "REDVSBLUE_ENABLE_TELEMETRY"
DO_NOT_TRACK = "DO_NOT_TRACK"
JOURNAL = "REDVSBLUE_TELEMETRY_JOURNAL"
_PREFIX = "REDVSBLUE_"
_OTHER_PROGRAMS = "REDVSBLUE_COLLECTOR_"  # the prefix of the collector's own variables
_BROWSER_NAMES = {  # of the browser version of the game
    "VITE_ENABLE_TELEMETRY": ENABLE,
    "VITE_TELEMETRY_WS_URL": "REDVSBLUE_TELEMETRY_WS_URL",
}
_OTHER_WORDS = {  # names that other programs use, and that are spelled unlike ours
    **dict.fromkeys(("DISABLE", "DISABLED", "NO", "OFF", "OPT_OUT"), f"{ENABLE}=false"),
    **dict.fromkeys(("", "ON"), ENABLE),
    **dict.fromkeys(("ADDRESS", "DSN", "ENDPOINT", "HOST", "SERVER"), "REDVSBLUE_TELEMETRY_WS_URL"),
    **dict.fromkeys(("API_KEY", "KEY", "PASSWORD", "SECRET"), "REDVSBLUE_TELEMETRY_TOKEN"),
    **dict.fromkeys(("BUFFER_SIZE", "MAX_EVENTS", "QUEUE_SIZE"), "REDVSBLUE_TELEMETRY_CAPACITY"),
    **dict.fromkeys(("CACHE_DIR", "DATABASE_PATH", "STORAGE_DIR"), JOURNAL),
    "FLUSH_INTERVAL": "REDVSBLUE_TELEMETRY_DRAIN_INTERVAL",
    "JOURNAL_MAX_SIZE": f"{JOURNAL}_MAX_BYTES",
    "DO_NOT_TRACK": DO_NOT_TRACK,
    "RELEASE": "REDVSBLUE_TELEMETRY_VERSION",
}
_LEAST_LIKENESS = 0.62  # of a name that a hint suggests
_MAX_SESSION_ID_LENGTH = MAX_NAME_LENGTH - 24  # room for the process id of a forked child
_TRUE = ("1", "true", "yes", "on")
_CREDENTIALS = r"//[^/]*@"
_QUERY = r"(://[^?'\"]*)\?[^'\"]*"
_FALSE = ("0", "false", "no", "off")
_DAY = 86400.0  # seconds
_SOME_JOURNAL = "journal"  # where another setting is checked that needs one
_HANDSHAKE_HEADERS = frozenset(
    {
        "authorization",
        "connection",
        "host",
        "upgrade",
        ACK_HEADER,
        CONFIRM_HEADER,
        ENCODING_HEADER,
        REPORT_HEADER,
    }
)


def _not_allowed(
    field: str, shown: str, allowed: str, variable: str | None = None
) -> SettingsError:
    """The error that names the field, or the variable that sets it, the value and the rule."""
    return SettingsError(
        f"{variable or field}={shown} is not allowed: it {allowed}",
        field=field,
        variable=variable,
        allowed=allowed,
    )


def _without_secrets(value: object) -> str:
    """Return the ``repr`` without the password and the query of a URL in it."""
    return re.sub(_QUERY, r"\1?…", re.sub(_CREDENTIALS, "//…@", repr(value)))


def _validator(allowed: str, holds: Callable[[Any], bool], *, is_secret: bool = False) -> Validator:
    """Return a validator for attrs.

    Args:
        allowed: the rule in words: "must be …".
        holds: the rule.
        is_secret: whether the value must not appear in the error.
    """

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not holds(value):
            shown = "…" if is_secret else _without_secrets(value)
            raise _not_allowed(attribute.name, shown, allowed)

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
        _ = url.port  # raises if it is not a port
    except ValueError:
        return False
    has_credentials = url.username is not None or url.password is not None
    return url.scheme in ("ws", "wss") and bool(url.hostname) and not has_credentials


def _lower_scheme(url: Any) -> Any:
    """Return the URL with its scheme in lower case, as logs and settings show it."""
    if not isinstance(url, str):
        return url
    scheme, colon, rest = url.partition(":")
    return scheme.lower() + colon + rest


def is_token(value: object) -> bool:
    """Return whether a value can be sent as a bearer token."""
    return _is_header_text(value) and value != ""


def _is_directory_name(value: object) -> bool:
    """Return whether a value can be the path of a directory. Whether there is one is not asked."""
    if not isinstance(value, (str, os.PathLike)):
        return False
    try:
        path = os.fspath(value)
    except Exception:
        return False
    return isinstance(path, str) and path != "" and "\0" not in path


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


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _are_by_type(value: object, holds: Callable[[Any], bool]) -> bool:
    """Return whether a value is a mapping of event types to values of some kind."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and holds(each)
        for name, each in value.items()
    )


class _DefaultCapacity(int):
    """The capacity of settings that don't set one. It limits the memory, but not a journal.

    Its type sets it apart from a capacity of 5000 that was asked for, also after ``attrs.evolve``,
    which passes on all fields.
    """


def is_given(capacity: int) -> bool:
    """Return whether a settings' capacity was set, by a keyword or the environment."""
    return not isinstance(capacity, _DefaultCapacity)


# The helpers below return ``Any``, as attrs.field() itself does for a type checker: the annotation
# of the class attribute is what counts.


def _seconds(default: float, variable: str) -> Any:
    return attrs.field(
        default=default,
        validator=_validator(
            "must be a finite number of seconds greater than 0", lambda v: _is_number(v) and v > 0
        ),
        metadata={"variable": variable, "parse": float},
    )


def _amount(default: int, variable: str, unit: str, least: int = 1) -> Any:
    return attrs.field(
        default=default,
        validator=_validator(
            f"must be a whole number of {unit}, at least {least}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        ),
        metadata={"variable": variable, "parse": int},
    )


def _flag(variable: str) -> Any:
    return attrs.field(
        default=False,
        validator=_validator(
            f"must be True or False (in the environment: {', '.join(_TRUE + _FALSE)})",
            lambda v: isinstance(v, bool),
        ),
        metadata={"variable": variable, "parse": _parse_flag},
    )


def _choice(default: str, variable: str, choices: tuple[str, ...]) -> Any:
    return attrs.field(
        default=default,
        validator=_validator(f"must be {' or '.join(map(repr, choices))}", choices.__contains__),
        metadata={"variable": variable, "parse": str},
    )


def _callback() -> Any:
    return attrs.field(
        default=None,
        repr=False,
        validator=_validator("must be a callable or None", lambda v: v is None or callable(v)),
    )


def _optional_text(most: int, variable: str | None = None) -> Any:
    return attrs.field(
        default=None,
        validator=_validator(
            f"must be a non-empty string of at most {most} characters, or None",
            lambda v: v is None or (isinstance(v, str) and 0 < len(v) <= most and _is_encodable(v)),
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


class SettingsOverrides(TypedDict, total=False):
    """The keyword arguments of ``start_telemetry``, for type checkers and editors.

    The same fields as :class:`TelemetrySettings`, none of them required.
    """

    enabled: bool
    url: str
    token: Token | None
    batch_size: int
    drain_interval: float
    capacity: int
    backoff_base: float
    backoff_max: float
    connect_timeout: float
    confirm_timeout: float
    keepalive_interval: float
    confirm: Confirm
    wire_format: WireFormat
    max_event_bytes: int
    max_batch_bytes: int
    strict: bool
    version: str | None
    session_id: str | None
    headers: Mapping[str, str]
    ssl_context: ssl.SSLContext | None
    before_send: BeforeSend | None
    on_state_change: OnStateChange | None
    journal: Directory | None
    journal_max_bytes: int
    journal_max_age: float
    compression: Compression
    reports: Reports
    crash_events: bool
    frame_interval: float
    hang_timeout: float | None
    sample: Mapping[str, float]
    rate_limits: Mapping[str, int]


@attrs.frozen(kw_only=True)
class TelemetrySettings:
    """The settings of a :class:`Telemetry`. Immutable. Times are seconds; sizes, bytes or events.

    Raises:
        SettingsError: a value is not allowed. The error names the field, the value and the rule.
    """

    enabled: bool = _flag(ENABLE)
    """The feature flag. While it is off, nothing is recorded, opened or sent."""

    url: str = attrs.field(
        repr=_without_secrets,
        default="ws://localhost:3000/telemetry",
        converter=_lower_scheme,
        validator=_validator(
            "must be a ws:// or wss:// URL with a host and without credentials", _is_websocket_url
        ),
        metadata={"variable": "REDVSBLUE_TELEMETRY_WS_URL", "parse": str},
    )
    """The server's address."""

    token: Token | None = attrs.field(
        default=None,
        repr=False,
        validator=_validator(
            "must be a non-empty string of printable ASCII, a callable or None",
            lambda v: v is None or callable(v) or is_token(v),
            is_secret=True,
        ),
        metadata={"variable": "REDVSBLUE_TELEMETRY_TOKEN", "parse": str},
    )
    """Sent in the handshake as ``Authorization: Bearer``. A callable is called for each attempt."""

    batch_size: int = _amount(50, "REDVSBLUE_TELEMETRY_BATCH_SIZE", "events")
    """The most events in one message."""

    drain_interval: float = _seconds(1.0, "REDVSBLUE_TELEMETRY_DRAIN_INTERVAL")
    """The longest time that an event waits before it is sent."""

    capacity: int = _amount(_DefaultCapacity(5000), "REDVSBLUE_TELEMETRY_CAPACITY", "events")
    """The most events that the store holds. When it is full, the oldest event is dropped. With a
    journal, it limits the events only if it is set."""

    backoff_base: float = _seconds(1.0, "REDVSBLUE_TELEMETRY_BACKOFF_BASE")
    """The upper bound of the wait before the first retry. It doubles with each further one."""

    backoff_max: float = _seconds(30.0, "REDVSBLUE_TELEMETRY_BACKOFF_MAX")
    """The longest wait between two attempts."""

    connect_timeout: float = _seconds(10.0, "REDVSBLUE_TELEMETRY_CONNECT_TIMEOUT")
    """The time limit for connecting: name look-up, TCP, TLS and the WebSocket handshake."""

    confirm_timeout: float = _seconds(10.0, "REDVSBLUE_TELEMETRY_CONFIRM_TIMEOUT")
    """When a batch stays unconfirmed for this long, the connection is considered dead.

    With ``confirm="archived"``, when it isn't even stored: the archive takes as long as it takes.
    """

    keepalive_interval: float = _seconds(20.0, "REDVSBLUE_TELEMETRY_KEEPALIVE_INTERVAL")
    """After this long without a frame from the server, the client sends a ping.

    It pings earlier once two connections in a row have ended after about the same time of quiet,
    as those through a proxy with a shorter idle timeout do.
    """

    confirm: Confirm = _choice("auto", "REDVSBLUE_TELEMETRY_CONFIRM", get_args(Confirm))
    """``"auto"``: by acks if the server offers them, otherwise by pongs. ``"archived"``: by acks
    that the server sends when events are in its archive, if it has one, otherwise as ``"auto"``; it
    needs a journal. ``"none"``: a sent batch counts as delivered."""

    wire_format: WireFormat = _choice(
        "json", "REDVSBLUE_TELEMETRY_WIRE_FORMAT", get_args(WireFormat)
    )
    """``"json"``: a message is a JSON array of events. ``"ndjson"``: one event a line."""

    max_event_bytes: int = _amount(16384, "REDVSBLUE_TELEMETRY_MAX_EVENT_BYTES", "bytes", 256)
    """A larger event is rejected."""

    max_batch_bytes: int = _amount(262144, "REDVSBLUE_TELEMETRY_MAX_BATCH_BYTES", "bytes", 512)
    """The most bytes in one message. No event may be larger, either."""

    strict: bool = _flag("REDVSBLUE_TELEMETRY_STRICT")
    """For development: ``emit`` raises an error on an invalid event instead of counting it."""

    version: str | None = _optional_text(MAX_NAME_LENGTH, "REDVSBLUE_TELEMETRY_VERSION")
    """The version of the game's build, written into each event."""

    session_id: str | None = _optional_text(_MAX_SESSION_ID_LENGTH)
    """The id of this run of the game. None: a new one is made."""

    headers: Mapping[str, str] = attrs.field(
        factory=dict[str, str],
        repr=False,
        converter=_copied,
        validator=_validator(
            "must be a mapping of header names to printable ASCII, without the handshake's own",
            _are_headers,
            is_secret=True,
        ),
    )
    """More headers for the handshake."""

    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None,
        repr=False,
        validator=_validator(
            "must be an ssl.SSLContext or None",
            lambda v: v is None or isinstance(v, ssl.SSLContext),
        ),
    )
    """For ``wss://``. None: a context that trusts the system's certificate authorities."""

    before_send: BeforeSend | None = _callback()
    """Called on the worker thread with each event. Returns the one to send, or None to drop it."""

    on_state_change: OnStateChange | None = _callback()
    """Called on the worker thread with each new state of the connection."""

    journal: Directory | None = attrs.field(
        default=None,
        validator=_validator(
            "must be the path of a directory (a non-empty string or an os.PathLike), or None",
            lambda v: v is None or _is_directory_name(v),
        ),
        metadata={"variable": JOURNAL, "parse": str},
    )
    """The directory that keeps events until they are confirmed, so that they outlive the process.
    It is created if needed. None: events are kept in memory only."""

    journal_max_bytes: int = _amount(67_108_864, f"{JOURNAL}_MAX_BYTES", "bytes")
    """The most bytes in the journal, those of earlier runs included. Beyond it, the oldest events
    are dropped."""

    journal_max_age: float = _seconds(30 * _DAY, f"{JOURNAL}_MAX_AGE")
    """How long the journal keeps an event that can't be delivered."""

    compression: Compression = _choice(
        "auto", "REDVSBLUE_TELEMETRY_COMPRESSION", get_args(Compression)
    )
    """``"auto"``: compress messages if the server supports it. ``"none"``: never."""

    reports: Reports = _choice("auto", "REDVSBLUE_TELEMETRY_REPORTS", get_args(Reports))
    """``"auto"``: to a server that takes them, report how the session stands, how it ended, and
    which events were dropped and why. ``"none"``: never."""

    crash_events: bool = _flag("REDVSBLUE_TELEMETRY_CRASH_EVENTS")
    """Record an uncaught exception as a ``crash`` event, with its stack but no variables."""

    frame_interval: float = _seconds(10.0, "REDVSBLUE_TELEMETRY_FRAME_INTERVAL")
    """How often a ``frames`` event sums up the calls of :meth:`Telemetry.frame`."""

    hang_timeout: float | None = attrs.field(
        default=None,
        validator=_validator(
            "must be a finite number of seconds greater than 0, or None",
            lambda v: v is None or (_is_number(v) and v > 0),
        ),
        metadata={"variable": "REDVSBLUE_TELEMETRY_HANG_TIMEOUT", "parse": float},
    )
    """After this long without a call of :meth:`Telemetry.frame`, a ``hang`` event is recorded.
    None: never."""

    sample: Mapping[str, float] = attrs.field(
        factory=dict[str, float],
        converter=_copied,
        validator=_validator(
            "must be a mapping of event types to the shares that are kept, from 0 to 1",
            lambda v: _are_by_type(v, lambda share: _is_number(share) and 0 <= share <= 1),
        ),
    )
    """The share of the events of a type that is kept. Types that are not in it are kept whole."""

    rate_limits: Mapping[str, int] = attrs.field(
        factory=dict[str, int],
        converter=_copied,
        validator=_validator(
            "must be a mapping of event types to whole numbers of events a second, at least 1",
            lambda v: _are_by_type(v, lambda n: _is_number(n) and n >= 1 and n == int(n)),
        ),
    )
    """The most events of a type that are kept in a second. Others have no limit."""

    def __attrs_post_init__(self) -> None:
        """Check the settings that need others."""
        if self.confirm == "archived" and self.journal is None:
            raise _not_allowed("confirm", repr(self.confirm), "needs a journal: set that as well")

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        **overrides: Unpack[SettingsOverrides],
    ) -> TelemetrySettings:
        """Return the settings of this process. The kill switch wins, then keywords, then variables.

        Args:
            environment: the variables; ``os.environ`` if None.
            overrides: settings as keyword arguments.

        Raises:
            SettingsError: a value is not allowed. Its ``variable`` names the environment variable
                that set it, or is None for a keyword.
        """
        environment = os.environ if environment is None else environment
        for name in overrides:
            if name not in attrs.fields_dict(cls):
                raise _unknown(cls, name)
        # A wrong keyword raises at once, also while the kill switch is on.
        _check(cls, overrides)
        _read(
            cls, {ENABLE: environment.get(ENABLE, "")}, skip={}
        )  # a kill switch that can't be read is an error
        if is_killed(environment):
            # The journal's directory is needed all the same: the start erases what is in it.
            journal = {JOURNAL: environment.get(JOURNAL, "")}
            found = {**_read(cls, journal, skip=overrides), **overrides}
            return attrs.evolve(cls(**found), enabled=False)
        found = _read(cls, environment, skip=overrides)
        try:
            return cls(**{**found, **overrides})
        except SettingsError as error:  # each is right by itself
            if error.field in overrides:
                raise
            shown, variable = repr(found[error.field]), _variables()[error.field]
            raise _not_allowed(error.field, shown, error.allowed, variable) from None


def _check(cls: type[TelemetrySettings], some: Mapping[str, Any]) -> None:
    """Raise a SettingsError for a value that no other setting can make right."""
    cls(**{"journal": _SOME_JOURNAL, **some})


def _unknown(cls: type[TelemetrySettings], name: str) -> SettingsError:
    import difflib  # noqa: PLC0415 (needed for a mistake only)

    known = [field.name for field in attrs.fields(cls)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return SettingsError(
        f"unknown setting {name!r}{hint}",
        field=name,
        allowed=f"must be one of {', '.join(known)}",
    )


def is_killed(environment: Mapping[str, str]) -> bool:
    """Return whether the environment forbids telemetry. Code can't overrule that."""
    return bool(_kill_switches(environment))


def _kill_switches(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that forbid telemetry."""
    do_not_track = environment.get(DO_NOT_TRACK, "").strip().lower()
    switch = environment.get(ENABLE, "").strip().lower()
    forbids = {DO_NOT_TRACK: do_not_track not in ("", *_FALSE), ENABLE: switch in _FALSE}
    return [name for name, is_set in forbids.items() if is_set]


def why_off(environment: Mapping[str, str], overrides: SettingsOverrides) -> str:
    """Return why settings of this environment and these keywords leave telemetry off."""
    if switches := _kill_switches(environment):
        return f"the environment forbids it ({' and '.join(switches)})"
    if "enabled" in overrides:
        return "start_telemetry() was called with enabled=False"
    return (
        f"nothing turned it on; set {ENABLE}=true in the environment, or pass enabled=True to "
        "start_telemetry()"
    )


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that look like a setting and are not one, each with a hint.

    The hint is empty if no setting has a similar name. No value is in either.
    """
    known = _variables().values()
    found: dict[str, str] = {}
    for name, text in environment.items():
        is_ours = name.upper().startswith(_PREFIX) and not name.upper().startswith(_OTHER_PROGRAMS)
        if is_ours and name not in known and text.strip():
            found[escape(name)] = _hint(name)
    for name, right in _BROWSER_NAMES.items():
        # Where both are set, the browser's name is there for a build of the browser version.
        if environment.get(name, "").strip() and not environment.get(right, "").strip():
            found[name] = f"; did you mean {right}?"
    return found


def _variables() -> dict[str, str]:
    """Return the fields that have a variable, each with its variable."""
    return {
        field.name: field.metadata["variable"]
        for field in attrs.fields(TelemetrySettings)
        if "variable" in field.metadata
    }


@functools.lru_cache(maxsize=256)  # slow, and a game may start telemetry in every frame
def _hint(name: str) -> str:
    import difflib  # noqa: PLC0415 (needed for a mistake only)

    if right := _OTHER_WORDS.get(_words(name)):
        return f"; did you mean {right}?"
    variables = _variables()
    rights = {
        **{f.upper(): f"start_telemetry({f}=…)" for f in attrs.fields_dict(TelemetrySettings)},
        **{field.upper(): variable for field, variable in variables.items()},
        **{_words(variable): variable for variable in variables.values()},
    }
    if close := difflib.get_close_matches(_words(name), rights, n=1, cutoff=_LEAST_LIKENESS):
        return f"; did you mean {rights[close[0]]}?"
    # The slip may be in a word that all the names share.
    close = difflib.get_close_matches(name.upper(), variables.values(), n=1, cutoff=0.9)
    return f"; did you mean {close[0]}?" if close else ""


def _words(variable: str) -> str:
    """Return the distinctive part of a variable, such as "ENABLE" or "WS_URL"."""
    words = variable.upper().removeprefix(_PREFIX).split("_")
    return "_".join(word for word in words if word != "TELEMETRY")


def _read(
    cls: type[TelemetrySettings], environment: Mapping[str, str], skip: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that the environment makes.

    Each value is checked by itself, so that an error names its variable.
    """
    found: dict[str, Any] = {}
    for field in attrs.fields(cls):
        variable = field.metadata.get("variable")
        text = environment.get(variable, "").strip() if variable else ""
        if not text or field.name in skip:
            continue
        shown = _without_secrets(text) if field.repr else "…"
        value: Any = text
        # A text that can't be parsed stays a string, and the validator refuses it with its rule.
        with contextlib.suppress(ValueError):
            value = field.metadata["parse"](text)
        try:
            _check(cls, {field.name: value})
        except SettingsError as error:
            raise _not_allowed(field.name, shown, error.allowed, variable) from None
        found[field.name] = value
    return found
