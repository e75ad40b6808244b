"""Options that several commands share, and a type of option values."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.types import StringParamType

from ..collector.alerts import ALERTS
from ..collector.client import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from ..collector.models import EventFilter
from ..collector.ranges import EXAMPLES, NamedRange, RangeError, resolve
from ..collector.storage.upkeep import Keep

__all__ = [
    "TEXT",
    "AlertCondition",
    "Duration",
    "File",
    "FiniteFloatRange",
    "KeepRule",
    "Size",
    "browser_option",
    "context_option",
    "db_option",
    "filter_options",
    "keep_of",
    "port_option",
    "range_option",
    "schema_option",
    "temporary_db_option",
    "token_option",
]


class File(click.Path):
    """The name of a file. Click accepts an empty one, which would be the current directory."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("the file name is empty", param, ctx)
        return super().convert(value, param, ctx)


# Of commands that read a database:
db_option = click.option(
    "--db",
    type=File(),
    default="telemetry.sqlite3",
    show_default=True,
    help="The collector's database. A collector may be writing to it.",
)


class _Text(StringParamType):
    """A text that a database can hold: arguments may have bytes that are not UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text."""
        text: str = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!a} is not valid UTF-8.", param, ctx)
        return text


TEXT = _Text()
"""The type of an option whose value is compared with stored texts."""


def _read_context(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise click.BadParameter(f"{text!r} must be NAME=VALUE, such as player=p-17")
        if fields.setdefault(name, value) != value:
            raise click.BadParameter(f"{name!r} has two values")
    return fields


def context_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for fields of the context."""
    return click.option(
        "--context",
        metavar="NAME=VALUE",
        type=TEXT,
        multiple=True,
        callback=_read_context,
        help=help_text,
    )


def _read_range(_: click.Context, __: click.Parameter, text: str | None) -> NamedRange | None:
    if text is None:
        return None
    try:
        return resolve(text, time.time_ns() // 1_000_000, None)
    except RangeError as error:
        raise click.BadParameter(str(error)) from None


def range_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for a range of time, in words; its days are those of this machine."""
    return click.option(
        "--range",
        "range_",
        metavar="TEXT",
        type=TEXT,
        callback=_read_range,
        help=f"{help_text} For example: {EXAMPLES}.",
    )


_FILTERS = (
    click.option("--type", "type_", metavar="NAME", type=TEXT, help="Only events of this type."),
    click.option("--session", metavar="ID", type=TEXT, help="Only events of this session."),
    click.option(
        "--text",
        type=TEXT,
        help="Only events whose data contains this text, from the start of a word; after *, "
        "from anywhere.",
    ),
    context_option(
        "Only events whose context has this field. May be repeated: all of them must match."
    ),
    click.option(
        "--fault",
        metavar="TEXT",
        type=TEXT,
        help="Only events whose fault contains this text; with any, all events that have a fault; "
        "with none, all others.",
    ),
)


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose among events; the command gets them as ``wanted``."""

    @functools.wraps(command)
    def with_filter(
        type_: str | None,
        session: str | None,
        text: str | None,
        context: dict[str, str],
        fault: str | None,
        **others: Any,
    ) -> None:
        command(wanted=EventFilter(type_, session, text, context, fault), **others)

    for option in reversed(_FILTERS):
        with_filter = option(with_filter)
    return with_filter


# Of commands that ask a running collector:
token_option = click.option(
    "--token",
    envvar=[READ_TOKEN_VARIABLE, TOKEN_VARIABLE],
    help="The collector's token; the one for reading, if it has two.",
    show_envvar=True,
)

# Of commands that run a collector:
schema_option = click.option(
    "--schema",
    metavar="FILE",
    type=File(),
    help="Mark events that do not fit this file of `redvsblue-telemetry schema`.",
)

# Of commands that run a collector for one game:
port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Bind the collector to this port. If 0, an available port will be picked.",
)
temporary_db_option = click.option(
    "--db",
    type=File(),
    help="Keep the events in this SQLite database.  [default: a temporary file]",
)
browser_option = click.option(
    "--no-browser", is_flag=True, help="Do not open the live page in a browser."
)


class FiniteFloatRange(click.FloatRange):
    """A number within limits. Click accepts NaN, which compares with no limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.ASCII | re.IGNORECASE)


class Duration(StringParamType):
    """A time such as ``90d``, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a time."""
        if not isinstance(value, str):
            return value
        found = _DURATION.fullmatch(value.strip())
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is not a time such as 90d, 12h, 30m or 45s.", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


class Size(StringParamType):
    """A size such as ``10GB``, as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a size."""
        if not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is not a size such as 500MB or 10GB.", param, ctx)
        return int(float(found[1]) * _BYTES[found[2].lower()])


class KeepRule(Duration):
    """A time for all events, or for those of a type, as ``(type, seconds)``; None is all types."""

    name = "keep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse ``90d`` or ``bullet_fired=3d``."""
        if not isinstance(value, str):
            return value
        # A type may contain "="; a time can't.
        type_, separator, time = value.rpartition("=")
        return (type_ if separator else None), super().convert(time, param, ctx)


def keep_of(rules: tuple[tuple[str | None, float], ...]) -> Keep:
    """Return what the values of a ``--keep`` say together."""
    general = [seconds for type_, seconds in rules if type_ is None]
    if len(general) > 1:
        raise click.UsageError("--keep is given more than once without a type")
    by_type: dict[str, float] = {}
    for type_, seconds in rules:
        if type_ is not None and by_type.setdefault(type_, seconds) != seconds:
            raise click.UsageError(f"--keep is given more than once for {type_!r}")
    return Keep(general[0] if general else None, by_type)


_CONDITION = re.compile(r"([a-z-]+)\s*([<>=])\s*(.+)", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_OFF = "off"


class AlertCondition(Duration):
    """A condition such as ``crash-free<99%``, as ``(name, limit)``; the limit None is off."""

    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse ``crash-free<99%``, ``silence>15m`` or ``disk=off``."""
        if not isinstance(value, str):
            return value
        found = _CONDITION.fullmatch(value.strip())
        if found is None or found[1] not in ALERTS:
            self.fail(
                f"{value!r} must start with one of {', '.join(ALERTS)}, then a limit, such as "
                "crash-free<99%, silence>15m or disk=off.",
                param,
                ctx,
            )
        name, sign, limit = found.groups()
        if (sign, limit) == ("=", _OFF):
            return name, None
        expected = {"crash-free": "<", "disk": "=", "storing": "="}.get(name, ">")
        if expected == "=":
            self.fail(f"{value!r}: {name} has no limit; {name}=off turns it off.", param, ctx)
        if sign != expected:
            self.fail(f"{value!r} must be {name}{expected} and a limit, or {name}=off.", param, ctx)
        if name == "silence":
            return name, super().convert(limit, param, ctx)
        share = _SHARE.fullmatch(limit)
        if share is None or not 0 <= float(share[1]) <= 100:
            self.fail(f"{value!r}: the limit must be a share such as 1% or 99.5%.", param, ctx)
        return name, float(share[1]) / 100
