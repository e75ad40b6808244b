"""Names are looked up on another thread, while the caller waits for a socket."""

from __future__ import annotations

import gc
import select
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from redvsblue_telemetry._network.names import look_up
from redvsblue_telemetry._shared import monotonic
from tests.support.wait import wait_until


class UnencodableError(UnicodeError):
    """One that a weak reference can refer to."""


def wait(fd: int, events: int, deadline: float) -> None:
    if not select.select([fd], [], [], max(0.0, deadline - monotonic()))[0]:
        raise TimeoutError("timed out")


def look(host: str, timeout: float = 20.0) -> list[Any]:
    return look_up(host, 80, wait, monotonic() + timeout, weakref.WeakSet())


def resolver(monkeypatch: pytest.MonkeyPatch, resolve: Callable[[str], Any]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: resolve(host))


def test_a_name_is_looked_up_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def resolve(host: str) -> list[str]:
        threads.append(threading.current_thread())
        return [host]

    resolver(monkeypatch, resolve)
    assert look("a.name") == ["a.name"]
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_needs_no_thread(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    resolver(monkeypatch, lambda host: threads.append(threading.current_thread()))
    look(address)
    assert threads == [threading.current_thread()]


def test_a_look_up_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    resolver(monkeypatch, lambda host: is_over.wait(60))
    began = monotonic()
    with pytest.raises(TimeoutError):
        look("a.name", timeout=0.1)
    assert monotonic() - began < 10
    is_over.set()
    assert wait_until(
        lambda: not any(each.name == "telemetry-name-look-up" for each in threading.enumerate())
    )


@pytest.mark.parametrize("fault", [socket.gaierror(-2, "unknown"), UnencodableError("too long")])
def test_its_errors_are_raised_here_and_leave_no_cycle(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str) -> None:
        raise type(fault)(*fault.args)

    resolver(monkeypatch, resolve)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(type(fault)) as raised:
            look("a.name")
        error = weakref.ref(raised.value)
        del raised
        assert wait_until(lambda: error() is None)
    finally:
        gc.enable()


def test_without_a_thread_it_looks_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver(monkeypatch, lambda host: [host])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert look("a.name") == ["a.name"]
