"""Answers questions about a lake; the catalog knows its sessions and types."""

from __future__ import annotations

from ...collector.storage.upkeep import epoch_milliseconds
from ..lake.answers import LakeVectors
from .figures import outcome_of

__all__ = ["CatalogVectors"]


class CatalogVectors(LakeVectors):
    """See :class:`.LakeVectors`; the connection of its reading is one to the catalog."""

    def sessions(self, chosen: str = "true") -> str:
        """See :meth:`.LakeVectors.sessions`."""
        now = epoch_milliseconds() if self.now is None else self.now
        return f"SELECT *, {outcome_of(now)} AS outcome FROM sessions WHERE {chosen}"

    def type_names(self) -> list[str]:
        """See :meth:`.Backend.type_names`."""
        rows = self.run("SELECT type FROM counts GROUP BY type ORDER BY sum(events) DESC, type")
        return [name for (name,) in rows]
