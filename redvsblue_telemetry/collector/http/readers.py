"""Reads for requests, on threads: each reader ends with its client, or with its time.

There are lanes, each with threads of its own, so that a quick question never waits for a slow one.
A request whose client goes while it waits costs nothing when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from ..storage.cutoff import Cutoff, CutoffError
from ..storage.database import Database

__all__ = ["BusyError", "ClientGoneError", "Lane", "reading_of"]

_MAX_WAIT = 10.0  # seconds until a thread is free
_MAX_SECONDS = 10.0  # of reading, after which it fails
_Found = TypeVar("_Found")
_Connection = TypeVar("_Connection")


class BusyError(Exception):
    """The answer would take too long; the message says why."""


class ClientGoneError(Exception):
    """The client has gone, so nobody waits for the response."""


def reading_of(
    database: Database,
) -> Callable[[Cutoff], AbstractContextManager[sqlite3.Connection]]:
    """Return how a lane reads a database."""

    @contextlib.contextmanager
    def reading(cutoff: Cutoff) -> Iterator[sqlite3.Connection]:
        with database.reading() as connection:
            cutoff.watch(connection)
            try:
                yield connection
            except sqlite3.OperationalError as error:  # an interrupted statement, perhaps
                if cutoff.must_end:
                    raise CutoffError from error
                raise

    return reading


class Lane(Generic[_Connection]):
    """Some threads that read for requests. Its methods are called on the event loop's thread.

    Args:
        reading: called on the event loop's thread. Entered on one of the lane's, it provides a
            connection that can't write, and begins the time of the cutoff that it was given; it
            raises CutoffError if that interrupts a statement.
        name: of its threads.
        threads: how many requests are read for at once; ingest needs the processor, too.
        deadline: seconds after which a search returns what it has found.
        seconds: how long a query may take; by default, as long as most of them.
        too_slow: the error of a query that took too long.
    """

    def __init__(
        self,
        reading: Callable[[Cutoff], AbstractContextManager[_Connection]],
        name: str,
        threads: int,
        deadline: float = math.inf,
        *,
        seconds: float | None = None,
        too_slow: str = "the answer takes too long",
    ) -> None:
        self._reading = reading
        self._seconds = seconds
        self._too_slow = too_slow
        self._threads = ThreadPoolExecutor(threads, f"collector-{name}")
        self._deadline = deadline
        self._cutoffs: set[Cutoff] = set()
        self._is_closed = False

    def prepare(self, work: Callable[[], object]) -> None:
        """Do something on one of the threads before they are needed."""
        self._threads.submit(work)

    async def read(
        self, request: Request, query: Callable[[_Connection, Cutoff], _Found]
    ) -> _Found:
        """Return the result of a query.

        Args:
            request: whose client it is for. Its body is discarded.
            query: called on another thread, with a connection that can't write.

        Raises:
            ClientGoneError: the client disconnected.
            BusyError: no thread was free for long, the query took too long, or all ends.
            DatabaseError, sqlite3.Error, UnreadableError: what is stored can't be read.
        """
        if self._is_closed:
            raise BusyError("closing")
        cutoff = Cutoff(self._deadline, _MAX_SECONDS if self._seconds is None else self._seconds)
        began = cutoff.clock()
        opening = self._reading(cutoff)

        def read() -> _Found:
            if cutoff.is_abandoned:
                raise CutoffError
            if cutoff.clock() - began > _MAX_WAIT:
                raise BusyError("too many searches at once; try again")
            with opening as connection:
                return query(connection, cutoff)

        self._cutoffs.add(cutoff)
        reading = asyncio.get_running_loop().run_in_executor(self._threads, read)
        leaving = asyncio.create_task(_disconnected(request))
        either: set[asyncio.Future[Any]] = {reading, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ClientGoneError
            return reading.result()
        except CutoffError as error:
            reason = "closing" if self._is_closed else self._too_slow
            raise BusyError(reason) from error
        finally:
            cutoff.is_abandoned = True
            self._cutoffs.discard(cutoff)
            leaving.cancel()
            if not reading.cancel():
                with contextlib.suppress(BaseException):
                    reading.exception()  # otherwise asyncio would log one that nobody asked for

    def close(self) -> None:
        """End all readers; the requests are answered with an error."""
        self._is_closed = True
        for cutoff in self._cutoffs:
            cutoff.is_abandoned = True
        self._threads.shutdown(wait=False)


async def _disconnected(request: Request) -> None:
    """Wait until the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
