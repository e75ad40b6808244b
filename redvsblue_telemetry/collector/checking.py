"""Checks the data of events against the schema of their type.

An event that fits costs the decoding of its data and one call into Rust, which takes time in
proportion to its size. Only one that doesn't is looked at more closely (:mod:`.faults`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from time import monotonic, thread_time
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from .._schema import EventSchemas, SchemaError, read_schemas
from .._shared import CHECK_TYPE
from .faults import NOT_EXPLAINED, explain

__all__ = ["Checker", "read_checker"]

# Of the SDK and of `redvsblue-telemetry check`; no game declares them.
_OWN_TYPES = ("crash", "frames", "hang", CHECK_TYPE)
_MAX_BYTES_EXPLAINED = 65_536  # of data; four times as much as the SDK sends by default
# The search for where an event does not fit takes a hundred times as long as storing it, at worst.
# So that no client can keep the storage thread from the events of the others, searches get this
# share of its time, and at first this many seconds at once.
_SHARE_EXPLAINING = 0.2
_SECONDS_AT_ONCE = 0.4
_BACKTRACK_LIMIT = 10_000  # steps of one regular expression
_HINT = 'checking events needs jsonschema-rs: pip install "redvsblue-telemetry[collector,schema]"'
_DOCUMENT = "urn:events"


def read_checker(path: Path) -> Checker:
    """Read the file that ``redvsblue-telemetry schema`` writes.

    Raises:
        SchemaError: it can't be read, or is not such a file, or a package is missing.
    """
    try:
        return Checker(read_schemas(path.read_bytes()))
    except OSError as error:
        raise SchemaError(f"cannot read {path}: {error.strerror or error}") from error
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from error


class Checker:
    """Finds the faults of events. Used by one thread at a time.

    Args:
        schemas: the schemas of all types of event, except for the SDK's own.

    Raises:
        SchemaError: one of the schemas is invalid, or a package is missing.
    """

    def __init__(self, schemas: EventSchemas) -> None:
        self._schemas = schemas
        try:
            self._library: Any = import_module("jsonschema_rs")  # a separate extra
        except ModuleNotFoundError as error:
            raise SchemaError(_HINT) from error
        document = {
            "$defs": schemas.definitions,
            "properties": {name: event.data for name, event in schemas.events.items()},
        }
        try:
            # A validator accepts some invalid keywords, such as a multipleOf of 0.
            self._library.meta.validate(document)
            registry = self._library.Registry([(_DOCUMENT, document)], retriever=_refuse)
            self._validators = {
                name: self._validator(
                    {"$ref": f"{_DOCUMENT}#/properties/{_quoted(name)}"}, registry
                )
                for name in schemas.events
            }
        except ValueError as error:
            where = ".".join(map(str, getattr(error, "instance_path", ())))
            reason, _, _ = str(error).partition("\n")
            raise SchemaError(f"the schema is invalid: {where}: {reason}") from error
        self._decode = msgspec.json.Decoder().decode
        self._parts: dict[bytes, Any] = {}
        self._paid_until = 0.0  # when the searches until now will have had their share of the time

    def _validator(self, schema: dict[str, Any], registry: Any = None) -> Any:
        return self._library.Draft202012Validator(
            schema,
            registry=registry,
            validate_formats=True,
            formats=_FORMATS,
            # Some expressions need exponential time for some texts.
            pattern_options=self._library.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
        )

    def fault(self, type: str, data: msgspec.Raw) -> str | None:
        """Return where and why the data of an event does not fit the schema; None if it does.

        Never raises.
        """
        validator = self._validators.get(type)
        if validator is None:
            return None if type in _OWN_TYPES else "no such type of event"
        try:
            decoded = self._decode(data)
            if validator.is_valid(decoded):
                return None
        except msgspec.MsgspecError:
            return "data: has a number that is too large, or half a surrogate pair"
        except (RecursionError, ValueError):  # the one of Python, and that of the validator
            return "data: is nested too deeply"
        if memoryview(data).nbytes > _MAX_BYTES_EXPLAINED:
            return "data: does not fit the schema, and is too large to say where"
        now = monotonic()
        if self._paid_until - now > _SECONDS_AT_ONCE / _SHARE_EXPLAINING:
            return NOT_EXPLAINED
        start = thread_time()
        found = explain(self._schemas, type, decoded, self._fits)
        taken = thread_time() - start
        self._paid_until = max(self._paid_until, now) + taken / _SHARE_EXPLAINING
        return found

    # Called for data that does not fit, with each keyword of the schemas at most.
    def _fits(self, schema: dict[str, Any], value: Any) -> bool:
        text = msgspec.json.encode(schema)
        if text not in self._parts:
            self._parts[text] = self._validator(schema)
        return bool(self._parts[text].is_valid(value))


def _reads(kind: Any) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            msgspec.convert(text, kind)
        except msgspec.ValidationError:
            return False
        return True

    return is_valid


# Those of the schema command that the library doesn't know, or reads by RFC 3339. That has no
# durations with a fraction, which the SDK and msgspec write: PT3.5S.
_LOCAL = msgspec.Meta(tz=False)
_FORMATS = {
    "duration": _reads(timedelta),
    "iso-date-time": _reads(datetime),
    "iso-time": _reads(time),
    "date-time-local": _reads(Annotated[datetime, _LOCAL]),
    "partial-time": _reads(Annotated[time, _LOCAL]),
    "decimal": _reads(Decimal),
}


def _quoted(name: str) -> str:
    """Return a name as part of a JSON pointer in a URI (RFC 6901)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~")


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not in the file")
