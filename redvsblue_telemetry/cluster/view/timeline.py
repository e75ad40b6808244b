"""One session of a lake as a timeline; its definition is a collector's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...collector.answers.questions import Timeline
from ...collector.answers.timeline import AT, timeline_of
from ...collector.storage.cutoff import NEVER, Cutoff
from ..lake.batches import spans
from ..lake.reading import Reading
from ..lake.table import DataFile
from .figures import files_with, session_without_types

__all__ = ["timeline"]

_MIN_ROWS = 1_000_000  # of files that are looked at in one window

_COUNTS = "SELECT type, moment / ? AS step, count(*) FROM session_events GROUP BY 1, 2"
# Nothing is a context before the first event, so that its own differs.
_NOTABLE = """
SELECT arrival, seq, moment, type = 'crash', context IS DISTINCT FROM earlier, context,
    type || ': ' || fault, data
FROM (
    SELECT *, lag(context, 1, '') OVER (ORDER BY arrival) AS earlier FROM session_events
) AS found
WHERE (? AND context IS DISTINCT FROM earlier) OR (? AND fault IS NOT NULL) OR type = 'crash'
    OR list_contains(CAST(? AS BIGINT[]), seq)
ORDER BY arrival
"""


def timeline(
    reading: Reading, session_id: str, *, now: int | None = None, cutoff: Cutoff = NEVER
) -> Timeline | None:
    """Return the timeline of a session; see :func:`....collector.answers.timeline.timeline`."""
    session = session_without_types(reading, session_id, now=now)
    if session is None:
        return None
    files = files_with(reading, session)
    return timeline_of(session, _Events(reading, session_id, files, cutoff), cutoff)


class _Events:
    """See :class:`....collector.answers.timeline.SessionEvents`."""

    def __init__(
        self, reading: Reading, session_id: str, files: Sequence[DataFile], cutoff: Cutoff
    ) -> None:
        self._reading = reading
        self._session_id = session_id
        self._files = files
        self._cutoff = cutoff

    def windows(self) -> Iterator[bool]:
        windows = list(spans(self._files, _MIN_ROWS))
        for place, (first, last, files) in enumerate(windows, 1):
            self._cutoff.check()
            self._reading.define("stored_events", files)
            self._reading.run(
                f"CREATE OR REPLACE TEMP TABLE session_events AS SELECT arrival, seq, type, "
                f"{AT} AS moment, context, fault, CASE WHEN type = 'crash' THEN data END AS data "
                "FROM stored_events WHERE session = ? AND arrival BETWEEN ? AND ?",
                self._session_id,
                first,
                last,
            )
            yield place == len(windows)

    def counts(self, length: int) -> Iterable[tuple[str, int, int]]:
        return self._reading.run(_COUNTS, length)

    def notable(
        self, *, contexts: bool, faults: bool, seqs: Sequence[int]
    ) -> Iterable[tuple[Any, ...]]:
        return self._reading.run(_NOTABLE, contexts, faults, list(seqs))
