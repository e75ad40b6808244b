"""The contexts of events: each distinct one is stored once, with its fields for searching."""

from __future__ import annotations

import sqlite3

import msgspec

from ..models import MAX_CONTEXT_VALUE_LENGTH, context_fields

__all__ = ["Contexts"]

_MAX_BYTES_IN_MEMORY = 4 * 1024 * 1024
_BRACE = b"{"


class Contexts:
    """All contexts; those that were used recently are in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[bytes, int | None] = {}
        self._bytes = 0

    def forget(self) -> None:
        """Forget everything in memory, which may differ from the table."""
        self._keys.clear()
        self._bytes = 0

    def drop(self, text: str) -> None:
        """Forget a context that has been deleted."""
        self._keys.pop(text.encode(), None)

    def key(self, context: msgspec.Raw) -> int | None:
        """Return the key of a context, which is stored if it is new; None if it isn't an object."""
        text = bytes(context)
        try:
            return self._keys[text]
        except KeyError:
            pass
        if self._bytes > _MAX_BYTES_IN_MEMORY:
            self.forget()
        key = self._keys[text] = self._find_or_store(context, text) if text[:1] == _BRACE else None
        self._bytes += len(text)
        return key

    def _find_or_store(self, context: msgspec.Raw, text: bytes) -> int:
        execute = self._connection.execute
        row = execute("SELECT key FROM contexts WHERE text = ?", (text.decode(),)).fetchone()
        if row is not None:
            return int(row[0])
        key = execute("INSERT INTO contexts (text) VALUES (?)", (text.decode(),)).lastrowid or 0
        self._connection.executemany(
            "INSERT INTO context_fields VALUES (?, ?, ?)",
            [
                (name, value, key)
                for name, value in context_fields(context).items()
                if len(value) <= MAX_CONTEXT_VALUE_LENGTH
            ],
        )
        return key
