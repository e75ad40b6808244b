"""A collector in this process, for the commands that run one: its loop, its signals, its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from .._shared import escape
from ..collector.server import OptionsError
from ..collector.storage.database import DatabaseError
from ._terminal import CommandError

__all__ = ["run", "stopped_by_signals"]

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine to its end: on uvloop where there is one, with warnings on standard error.

    Raises:
        CommandError: the collector can't run like this.
    """
    _log_warnings()
    try:
        return _runner()(main)
    except (OptionsError, DatabaseError) as error:
        raise CommandError(str(error)) from error


def _runner() -> Callable[[Coroutine[Any, Any, _Result]], _Result]:
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event, on_stop: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM set an event. The second of either ends the process at once.

    Args:
        stop: what to set, on the running loop.
        on_stop: called before that, by the loop: a signal handler may not print.
    """
    loop = asyncio.get_running_loop()

    def note(*_: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(on_stop)
        loop.call_soon_threadsafe(stop.set)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _SafeFormatter(logging.Formatter):
    """What a client sent may be in a log record, and on the terminal of whoever reads it."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(escape, super().format(record).split("\n")))


def _log_warnings() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
