"""A past of known sessions, which the collector's own writer writes by a clock that is set."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redvsblue_telemetry._report import Reason, Report, State, encode_report
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

__all__ = ["Past", "written"]


class Past:
    """Writes sessions. Set :attr:`now` to the time at which things happen and arrive."""

    def __init__(self, writer: Writer, now: int) -> None:
        self.now = now
        self._writer = writer
        self._seqs: dict[str, int] = {}

    def play(
        self,
        session: str,
        *events: tuple[str, dict[str, Any]],
        version: str = "1.0",
        reason: str | None = Reason.STOPPED,
        seconds: int = 1,
        **context: Any,
    ) -> None:
        """Store events of a session, a type and data each, and the report on how it ended.

        Args:
            session: its id.
            events: the events, in order.
            version: of the game.
            reason: how it ended; None if it hasn't.
            seconds: from one event to the next.
            context: the context of these events.
        """
        first = self._seqs.get(session, 0) + 1
        sent = [
            {"sessionId": session, "seq": first + n, "id": f"{session}-{first + n}", "type": type}
            | {"timestamp": self.now + n * seconds * 1000, "data": data, "version": version}
            | ({"context": context} if context else {})
            for n, (type, data) in enumerate(events)
        ]
        self._seqs[session] = first + len(sent) - 1
        self._writer.store([read_message(json.dumps(sent))])
        if reason is not None:
            end = self.now + max(0, len(sent) - 1) * seconds * 1000
            report = Report(
                session_id=session,
                number=first,
                state=State.ENDED,
                reason=reason,
                started_at=self.now,
                at=end,
                last_seq=self._seqs[session],
                version=version,
            )
            self._writer.store([read_message(encode_report(report).decode())])

    def reject(self, text: str) -> None:
        """Store a message that is not valid."""
        self._writer.store([read_message(text)])


@contextlib.contextmanager
def written(path: Path, now: int) -> Iterator[Past]:
    """Write a past into a new database, which is closed at the end.

    Args:
        path: the file.
        now: the time to begin with, in milliseconds since the epoch.
    """
    database = Database(path)
    with contextlib.closing(database):
        past: Past
        with contextlib.closing(Writer(database, clock=lambda: past.now)) as writer:
            past = Past(writer, now)
            yield past
