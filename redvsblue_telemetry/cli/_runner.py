"""Runs a collector in this process: its event loop, signals, log and page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TextIO, TypeVar

from .._shared import escape
from ..collector.server import Options, OptionsError, serve
from ..collector.storage.database import DatabaseError
from ._terminal import CommandError

__all__ = [
    "can_open_browser",
    "collecting",
    "first_of",
    "run",
    "stopped_by_signals",
]

_Result = TypeVar("_Result")
_CTRL_CLOSE, _CTRL_LOGOFF, _CTRL_SHUTDOWN = 2, 5, 6  # wincon.h


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine on uvloop, if installed, and log warnings to standard error.

    Raises:
        CommandError: the collector can't run with these options or this database.
    """
    _log_warnings()
    try:
        return _runner()(main)
    except (OptionsError, DatabaseError) as error:
        raise CommandError(str(error)) from error


def _runner() -> Callable[[Coroutine[Any, Any, _Result]], _Result]:
    try:
        import uvloop  # noqa: PLC0415 - not available on Windows
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


@contextlib.contextmanager
def stopped_by_signals(
    stop: asyncio.Event, on_stop: Callable[[], None], on_hangup: Callable[[], None] | None = None
) -> Iterator[None]:
    """Set an event on Ctrl-C, SIGTERM or SIGHUP. A second one ends the process at once.

    A second SIGHUP is ignored: where a terminal is closed, both the shell and the kernel send one.
    On Windows, Ctrl-Break sets it, too, and so does the end of the console or of the system.

    Args:
        stop: the event, on the running loop.
        on_stop: called before that, by the loop: a signal handler must not print.
        on_hangup: called by the loop on SIGHUP, which then doesn't stop anything.
    """
    loop = asyncio.get_running_loop()
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    # `nohup` has SIGHUP ignored, and so it stays.
    if hangup is not None and (on_hangup or signal.getsignal(hangup) is not signal.SIG_IGN):
        numbers.append(hangup)
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)

    def note(number: int, _: object) -> None:
        if number == hangup and on_hangup is not None:
            loop.call_soon_threadsafe(on_hangup)
            return
        for each in previous:
            signal.signal(each, signal.SIG_IGN if each == hangup else signal.SIG_DFL)
        loop.call_soon_threadsafe(on_stop)
        loop.call_soon_threadsafe(stop.set)

    previous = {number: signal.getsignal(number) for number in numbers}
    for number in previous:
        signal.signal(number, note)
    try:
        with _outliving_the_console():
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _outliving_the_console() -> Iterator[None]:
    """On Windows, raise SIGBREAK when the console is closed, and leave time to handle it.

    The C runtime would raise it, too, but the system ends the process as soon as the handler has
    returned: https://learn.microsoft.com/en-us/windows/console/handlerroutine. So this one does not
    return. The system waits about five seconds for it, and 20 for that of a service.
    """
    if sys.platform != "win32":
        yield
        return
    import ctypes  # noqa: PLC0415 (nothing else needs it)

    is_closed = threading.Event()

    @ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)
    def note(event: int) -> bool:
        if event in (_CTRL_CLOSE, _CTRL_SHUTDOWN):
            is_closed.set()
            signal.raise_signal(signal.SIGBREAK)
            threading.Event().wait()
        # Services get it when any user logs off, and go on.
        return event == _CTRL_LOGOFF

    ctypes.windll.kernel32.SetConsoleCtrlHandler(note, True)
    try:
        yield
    finally:
        if not is_closed.is_set():  # else this would wait until the handler returns
            ctypes.windll.kernel32.SetConsoleCtrlHandler(note, False)


@contextlib.asynccontextmanager
async def collecting(options: Options, stop: asyncio.Event) -> AsyncIterator[str]:
    """Run a collector until the block is left, or the event is set; yield its page's URL."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(options, stop, ready.set_result))
    await first_of(serving, ready)
    try:
        if ready.done():
            yield ready.result()
    finally:
        stop.set()
        await serving


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def can_open_browser(stream: TextIO) -> bool:
    """Return whether a person looks at the stream, and a browser would open in a window.

    Without windows, a browser would take over the terminal.
    """
    has_windows = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    return has_windows and stream.isatty()


class _SafeFormatter(logging.Formatter):
    """Escapes log records: they may quote text that a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(escape, super().format(record).split("\n")))


def _log_warnings() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
