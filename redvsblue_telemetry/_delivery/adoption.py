"""Takes over the events of earlier runs that did not end well.

Theory of operation
-------------------

The journal's directory has a directory for each run. At the start, the worker goes through those
of dead runs, oldest first. It reads a batch at a time, and only when this run has nothing to send,
and it has few such batches in flight: so a new event never waits behind more than those. How many
bytes these may have depends on how fast the link is, so that this is never long: see
:class:`LoadLimit`.

An event keeps the session, the number, the id and the time that it had: it is completed by a codec
for its run. Once all events of a run are settled, the run is reported, if the server takes reports:
how it ended, and which of its events will not come (see :mod:`.closing`). Once that report is
confirmed, the run is deleted. What is not settled at a stop, or when
this process is killed in turn, is left to the next start. So that its report is as true as this
one would have been, a report is saved with the run before its files forget an event that was
dropped here, and before they forget the last one.

The player may say no at any time, and the files have to be gone at once, also while the worker is
busy elsewhere. So :meth:`Adoption.erase` is for any thread. It sets a flag first and then deletes
the runs that are open, while the worker first notes a run as open and then looks at the flag: so
one of the two sees it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING

import msgspec

from .._recording.codec import EncodedEvent, EventCodec
from .._recording.ledger import DropReason, Ledger
from .._report import Report, State
from .._shared import counted, monotonic
from .closing import ClosingReport
from .log import log_safely
from .settlement import Settlement

if TYPE_CHECKING:
    from .._journal.dead import DeadRun
    from .._journal.layout import Header

__all__ = ["Adoption", "LoadLimit"]

FindRuns = Callable[[], "Iterator[DeadRun]"]

_MAX_BATCHES = 32  # in flight
_MAX_FINISHED = 8  # runs of which only the report is not confirmed
_FIRST_BYTES = 16 * 1024  # in flight
_MIN_BYTES = 4 * 1024
_MAX_BYTES = 256 * 1024
_QUICK = 0.25  # seconds from the load to the arrival
_SLOW = 0.5
_NANOSECONDS = 1_000_000_000
_NANOSECONDS_PER_MILLISECOND = 1_000_000


class LoadLimit:
    """How much may be in flight: as much as the link takes in a moment.

    It doubles after a quick arrival, and halves after a slow one. One load is always allowed.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = _FIRST_BYTES
        self._batches = self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether something may be loaded."""
        if not self._batches:
            return True
        return self._batches < _MAX_BATCHES and self._bytes < self._limit

    def load(self, size: int) -> Callable[[], None]:
        """Note a load of some bytes; return a function to be called once it has arrived."""
        self._batches += 1
        self._bytes += size
        # A few bytes are quick on any link, and prove nothing.
        is_telling = self._bytes >= self._limit // 2
        return functools.partial(self._arrive, size, self._clock(), is_telling)

    def _arrive(self, size: int, loaded_at: float, is_telling: bool) -> None:
        self._batches -= 1
        self._bytes -= size
        took = self._clock() - loaded_at
        if took > _SLOW:
            self._limit = max(self._limit // 2, _MIN_BYTES)
        elif took <= _QUICK and is_telling:
            self._limit = min(self._limit * 2, _MAX_BYTES)


class _Adopted:
    """A dead run that is being taken over."""

    def __init__(self, run: DeadRun, max_event_bytes: int, most_report_bytes: int) -> None:
        self.run = run
        self.closing = ClosingReport(
            run.report or _first_report(run.header),
            is_lost=run.is_report_lost,
            confirmed=run.confirmed,
            first=run.first,
            last=run.last,
            most_bytes=most_report_bytes,
        )
        self.report: bytes | None = None
        """Its last report, once all of its events are settled, if it is to be reported."""
        self.is_offered = False  # whether the report was handed out, for this connection
        self.confirm_report: Callable[[], None] | None = None
        self.codec = EventCodec(run.header.session_id, run.header.version, max_event_bytes)
        self.codec.begin(run.header.session_id, run.header.run)
        self.began_at = run.header.started_at * _NANOSECONDS_PER_MILLISECOND
        self.taken = 0  # the number of the last event that was taken
        self.settled = 0
        self.is_read = False

    @property
    def is_finished(self) -> bool:
        return self.is_read and self.settled >= self.taken

    def is_forgotten(self, oldest: int) -> bool:
        """Whether only a report is left, and it is from before a time in nanoseconds."""
        report = self.run.report
        if self.run.first is not None or report is None:
            return False
        return report.at * _NANOSECONDS_PER_MILLISECOND < oldest

    def is_expired(self, event: EncodedEvent, oldest: int) -> bool:
        # A timestamp is not always the time of the emission: the game may have given it, such as
        # that of a replay. But no event is older than its run.
        return max(event.time, self.began_at) < oldest


def _first_report(header: Header) -> Report:
    """Return the report of a run that has saved none, as if it had at its beginning."""
    return Report(
        session_id=header.session_id,
        number=0,
        state=State.RUNNING,
        started_at=header.started_at,
        at=header.started_at,
        version=header.version or msgspec.UNSET,
    )


class Adoption:
    """Takes over dead runs. Used by the worker thread only, but for :meth:`erase`.

    Args:
        find: returns the dead runs, oldest first; each is locked as it is returned.
        closed: returns another number each time that this process has closed a journal.
        ledger: counts the events.
        settlement: notifies this when events are settled.
        max_event_bytes: for events that ``before_send`` changes.
        max_age: seconds after which an event is dropped.
        most_report_bytes: of one report. Beyond it, the oldest gaps are left out.
        reports: whether the runs are to be reported, if the server takes reports.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        find: FindRuns | None,
        closed: Callable[[], int] = int,
        *,
        ledger: Ledger,
        settlement: Settlement,
        max_event_bytes: int,
        max_age: float,
        most_report_bytes: int,
        reports: bool = True,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._find = find
        self._closed = closed
        self._closed_before = 0  # when it last began to look for runs
        self._is_at_end = False  # whether it has looked at all of them
        self._runs: Iterator[DeadRun] | None = None
        self._ledger = ledger
        self._settlement = settlement
        self._max_event_bytes = max_event_bytes
        self._most_report_bytes = most_report_bytes
        self._takes_reports: bool | None = None if reports else False
        self._max_age = int(max_age) * _NANOSECONDS + int(max_age % 1 * _NANOSECONDS)
        self._open: list[_Adopted] = []
        self._taken_from: _Adopted | None = None
        self._is_over = find is None
        self._limit = LoadLimit(clock)
        self._recovered = self._adopted = self._torn = 0
        self._directory: Path | None = None  # of all these runs

    @property
    def is_done(self) -> bool:
        """Whether no run is left to be read, and nothing of one is in flight."""
        return (self._is_over or self._is_at_end) and not self._open

    @property
    def _may_find(self) -> bool:
        """Whether there may be a run that it has not looked at."""
        # A client that was stopped a moment ago may close its run after this one has begun to look.
        has_new = self._closed() != self._closed_before
        return not self._is_over and (has_new or not self._is_at_end)

    @property
    def may_load(self) -> bool:
        """Whether :meth:`take` may be called now."""
        is_left = not all(each.is_read for each in tuple(self._open))
        return self._limit.has_room and (is_left or (self._may_open and self._may_find))

    def look(self) -> None:
        """Find out whether there is a dead run."""
        if self._may_find and not self._open:
            self._next()

    def take(self, limit: int) -> tuple[EventCodec, list[tuple[EncodedEvent, int]]] | None:
        """Take events of a dead run, with their codec and their numbers; None if none is left.

        The list may be empty. Call :meth:`note_load` once they are in the window.
        """
        self._taken_from = None
        adopted = self._current()
        if adopted is None:
            return None
        taken = adopted.run.take(limit)
        if not taken:
            self._end_reading(adopted)
            return adopted.codec, []
        self._taken_from = adopted
        adopted.taken = taken[-1][1]
        adopted.closing.see(taken)
        self._recovered += len(taken)
        self._ledger.recover(len(taken))
        oldest = time_ns() - self._max_age
        fresh = taken
        if adopted.began_at < oldest:  # no event is older than its run
            fresh = [each for each in taken if not adopted.is_expired(each[0], oldest)]
        if len(fresh) < len(taken):
            self._ledger.drop(len(taken) - len(fresh), DropReason.EXPIRED)
            sent = {number for _, number in fresh}
            expired = [number for _, number in taken if number not in sent]
            adopted.closing.drop(expired, DropReason.EXPIRED.value)
        return adopted.codec, fresh

    def note_load(self, size: int) -> None:
        """Note that the events that were taken last are in the window, with their bytes."""
        if (adopted := self._taken_from) is None:
            return
        self._settlement.note_arrival(self._limit.load(size))
        confirm = functools.partial(self._settle, adopted)
        self._settlement.note_load(adopted.taken, confirm, is_own=False)
        if adopted.run.is_taken:
            self._end_reading(adopted)

    def _settle(self, adopted: _Adopted, number: int) -> None:
        adopted.settled = number
        self._finish(adopted)
        if adopted in self._open and self._is_saved(adopted):
            adopted.run.confirm(number)

    def free(self, wanted: int) -> int:
        """Drop the oldest events to free some bytes on disk; return how many were freed."""
        freed = 0
        while freed < wanted:
            if (adopted := self._current()) is None:
                finished = next((each for each in tuple(self._open) if each.is_finished), None)
                if self._is_over or finished is None:
                    break
                self._delete(finished)  # its report is in the way of the runs behind it
                continue
            run, before = adopted.run, adopted.run.size
            number, expired = run.skip_oldest_segment()
            self._ledger.recover(expired)
            self._ledger.drop(expired, DropReason.EXPIRED)
            adopted.closing.skip(number)
            if adopted.settled < adopted.taken:
                # The files forget the events that are on their way, too. If this process is killed
                # now, these are lost.
                run.save_report(adopted.closing.interim((adopted.settled + 1, adopted.taken)))
            else:
                self._is_saved(adopted)
            run.confirm(number)
            freed += before - run.size
            if run.first is None:  # the report itself takes the space
                freed += before
                self._delete(adopted)
            elif run.is_taken or run.size == before:
                self._end_reading(adopted)
        return freed

    def _current(self) -> _Adopted | None:
        """Return the run to read from; None if none is left, or too many wait for their reports."""
        return next((each for each in self._open if not each.is_read), None) or self._next()

    def _end_reading(self, adopted: _Adopted) -> None:
        adopted.is_read = True
        adopted.closing.see_end()
        self._torn += adopted.run.torn
        self._finish(adopted)

    def _next(self) -> _Adopted | None:
        """Return the next run, and note it as open; None if there is none."""
        while self._may_find and self._may_open:
            if self._runs is None:
                assert self._find is not None
                self._is_at_end = False
                self._closed_before = self._closed()
                self._runs = self._find()
            run = next(self._runs, None)
            if run is None:
                self._end()
                break
            adopted = _Adopted(run, self._max_event_bytes, self._most_report_bytes)
            self._open.append(adopted)
            if self._is_over or adopted.is_forgotten(time_ns() - self._max_age):
                self._delete(adopted)  # erased meanwhile: see above
                continue
            self._adopted += 1
            self._directory = run.path.parent
            return adopted
        return None

    @property
    def _may_open(self) -> bool:
        """Whether another run may be opened: each has a lock, which is an open file."""
        return sum(each.is_finished for each in tuple(self._open)) < _MAX_FINISHED

    def _finish(self, adopted: _Adopted) -> None:
        """Report a run if all of its events are settled, or delete it.

        Files that could not be read are left to the next start.
        """
        if not adopted.is_finished or adopted.report is not None:
            return
        if adopted.run.has_unreadable:
            self._is_saved(adopted)
            if self._close(adopted):
                adopted.run.release()
        elif self._takes_reports is False:
            self._delete(adopted)
        else:
            adopted.report = adopted.closing.final(time_ns() // _NANOSECONDS_PER_MILLISECOND)
            adopted.closing.is_saved = False
            self._is_saved(adopted)
        self._log_end()

    def _is_saved(self, adopted: _Adopted) -> bool:
        """Save what the files are about to forget; return whether it is saved."""
        closing = adopted.closing
        if not closing.is_saved:
            closing.is_saved = adopted.run.save_report(adopted.report or closing.interim())
        return closing.is_saved

    # Reports.

    @property
    def takes_reports(self) -> bool | None:
        """Whether the server takes reports; None as long as that is not known.

        Set it for each connection. Reports that an earlier one had not confirmed are handed out
        again.
        """
        return self._takes_reports

    @takes_reports.setter
    def takes_reports(self, takes_reports: bool | None) -> None:
        self._takes_reports = takes_reports
        for adopted in tuple(self._open):
            adopted.is_offered = False
            if takes_reports is False and adopted.report is not None:
                self._delete(adopted)
        self._log_end()

    @property
    def has_report(self) -> bool:
        """Whether there is a report to be sent."""
        return self._takes_reports is True and self._next_reported is not None

    def next_report(self) -> tuple[bytes, Callable[[], None]] | None:
        """Return a report, and the function to be called once it is confirmed; None if none waits.

        It is handed out once for each connection. The function is the same each time.
        """
        adopted = self._next_reported if self._takes_reports else None
        if adopted is None or adopted.report is None:
            return None
        adopted.is_offered = True
        if adopted.confirm_report is None:
            adopted.confirm_report = functools.partial(self._end_report, adopted)
        return adopted.report, adopted.confirm_report

    @property
    def _next_reported(self) -> _Adopted | None:
        waiting = (each for each in tuple(self._open) if each.report is not None)
        return next((each for each in waiting if not each.is_offered), None)

    def _end_report(self, adopted: _Adopted) -> None:
        self._delete(adopted)
        self._log_end()

    def note_gap(self, codec: EventCodec, number: int, reason: str) -> None:
        """Note that an event which :meth:`take` has returned will not come.

        Args:
            codec: the one that came with it.
            number: of the event.
            reason: for the report of its run.
        """
        for adopted in tuple(self._open):
            if adopted.codec is codec:
                adopted.closing.drop((number,), reason)

    def _delete(self, adopted: _Adopted) -> None:
        if self._close(adopted):
            adopted.run.delete()

    def _close(self, adopted: _Adopted) -> bool:
        """Note a run as no longer open; return whether it was, and no other thread was faster."""
        try:
            self._open.remove(adopted)
        except ValueError:
            return False
        return True

    def _end(self) -> None:
        """Note that no run is left to be read."""
        self._is_at_end = True
        self._runs = None
        self._log_end()

    def _log_end(self) -> None:
        if not self.is_done or not self._adopted:
            return
        log_safely(
            logging.INFO,
            "telemetry recovered %s of %s",
            counted(self._recovered, "event"),
            counted(self._adopted, "earlier run"),
        )
        if self._torn:
            log_safely(
                logging.WARNING,
                "%s in the telemetry's journal %s could not be recovered",
                counted(self._torn, "damaged record"),
                self._directory,
            )
        self._adopted = self._recovered = self._torn = 0

    def release(self) -> None:
        """Leave what is not settled to the next start."""
        self._is_over = True
        for adopted in tuple(self._open):
            if self._close(adopted):
                adopted.run.release()
        self._log_end()

    # For any thread.

    def erase(self) -> None:
        """Delete the runs that are open, and open no more."""
        self._is_over = True
        for adopted in tuple(self._open):
            self._delete(adopted)
