"""Made events in their own database, for tests that compare the answers with a reference."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from redvsblue_telemetry.collector.answers.asking import ask
from redvsblue_telemetry.collector.answers.backend import Backend
from redvsblue_telemetry.collector.answers.questions import Question, QuestionError
from redvsblue_telemetry.collector.answers.rows import Rows
from redvsblue_telemetry.collector.answers.vectors import Vectors
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Check, Writer

BACKENDS: list[type[Backend]] = [Rows, Vectors]


class Played(msgspec.Struct, frozen=True):
    """An event, in the order of arrival."""

    session: str
    seq: int
    type: str
    timestamp: int
    received: int
    context: dict[str, Any] | None = None
    data: dict[str, Any] = {}
    version: str | None = None

    @property
    def message(self) -> str:
        whole: dict[str, Any] = {
            "sessionId": self.session,
            "seq": self.seq,
            "type": self.type,
            "timestamp": self.timestamp,
            "id": f"{self.session}-{self.seq}",
            "data": self.data,
        }
        if self.version is not None:
            whole["version"] = self.version
        if self.context is not None:
            whole["context"] = self.context
        return f"[{json.dumps(whole)}]"


@contextlib.contextmanager
def database_of(
    events: Sequence[Played], reports: Sequence[str] = (), check: Check | None = None
) -> Iterator[Database]:
    """Yield a database in which the events have arrived, each at its time, and then the reports."""
    with contextlib.ExitStack() as opened:
        database = Database(None)
        opened.callback(database.close)
        now = 0
        writer = Writer(database, check, clock=lambda: now)
        opened.callback(writer.close)
        for event in events:
            now = event.received
            writer.store([read_message(event.message)])
        writer.store([read_message(text) for text in reports])
        yield database


def answers(database: Database, question: Question, **options: Any) -> list[Any]:
    """Return what each back end answers, as the API gives it, or the message of its error."""
    found = []
    for backend in BACKENDS:
        try:
            with database.reading() as connection:
                answer = ask(connection, question, backend=backend, **options)
        except QuestionError as error:
            found.append(str(error))
        else:
            found.append(msgspec.json.decode(msgspec.json.encode(answer)))
    return found
