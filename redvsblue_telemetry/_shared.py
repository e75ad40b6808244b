"""Small helpers that several packages need. Imports nothing from the rest of the package."""

from __future__ import annotations

import copyreg
import functools
import reprlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Unpack
elif sys.version_info >= (3, 11):
    from typing import Unpack
else:

    class Unpack:
        """Stands in for ``typing.Unpack``, so that annotations can be evaluated at run time.

        It says as much as a plain ``**overrides: Any`` would. The real one for Python 3.10 is in
        typing_extensions, which is not a dependency.
        """

        def __class_getitem__(cls, fields: object) -> object:
            return Any


__all__ = [
    "ACK_ARCHIVED",
    "ACK_CUMULATIVE",
    "ACK_HEADER",
    "CHECK_HEADER",
    "CHECK_TYPE",
    "CHECK_VERSION",
    "CONFIRM_HEADER",
    "ENCODING_HEADER",
    "LARGEST_INTEGER",
    "MAX_DEPTH",
    "MAX_NAME_LENGTH",
    "REPORT_HEADER",
    "REPORT_VERSION",
    "SMALLEST_INTEGER",
    "VERSION",
    "PicklableError",
    "TokenBucket",
    "Unpack",
    "counted",
    "describe",
    "encodable",
    "escape",
    "is_loopback",
    "keep_on_reload",
    "monotonic",
    "name_fault",
    "rest",
    "type_name",
]

VERSION = "0.2.0"
"""The version of this package; setup.cfg reads it here."""

ACK_HEADER = "telemetry-ack"
"""The handshake header in which a client offers acks, and a server promises them."""
ACK_CUMULATIVE = "cumulative"
"""The usual kind of ack: the first *n* messages of this connection are stored."""
ACK_ARCHIVED = "archived"
"""The kind of ack that promises more: the first *n* messages of this connection are archived."""
CONFIRM_HEADER = "telemetry-confirm"
"""The handshake header in which a client asks for acks of the second kind.

They are not offered in ``ACK_HEADER``, since there are servers that know one value of it and take
a list, or the header twice, for no offer at all. A server that knows this header answers in
``ACK_HEADER``."""

ENCODING_HEADER = "telemetry-encoding"
"""The handshake header in which a client offers encodings of messages, and a server picks one."""
REPORT_HEADER = "telemetry-report"
"""The handshake header in which a client offers reports, and a server takes them."""
REPORT_VERSION = "1"
CHECK_HEADER = "telemetry-check"
"""The handshake header in which a check asks the server to forget its events once they are stored,
and a server promises that."""
CHECK_VERSION = "1"
CHECK_TYPE = "telemetry_check"
"""The type of a check's events."""

# The limits of one event, which a client keeps to and a collector checks; see the page on the wire
# protocol.
MAX_NAME_LENGTH = 1024
"""Characters in an event's type, id, session id and version."""
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
"""The range of a timestamp, in milliseconds; a ``seq`` is not negative. SQLite can store these."""
MAX_DEPTH = 64
"""How many objects and arrays of an event's data may be inside one another."""

_MAX_SHOWN_LETTERS = 80  # of a value in a log
_JOINERS = "\u200c\u200d"

# time.monotonic is the same clock, except on Windows before Python 3.13: there it advances in steps
# of 15.6 ms, a whole frame. freezegun replaces each module attribute that *is* time.perf_counter,
# under any name, and a game's tests freeze time. A partial is another object, and still one call
# into C.
monotonic: functools.partial[float] = functools.partial(time.perf_counter)
"""Seconds on a clock that never goes back and that freezegun does not stop."""

# Time for another thread to wake up and take the GIL. Linux makes about 70e-6 of any shorter sleep.
# Windows makes about 500e-6 of it, and with Python 3.10 a tick of its clock; but wine makes nothing
# of a microsecond, so it is asked for what is needed.
_REST = 50e-6 if sys.platform == "win32" else 1e-6  # seconds


def rest() -> None:
    """Let another thread have the GIL; ``_delivery/pacing.py`` says why, and how often.

    A ``sleep(0)`` would be over before that thread has woken up.
    """
    time.sleep(_REST)


_Class = TypeVar("_Class", bound=type)


def keep_on_reload(kind: _Class) -> _Class:
    """Return the class that a module had before ``importlib.reload``, or the given one.

    For classes that a running client, or the game, compares by identity: with a second class of the
    same name, a state that a client is in would equal none of the states that its code knows.
    """
    kept: _Class = vars(sys.modules[kind.__module__]).get(kind.__name__, kind)
    return kept


class PicklableError(Exception):
    """An exception that pickles and copies with its attributes, for any ``__init__``.

    By default, unpickling calls the class with nothing but ``args``, the message. Where that fails,
    a ``multiprocessing.Pool`` hangs forever.
    """

    def __reduce__(self) -> tuple[object, ...]:
        new: Callable[..., object] = copyreg.__newobj__  # type: ignore[attr-defined]
        return new, (type(self), *self.args), vars(self)


class TokenBucket:
    """Limits how often something is done: a burst first, then a steady rate.

    Not thread-safe: each bucket has one thread that uses it.

    Args:
        rate: tokens added per second.
        burst: the maximum number of tokens, and the number at the start; at least 1.
        clock: returns monotonic seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()

    def take(self, cost: float = 1.0) -> bool:
        """Take ``cost`` tokens if at least one is left; return whether one was.

        A cost above the tokens that are left puts the bucket into debt, which later calls wait
        out. Otherwise something that costs more than the burst could never be done.
        """
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= cost
        return True

    @property
    def delay(self) -> float:
        """Seconds until at least one token is left; 0 if one is."""
        self._fill()
        return max(0.0, (1 - self._tokens) / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now


def escape(text: str) -> str:
    r"""Return the text with unprintable characters as ``\u001b``, as JSON escapes them.

    A terminal then interprets none of it, and JSON still means the same. Spaces of all kinds stay,
    and so do the joiners that Arabic, Indic scripts and emoji are written with.
    """
    if text.isprintable():
        return text
    import unicodedata  # noqa: PLC0415 (large, and most text is printable)

    return "".join(
        letter
        if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"
        else _json_escape(letter)
        for letter in text
    )


def _json_escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host name or address."""
    import ipaddress  # noqa: PLC0415 (slow to import, and a game mostly doesn't need it)

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


class _ShortRepr(reprlib.Repr):
    """Does not write out a huge container or string only to cut it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 2 * _MAX_SHOWN_LETTERS

    def repr_bytes(self, value: bytes | bytearray, level: int) -> str:
        return repr(value[:_MAX_SHOWN_LETTERS])

    repr_bytearray = repr_bytes


_SHORT = _ShortRepr()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 event`` or ``2,000 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe(value: object) -> str:
    """Return a short ``repr`` for a log; also for an object whose ``repr`` fails."""
    try:
        return encodable(_SHORT.repr(value)[:_MAX_SHOWN_LETTERS])
    except Exception:
        return f"<{type_name(type(value))}>"


def encodable(text: str) -> str:
    """Return the text with lone surrogates, which no encoding can write, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def name_fault(name: str) -> str | None:
    """Return why a string can't be a type, id, session id or version; None if it can."""
    if len(name) > MAX_NAME_LENGTH:
        return f"must have at most {MAX_NAME_LENGTH} characters, not {len(name)}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate, which UTF-8 can't encode"
    return None


def type_name(kind: type) -> str:
    """Return a type's name with its module, unless it is a built-in."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
