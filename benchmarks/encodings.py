"""What the measurements of compression share: the encodings, and events to compress.

The events are those of the demo's battle: values that vary as a game's do. Equal events, or random
ones, would compress too well, or not at all.
"""

from __future__ import annotations

import sys
from typing import Any

from redvsblue_telemetry._compression import DEFLATE, ZSTD, supported
from redvsblue_telemetry.cli.demo.battle import BattleEngine

__all__ = ["ENCODINGS", "FPS", "SEED", "TEXT", "available", "battle_events", "offer_only"]

TEXT = "text"
"""No encoding."""
ENCODINGS = (TEXT, DEFLATE, ZSTD)
FPS = 60
SEED = 7


def available() -> tuple[str, ...]:
    """Return the encodings that this Python has, and text."""
    known = supported()
    return tuple(encoding for encoding in ENCODINGS if encoding == TEXT or encoding in known)


def offer_only(encoding: str) -> dict[str, Any]:
    """Have the clients of this process offer one encoding; return the setting that they need.

    Without Zstandard a client offers ``deflate`` alone, so here its package can't be found.
    """
    if encoding == DEFLATE:
        sys.modules["backports.zstd"] = sys.modules["compression.zstd"] = None  # type: ignore[assignment]
    return {"compression": "none" if encoding == TEXT else "auto"}


def battle_events(count: int) -> list[tuple[str, Any]]:
    """Return the types and data of the battle's first events, without waiting for its frames."""
    events: list[tuple[str, Any]] = []
    engine = BattleEngine(seed=SEED)
    engine.on("telemetry", lambda event: events.append((event["type"], event["data"])))
    while len(events) < count:
        engine.update(1 / FPS)
    return events[:count]
