"""Deletes a session, or all events with a field in their context: the data of a person.

By the rules of the collector: the sessions that are left without an event go, too, with their
reports and numbers, and rejected messages that mention one of them lose their text. After that, no
file of the lake has it. The log of the table never had: it has neither texts nor names of sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.models import Forgotten, context_fields
from ...collector.storage.forgetting import MAX_MENTIONS, mentions
from .rewriting import replace, rewrite, until_nobody_is_faster
from .rows import EVENTS, REJECTED, REPORTS, RUNS
from .table import Table

__all__ = ["Forgetting"]

_Mask = Callable[[pa.Table], Any]
_REASON = "deleted on request"


class Forgetting:
    """Forgets either a session or a field of the context.

    Args:
        session: the id of the session.
        field: the name and the value of the field.
    """

    def __init__(self, session: str | None, field: tuple[str, str] | None) -> None:
        self._session = session
        self._field = field
        self._touched: set[str] = set()
        self._emptied: set[str] = set()
        self._has_it: dict[str | None, bool] = {}  # by context
        self.forgotten = Forgotten(0, 0, 0, session, dict([field] if field else []))
        """What has been deleted by now."""

    def run(self, table: Table, now: int) -> Forgotten:
        """Delete everything, and the files in which it was.

        Args:
            table: its newest version.
            now: in milliseconds since the epoch.

        Raises:
            LakeError: the lake can't be read or written; do it again.
        """
        until_nobody_is_faster(table, lambda: self._delete_events(table))
        until_nobody_is_faster(table, lambda: self._delete_sessions(table))
        if self.forgotten.events or self.forgotten.sessions:
            until_nobody_is_faster(table, lambda: self._blank_rejected(table))
        table.sweep(0)
        self.forgotten.at = now
        return self.forgotten

    def _delete_events(self, table: Table) -> None:
        is_wanted: _Mask = self._has_field if self._session is None else self._is_session
        for file in table.files(EVENTS):
            rows = table.read([file], ["session", "context"])
            chosen = rows.filter(is_wanted(rows))
            if not chosen.num_rows:
                continue
            new = rewrite(table, file, lambda batch: batch.filter(pc.invert(is_wanted(batch))))
            replace(table, [file], [] if new is None else [new])
            self.forgotten.events += chosen.num_rows
            self._touched |= set(chosen["session"].unique().to_pylist())

    def _is_session(self, rows: pa.Table) -> Any:
        return pc.equal(rows["session"], self._session)

    def _has_field(self, rows: pa.Table) -> Any:
        contexts = rows["context"].unique().to_pylist()
        for each in contexts:
            if each not in self._has_it:
                self._has_it[each] = each is not None and self._is_field_of(each)
        chosen = [each for each in contexts if self._has_it[each]]
        return pc.is_in(rows["context"], pa.array(chosen, pa.string()))

    def _is_field_of(self, context: str) -> bool:
        assert self._field is not None
        name, value = self._field
        return context_fields(msgspec.Raw(context.encode())).get(name) == value

    def _delete_sessions(self, table: Table) -> None:
        """Delete what is left of the sessions that have no event any more.

        One that got others meanwhile keeps its numbers: without them, these would be stored twice.
        """
        wanted = self._touched if self._session is None else {self._session}
        emptied = wanted - _sessions_in(table, EVENTS, wanted)
        known = _sessions_in(table, RUNS, emptied) | _sessions_in(table, REPORTS, emptied)
        known |= emptied & self._touched
        self._emptied |= known
        self.forgotten.sessions = len(self._emptied)
        names = pa.array(known, pa.string())
        for file in [*table.files(RUNS), *table.files(REPORTS)]:
            rows = table.read([file], ["session"], pc.field("session").isin(names))
            if rows.num_rows:
                new = rewrite(
                    table,
                    file,
                    lambda batch: batch.filter(pc.invert(pc.is_in(batch["session"], names))),
                )
                replace(table, [file], [] if new is None else [new])

    def _blank_rejected(self, table: Table) -> None:
        wanted = mentions(sorted(self._emptied)[:MAX_MENTIONS], self._field)
        texts = [each.decode() for each in wanted]
        for file in table.files(REJECTED):
            found = 0

            def change(batch: pa.Table) -> pa.Table:
                nonlocal found
                data = batch["data"].to_pylist()
                places = {
                    place
                    for place, text in enumerate(data)
                    if text and any(each in text for each in texts)
                }
                found += len(places)
                fault = batch["fault"].to_pylist()
                changed = {
                    "data": ["" if place in places else text for place, text in enumerate(data)],
                    "fault": [_REASON if n in places else text for n, text in enumerate(fault)],
                }
                return _with_columns(batch, changed)

            for batch in table.batches(file):
                change(batch)
            if found:
                found = 0
                new = rewrite(table, file, change)
                replace(table, [file], [] if new is None else [new])
                self.forgotten.rejected += found


def _sessions_in(table: Table, kind: str, wanted: Iterable[str]) -> set[str]:
    """Return which of the sessions have a row of a kind."""
    names = pa.array(sorted(wanted), pa.string())
    found: set[str] = set()
    if len(names):
        for file in table.files(kind):
            rows = table.read([file], ["session"], pc.field("session").isin(names))
            found |= set(rows["session"].to_pylist())
    return found


def _with_columns(rows: pa.Table, columns: dict[str, list[Any]]) -> pa.Table:
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, pa.string()))
    return rows
