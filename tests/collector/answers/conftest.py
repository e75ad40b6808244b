"""A database to ask, for the tests of the answers; each runs with both back ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.collector.answers.asking import ask
from redvsblue_telemetry.collector.answers.backend import Backend
from redvsblue_telemetry.collector.answers.questions import Question
from redvsblue_telemetry.collector.answers.rows import Rows
from redvsblue_telemetry.collector.answers.vectors import Vectors
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

BACKENDS: list[type[Backend]] = [Rows, Vectors]


class Asked:
    """A database with events, and a back end that answers questions about them."""

    def __init__(self, path: Path, backend: type[Backend]) -> None:
        self.database = Database(path)
        self.writer = Writer(self.database)
        self.backend = backend
        self._seqs: dict[str, int] = {}

    def close(self) -> None:
        self.writer.close()
        self.database.close()

    def store(
        self,
        type: str,
        data: dict[str, Any] | str | None = None,
        *,
        session: str = "s",
        received: int | None = None,
        **fields: Any,
    ) -> None:
        """Store one event; data that is a text goes as it is."""
        seq = self._seqs[session] = self._seqs.get(session, 0) + 1
        whole = {"sessionId": session, "seq": seq, "type": type, "timestamp": 1000 + seq, **fields}
        whole |= {"id": f"{session}-{seq}", "data": {}}
        text = data if isinstance(data, str) else json.dumps(data or {})
        message = json.dumps(whole).replace('"data": {}', f'"data": {text}')
        self.writer.store([read_message(f"[{message}]")])
        if received is not None:
            with self.database.connect() as connection:
                connection.execute(
                    "UPDATE events SET received = ? "
                    "WHERE arrival = (SELECT max(arrival) FROM events)",
                    (received,),
                )

    def store_all(self, type: str, data: list[dict[str, Any]]) -> None:
        """Store many events at once."""
        before = self._seqs.get("s", 0)
        self._seqs["s"] = before + len(data)
        events = [
            {"sessionId": "s", "seq": seq, "type": type, "timestamp": 1000, "data": each}
            for seq, each in enumerate(data, start=before + 1)
        ]
        self.writer.store([read_message(json.dumps([e | {"id": str(e["seq"])} for e in events]))])

    def end(self, session: str, reason: str) -> None:
        """Store the report that a session has ended."""
        report = {
            "sessionId": session,
            "number": 1,
            "state": "ended",
            "reason": reason,
            "startedAt": 1000,
            "at": 2000,
            "lastSeq": self._seqs[session],
        }
        self.writer.store([read_message(json.dumps({"report": report}))])

    def ask(self, question: Question, **options: Any) -> Any:
        """Return the answer as the API gives it."""
        with self.database.reading() as connection:
            answer = ask(connection, question, backend=self.backend, **options)
        return msgspec.json.decode(msgspec.json.encode(answer))


@pytest.fixture(params=BACKENDS, ids=["rows", "vectors"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path / "telemetry.sqlite3", request.param)
    yield asked
    asked.close()
