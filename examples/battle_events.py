"""The battle's events as classes: what each means, and which fields it has.

    cd examples
    redvsblue-telemetry schema battle_events.py -o battle_events.schema.json
    redvsblue-telemetry schema battle_events.py --format markdown -o battle_events.md
    redvsblue-telemetry collect --schema battle_events.schema.json

The battle's engine emits these events as mappings, since it knows nothing about telemetry; the
schema describes both. `headless.py` emits the last one as an instance.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from redvsblue_telemetry import event_type

Team = Literal["red", "blue"]
Health = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Winner(enum.Enum):
    """How a round ended."""

    RED = "red"
    """The red team has more ships left."""
    BLUE = "blue"
    """The blue team has more ships left."""
    DRAW = "draw"
    """Both have the same number."""


class Event(msgspec.Struct, rename="camel"):
    """Fields are ``ship_id`` in Python, and ``shipId`` on the wire."""


class Place(Event):
    """An event that happens somewhere in the arena."""

    x: float
    """Pixels from the left."""
    y: float
    """Pixels from the top."""


@event_type
class RoundStart(Event):
    """A round begins: all ships are back."""

    round: int
    """Counts from 1."""
    ships_per_team: int


@event_type
class ShipSpawned(Place):
    """A ship enters the arena."""

    ship_id: str
    """Such as `red-3`; the same in each round."""
    team: Team


@event_type
class BulletFired(Place):
    """A ship fires. The most frequent event: keep a share of them with `sample`."""

    ship_id: str
    heading: float
    """The direction, in radians: 0 is right, a quarter turn is down."""


@event_type
class ShipHit(Place):
    """A bullet hits a ship."""

    ship_id: str
    """The ship that was hit."""
    by: str
    """The ship that fired."""
    damage: int
    health: Health
    """What is left after the hit."""


@event_type
class ShipDestroyed(Place):
    """A ship has no health left."""

    ship_id: str
    by: str
    """The ship that fired the last bullet."""
    round: int


class PerTeam(msgspec.Struct):
    """A number for each team."""

    red: int
    blue: int


@event_type
class RoundEnd(Event):
    """A round is over: a team has no ships left, or the time is up."""

    round: int
    winner: Winner
    duration: float
    """Seconds."""
    survivors: PerTeam
    """Ships that are left."""
    scores: PerTeam
    """Rounds won since the game began."""


@event_type
class GameClosed(Event):
    """The player leaves the game."""

    rounds: int
    """Rounds that were begun."""
    scores: PerTeam | None = None
    """Rounds won."""
