"""The battle as a pyglet game would have it: an ``EventDispatcher``. Needs no display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyglet.event import EventDispatcher

from redvsblue_telemetry.cli.demo.battle import BattleEngine


class PygletBattle(EventDispatcher):
    """Forwards the events of ``battle`` through pyglet's own ``dispatch_event``."""

    def __init__(self, battle: BattleEngine) -> None:
        self.battle = battle
        battle.on("telemetry", self._dispatch)

    def update(self, dt: float) -> None:
        """Advance by ``dt`` seconds; ``pyglet.clock`` can call it as it is."""
        self.battle.update(dt)

    def _dispatch(self, event: Mapping[str, Any]) -> None:
        self.dispatch_event("telemetry", event)


PygletBattle.register_event_type("telemetry")
