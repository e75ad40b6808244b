"""A small Red vs Blue battle: headless, and the same every time for the same seed.

The engine owns the rules and reports events through ``on("telemetry", handler)``. It knows nothing
about its listeners: each handler gets one mapping, such as
``{"type": "ship_hit", "data": {"shipId": "red-3", "by": "blue-1", "damage": 12, "health": 63}}``.

Points and velocities are complex numbers, Python's built-in two-dimensional vectors: the real part
grows to the right, the imaginary part downward, both in pixels.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Team = Literal["red", "blue"]
Handler = Callable[[Mapping[str, Any]], object]

TEAMS: tuple[Team, Team] = ("red", "blue")

# Lengths are in pixels, times in seconds, angles in radians.
SHIP_RADIUS = 11.0
FULL_HEALTH = 100
TOP_SPEED = 170.0
THRUST = 420.0
TURN_RATE = 4.5
COMFORTABLE_DISTANCE = 210.0
ELBOW_ROOM = 46.0

BULLET_SPEED = 460.0
BULLET_LIFETIME = 1.0
FIRING_RANGE = 400.0
FIRING_CONE = 0.16
FIRING_INTERVAL = 0.07
AIM_SPREAD = 0.075
EVASION_RADIUS = 80.0
DAMAGE = (4, 9)

ROUND_LIMIT = 30.0
REST_BETWEEN_ROUNDS = 1.2
# A bullet covers less than a ship's diameter in one step, so that none can jump over a ship.
LONGEST_STEP = 1 / 30


@dataclass(slots=True, eq=False)
class Ship:
    """One ship that is still flying."""

    id: str
    team: Team
    position: complex
    heading: float
    """The direction of the nose, in radians: 0 is right, a quarter turn is down."""
    orbit: float
    """The direction in which it circles its enemy: 1.0 or -1.0."""
    velocity: complex = 0j
    health: int = FULL_HEALTH
    cooldown: float = 0.0
    """Seconds until it can fire again."""


@dataclass(slots=True, eq=False)
class Bullet:
    """One bullet in the air. It outlives the ship that fired it."""

    shooter: Ship
    position: complex
    velocity: complex
    time_left: float = BULLET_LIFETIME


class BattleEngine:
    """Two teams that fight round after round.

    The first round starts with the first :meth:`update`, so a handler that is registered before
    it gets every event.
    """

    def __init__(
        self, seed: int = 7, ships_per_team: int = 8, arena: tuple[int, int] = (1280, 720)
    ) -> None:
        self.arena = arena
        self.ships_per_team = ships_per_team
        self.ships: list[Ship] = []
        self.bullets: list[Bullet] = []
        self.round = 0
        self.scores: dict[Team, int] = {"red": 0, "blue": 0}
        """Rounds won. A draw counts for neither."""
        self._handlers: dict[str, list[Handler]] = {}
        self._dice = Random(seed)
        self._clock = 0.0
        self._resting = False

    def on(self, event: str, handler: Handler) -> None:
        """Call ``handler`` with each event from now on. The one event name is ``"telemetry"``."""
        self._handlers.setdefault(event, []).append(handler)

    def off(self, event: str, handler: Handler) -> None:
        """Stop calling ``handler``. It need not be registered."""
        self._handlers[event] = [kept for kept in self._handlers.get(event, []) if kept != handler]

    def update(self, dt: float) -> None:
        """Advance the battle by ``dt`` seconds."""
        steps = max(1, math.ceil(dt / LONGEST_STEP))
        for _ in range(steps):
            self._step(dt / steps)

    def survivors(self, team: Team) -> int:
        """Return how many ships of ``team`` are still flying."""
        return sum(ship.team == team for ship in self.ships)

    def _step(self, dt: float) -> None:
        self._clock += dt
        if self.round == 0 or (self._resting and self._clock >= REST_BETWEEN_ROUNDS):
            self._start_round()
        for ship in self.ships:
            self._fly(ship, dt)
        self._move_bullets(dt)
        if not self._resting:
            self._end_round_if_decided()

    def _start_round(self) -> None:
        self.round += 1
        self._clock = 0.0
        self._resting = False
        self._emit("round_start", {"round": self.round, "shipsPerTeam": self.ships_per_team})
        self.ships = []
        for number in range(1, self.ships_per_team + 1):
            for team in TEAMS:
                self._spawn(team, number)

    def _spawn(self, team: Team, number: int) -> None:
        width, height = self.arena
        column = self._dice.uniform(0.08, 0.28)
        row = (number - self._dice.uniform(0.25, 0.75)) / self.ships_per_team
        ship = Ship(
            id=f"{team}-{number}",
            team=team,
            position=complex(width * (column if team == "red" else 1 - column), height * row),
            heading=0.0 if team == "red" else math.pi,
            orbit=self._dice.choice((-1.0, 1.0)),
            cooldown=self._dice.uniform(0.0, FIRING_INTERVAL),
        )
        self.ships.append(ship)
        self._emit("ship_spawned", {"shipId": ship.id, "team": team, **_at(ship.position)})

    def _end_round_if_decided(self) -> None:
        survivors = {team: self.survivors(team) for team in TEAMS}
        red, blue = survivors["red"], survivors["blue"]
        if red and blue and self._clock < ROUND_LIMIT:
            return
        winner: Team | None = None
        if red != blue:
            winner = "red" if red > blue else "blue"
            self.scores[winner] += 1
        outcome = {
            "round": self.round,
            "winner": winner or "draw",
            "duration": round(self._clock, 2),
            "survivors": survivors,
            "scores": dict(self.scores),
        }
        self._emit("round_end", outcome)
        self.bullets = []
        self._clock = 0.0
        self._resting = True

    def _fly(self, ship: Ship, dt: float) -> None:
        wish = self._pull_to_the_middle(ship) + self._push_from_friends(ship)
        target = self._nearest_enemy(ship)
        if target is not None:
            wish += 0.8 * _pursuit(ship, target) + self._evasion(ship)
            self._aim_and_fire(ship, target, dt)
        ship.velocity = _limited(ship.velocity + THRUST * dt * _limited(wish, 1.0), TOP_SPEED)
        ship.position = self._inside(ship.position + ship.velocity * dt)

    def _aim_and_fire(self, ship: Ship, target: Ship, dt: float) -> None:
        flight_time = abs(target.position - ship.position) / BULLET_SPEED
        aim = target.position + target.velocity * flight_time - ship.position
        error = _angle_between(ship.heading, cmath.phase(aim))
        ship.heading += max(-TURN_RATE * dt, min(TURN_RATE * dt, error))
        ship.cooldown -= dt
        if ship.cooldown <= 0.0 and abs(error) < FIRING_CONE and abs(aim) < FIRING_RANGE:
            ship.cooldown = FIRING_INTERVAL * self._dice.uniform(0.8, 1.6)
            self._fire(ship)

    def _fire(self, ship: Ship) -> None:
        direction = cmath.rect(1.0, ship.heading + self._dice.gauss(0.0, AIM_SPREAD))
        muzzle = ship.position + direction * SHIP_RADIUS
        self.bullets.append(Bullet(ship, muzzle, direction * BULLET_SPEED))
        heading = round(cmath.phase(direction), 2)
        self._emit("bullet_fired", {"shipId": ship.id, **_at(muzzle), "heading": heading})

    def _move_bullets(self, dt: float) -> None:
        in_the_air = []
        for bullet in self.bullets:
            bullet.position += bullet.velocity * dt
            bullet.time_left -= dt
            struck = self._ship_struck_by(bullet)
            if struck is not None:
                self._hit(struck, bullet.shooter)
            elif bullet.time_left > 0.0 and self._inside(bullet.position) == bullet.position:
                in_the_air.append(bullet)
        self.bullets = in_the_air

    def _ship_struck_by(self, bullet: Bullet) -> Ship | None:
        for ship in self.ships:
            if (
                abs(ship.position - bullet.position) < SHIP_RADIUS
                and ship.team != bullet.shooter.team
            ):
                return ship
        return None

    def _hit(self, ship: Ship, shooter: Ship) -> None:
        damage = min(ship.health, self._dice.randint(*DAMAGE))
        ship.health -= damage
        wound = {"shipId": ship.id, "by": shooter.id, "damage": damage, "health": ship.health}
        self._emit("ship_hit", {**wound, **_at(ship.position)})
        if ship.health == 0:
            self.ships.remove(ship)
            loss = {"shipId": ship.id, "by": shooter.id, "round": self.round}
            self._emit("ship_destroyed", {**loss, **_at(ship.position)})

    def _nearest_enemy(self, ship: Ship) -> Ship | None:
        enemies = [other for other in self.ships if other.team != ship.team]
        return min(enemies, key=lambda enemy: abs(enemy.position - ship.position), default=None)

    def _evasion(self, ship: Ship) -> complex:
        """Return a push sideways, away from the path of each enemy bullet that is close."""
        sidestep = 0j
        for bullet in self.bullets:
            away = ship.position - bullet.position
            if abs(away) > EVASION_RADIUS or bullet.shooter.team == ship.team:
                continue
            path = bullet.velocity / BULLET_SPEED
            relative = away * path.conjugate()
            if relative.real > 0.0:
                sidestep += path * math.copysign(1.0, relative.imag) * 1j
        return 0.6 * _limited(sidestep, 1.0)

    def _push_from_friends(self, ship: Ship) -> complex:
        push = 0j
        for other in self.ships:
            away = ship.position - other.position
            distance = abs(away)
            if 0.0 < distance < ELBOW_ROOM:
                push += away / distance * (1.0 - distance / ELBOW_ROOM)
        return push

    def _pull_to_the_middle(self, ship: Ship) -> complex:
        """Return a push that grows toward the walls, so that the battle stays in sight."""
        width, height = self.arena
        across = 1.0 - 2.0 * ship.position.real / width
        down = 1.0 - 2.0 * ship.position.imag / height
        return 1.6 * complex(across**3, down**3)

    def _inside(self, point: complex) -> complex:
        width, height = self.arena
        return complex(max(0.0, min(width, point.real)), max(0.0, min(height, point.imag)))

    def _emit(self, type_: str, data: Mapping[str, Any]) -> None:
        for handler in tuple(self._handlers.get("telemetry", ())):
            handler({"type": type_, "data": data})


def _pursuit(ship: Ship, target: Ship) -> complex:
    """Return the direction that keeps a comfortable distance to the target, and circles it."""
    toward = target.position - ship.position
    distance = abs(toward) or 1.0
    closing = max(-1.0, min(1.0, (distance - COMFORTABLE_DISTANCE) / COMFORTABLE_DISTANCE))
    return toward / distance * complex(closing, 0.6 * ship.orbit)


def _limited(vector: complex, longest: float) -> complex:
    length = abs(vector)
    return vector if length <= longest else vector * (longest / length)


def _angle_between(start: float, end: float) -> float:
    """Return the shorter turn from ``start`` to ``end``, from -pi to pi."""
    return math.remainder(end - start, math.tau)


def _at(point: complex) -> dict[str, float]:
    return {"x": round(point.real, 1), "y": round(point.imag, 1)}
