"""The battle that every example plays: the very engine of ``redvsblue-telemetry demo``.

It is read in ``redvsblue_telemetry/cli/battle.py``, which knows nothing of telemetry. All that
telemetry knows of it is ``on("telemetry", handler)``.
"""

from __future__ import annotations

from redvsblue_telemetry.cli.demo.battle import (
    FULL_HEALTH,
    ROUND_LIMIT,
    SHIP_RADIUS,
    TEAMS,
    BattleEngine,
    Bullet,
    Ship,
    Team,
)

__all__ = [
    "FULL_HEALTH",
    "ROUND_LIMIT",
    "SHIP_RADIUS",
    "TEAMS",
    "BattleEngine",
    "Bullet",
    "Ship",
    "Team",
]
