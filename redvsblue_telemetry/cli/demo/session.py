"""One made session: the messages that a collector gets from a game of a battle, all in one piece.

The rules are those of a small game: rounds of three ships a side, weapons of different strength,
players who leave before a round is over. Nothing here knows of other sessions, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import msgspec

from ..._report import Reason, Report, State
from ...collector.messages import Event, Message

__all__ = ["VERSIONS", "Plan", "messages"]

_SHIPS_PER_TEAM = 3
_FULL_HEALTH = 100
_ARENA = (1280, 720)  # pixels
_ROUND_LIMIT = 120_000  # milliseconds, as all times here
_BETWEEN_HITS = 1600
_FRAME_INTERVAL = 10_000
_FRAMES_A_SECOND = 60
_MAX_WAIT = 30_000  # until events are sent
_EVENTS_PER_MESSAGE = 50
_MOST_ROUNDS = 12
_SHOTS_PER_HIT = 9
_SAMPLED_PER_HIT = 0.27  # of those shots, the number that sampling keeps
_TEAMS = ("red", "blue")
_MAPS = {"asteroids": 0.07, "harbor": 0.05, "nebula": 0.21}
"""The share of the players who leave a round on a map before its end."""
_WEAPONS = 60 * ("laser",) + 36 * ("cannon",) + 4 * ("missile",)


class _Version(msgspec.Struct, frozen=True):
    """A version of the game's build, as its players find it."""

    damage: dict[str, tuple[int, int]]
    crashes: float
    """The share of the sessions that end so."""
    kills: float
    p99: float
    """Of its frames, in milliseconds."""
    crash: tuple[str, str, str]
    """The crash that most of its crashes are: exception, message, and the line that raised it."""


_OLD = _Version(
    {"laser": (4, 9), "cannon": (10, 24), "missile": (26, 40)},
    crashes=0.02,
    kills=0.015,
    p99=21.0,
    crash=("KeyError", "'red-3'", "battle/radar.py:58 in Radar.track"),
)
VERSIONS = {
    "1.4.0": _OLD,
    "1.4.1": msgspec.structs.replace(_OLD, crashes=0.015, p99=19.5),
    # Its cannon is stronger, and has the fault of most of its crashes.
    "1.4.2": _Version(
        {"laser": (4, 9), "cannon": (14, 33), "missile": (26, 40)},
        crashes=0.11,
        kills=0.03,
        p99=24.0,
        crash=("ZeroDivisionError", "float division by zero", "battle/cannon.py:91 in Cannon.aim"),
    ),
}
"""The versions, the oldest first."""
_OTHER_CRASH = ("FileNotFoundError", "saves/autosave.json", "battle/saves.py:14 in load")
_OUTER_STACK = ["main.py:31 in <module>", "battle/loop.py:88 in Loop.run"]


class Plan(msgspec.Struct, frozen=True):
    """What is decided about a session before it is played."""

    seed: str
    player: str
    platform: str
    version: str
    start: int
    """In milliseconds since the epoch."""
    skew: int
    """By how much the player's clock is ahead."""


class _OverError(Exception):
    """The session is over; its reason is one of :class:`Reason`, or None if nobody reports it."""

    def __init__(self, reason: str | None) -> None:
        self.reason = reason


def messages(plan: Plan) -> Iterator[tuple[int, Message]]:
    """Yield the messages of a session, in order, each with the time at which it arrives.

    The last one of a killed session is the report on it, which the player's next start sends.
    """
    return _Session(plan).play()


class _Session:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dice = dice = Random(plan.seed)
        self._build = VERSIONS[plan.version]
        self._id = f"{dice.getrandbits(128):032x}"
        self._run = f"{dice.getrandbits(64):016x}"
        self._clock = plan.start
        self._next_frames = plan.start + _FRAME_INTERVAL
        self._round_slowness = 1.0
        self._context: dict[str, Any] = {"player": plan.player, "platform": plan.platform}
        self._context_json = msgspec.Raw(msgspec.json.encode(self._context))
        self._seq = 0
        self._events: list[Event] = []
        self._reports = 0
        self._sampled = 0
        self._gaps: list[tuple[int, int, str]] = []
        self._scores = {"red": 0, "blue": 0}
        self._loses_some = dice.random() < 0.02
        self._repeats_some = dice.random() < 0.03

    def play(self) -> Iterator[tuple[int, Message]]:
        yield self._arrival(), Message([], [], [self._report(State.RUNNING)])
        reason: str | None = None
        crash_round, end = self._fate()
        last_round = max(crash_round, min(_MOST_ROUNDS, 1 + int(self._dice.expovariate(0.17))))
        try:
            for number in range(1, last_round + 1):
                for _ in self._round(number, end if number == crash_round else None):
                    if self._is_message_due():
                        yield from self._message()
                self._wait(4_000, 20_000)
            reason = self._dice.choice((Reason.STOPPED, Reason.EXIT))
        except _OverError as over:
            reason = over.reason
        yield from self._message()
        if reason == Reason.KILLED:
            alive = self._clock
            self._clock += self._dice.randint(20_000, 3 * 3_600_000)
            yield self._arrival(), Message([], [], [self._report(State.ENDED, reason, alive)])
        elif reason is not None:
            yield self._arrival(), Message([], [], [self._report(State.ENDED, reason, self._clock)])

    def _fate(self) -> tuple[int, str | None]:
        """Return the round in which the session comes to a bad end, and its reason; else 0."""
        build, lot = self._build, self._dice.random()
        ends = (
            (Reason.CRASHED, build.crashes),
            (Reason.KILLED, build.kills),
            (Reason.SWITCHED_OFF, 0.01),
            ("", 0.012),  # of these, nothing is heard any more
        )
        for reason, share in ends:
            if lot < share:
                return self._dice.randint(1, 5), reason
            lot -= share
        return 0, None

    def _round(self, number: int, end: str | None) -> Iterator[None]:
        """Play a round; yield after each hit."""
        dice = self._dice
        place = dice.choice(tuple(_MAPS))
        self._round_slowness = 1.15 if place == "nebula" else 1.0
        self._set_context(round=number, map=place)
        began = self._clock
        self._emit("round_start", {"round": number, "map": place, "shipsPerTeam": _SHIPS_PER_TEAM})
        fleets = {
            team: {f"{team}-{n}": _FULL_HEALTH for n in range(1, _SHIPS_PER_TEAM + 1)}
            for team in _TEAMS
        }
        for team, fleet in fleets.items():
            for ship in fleet:
                self._emit("ship_spawned", {"shipId": ship, "team": team, **self._at()})
        hits_until_end = dice.randint(3, 25)
        leaves = dice.random() < _MAPS[place]
        losses_until_left = dice.randint(1, 2)
        while all(fleets.values()):
            self._advance(int(dice.expovariate(1 / _BETWEEN_HITS)) + 50)
            if self._clock - began > _ROUND_LIMIT:
                break
            self._hit(fleets, number)
            yield
            hits_until_end -= 1
            if end is not None and hits_until_end == 0:
                self._end(end)
            if leaves and _SHIPS_PER_TEAM - len(fleets["red"]) >= losses_until_left:
                self._advance(dice.randint(300, 6_000))
                raise _OverError(dice.choice((Reason.STOPPED, Reason.EXIT)))
        survivors = {team: len(fleet) for team, fleet in fleets.items()}
        winner = "draw"
        if survivors["red"] != survivors["blue"]:
            winner = max(survivors, key=lambda team: survivors[team])
            self._scores[winner] += 1
        self._emit(
            "round_end",
            {
                "round": number,
                "winner": winner,
                "duration": round((self._clock - began) / 1000, 2),
                "survivors": survivors,
                "scores": dict(self._scores),
            },
        )

    def _hit(self, fleets: Mapping[str, dict[str, int]], number: int) -> None:
        dice = self._dice
        shooting, hit = dice.sample(_TEAMS, 2)
        by, fleet = dice.choice([*fleets[shooting]]), fleets[hit]
        ships = [*fleet]
        target = min(dice.choice(ships), dice.choice(ships), key=fleet.__getitem__)  # the weaker
        weapon = dice.choice(_WEAPONS)
        is_kept = dice.random() < _SAMPLED_PER_HIT
        self._sampled += _SHOTS_PER_HIT - is_kept
        if is_kept:
            heading = round(dice.uniform(-3.14, 3.14), 2)
            shot = {"shipId": by, "weapon": weapon, **self._at(), "heading": heading}
            self._emit("bullet_fired", shot)
        damage = min(fleet[target], dice.randint(*self._build.damage[weapon]))
        fleet[target] -= damage
        wound = {"shipId": target, "by": by, "weapon": weapon, "damage": damage}
        self._emit("ship_hit", {**wound, "health": fleet[target], **self._at()})
        if not fleet[target]:
            del fleet[target]
            loss = {"shipId": target, "by": by, "weapon": weapon, "round": number}
            self._emit("ship_destroyed", {**loss, **self._at()})

    def _end(self, reason: str) -> None:
        """End the session for this reason, in the middle of a round."""
        if reason == Reason.CRASHED:
            own = self._dice.random() < 0.8
            exception, text, place = self._build.crash if own else _OTHER_CRASH
            stack = [*_OUTER_STACK, place]
            crash = {"exception": exception, "message": text, "stack": stack}
            self._emit("crash", {**crash, "thread": "MainThread"})
        raise _OverError(reason or None)

    def _wait(self, least: int, most: int) -> None:
        self._advance(self._dice.randint(least, most))

    def _advance(self, milliseconds: int) -> None:
        """Let time go on, with a summary of the frames after each interval."""
        until = self._clock + milliseconds
        while self._next_frames <= until:
            self._clock = self._next_frames
            self._next_frames += _FRAME_INTERVAL
            self._emit("frames", self._frames())
        self._clock = until

    def _frames(self) -> dict[str, float]:
        gauss = self._dice.gauss
        p99 = max(18.0, gauss(self._build.p99 * self._round_slowness, 1.6))
        hitches = max(0, int(gauss((p99 - 20.0) * 0.7, 1.2)))
        return {
            "seconds": _FRAME_INTERVAL / 1000,
            "frames": _FRAME_INTERVAL * _FRAMES_A_SECOND // 1000 - hitches,
            "p50Ms": round(gauss(16.66, 0.02), 3),
            "p95Ms": round(min(p99, gauss(17.3, 0.2)), 3),
            "p99Ms": round(p99, 3),
            "maxMs": round(p99 + self._dice.expovariate(0.1 if hitches else 0.5), 3),
            "hitches": hitches,
        }

    def _at(self) -> dict[str, float]:
        dice = self._dice.random
        return {"x": round(dice() * _ARENA[0], 1), "y": round(dice() * _ARENA[1], 1)}

    def _set_context(self, **fields: Any) -> None:
        self._context.update(fields)
        self._context_json = msgspec.Raw(msgspec.json.encode(self._context))

    def _emit(self, type_: str, data: Mapping[str, Any]) -> None:
        self._seq += 1
        event = Event(
            session_id=self._id,
            seq=self._seq,
            type=type_,
            timestamp=self._clock + self._plan.skew,
            data=msgspec.Raw(msgspec.json.encode(data)),
            id=f"{self._run}-{self._seq}",
            version=self._plan.version,
            context=self._context_json,
        )
        self._events.append(event)

    def _is_message_due(self) -> bool:
        events = self._events
        if not events:
            return False
        waits = self._clock + self._plan.skew - events[0].timestamp
        return len(events) >= _EVENTS_PER_MESSAGE or waits >= _MAX_WAIT

    def _message(self) -> Iterator[tuple[int, Message]]:
        """Yield the events since the last message, if there are any; a few twice."""
        events, self._events = self._events, []
        if not events:
            return
        if self._loses_some and self._dice.random() < 0.1:
            self._gaps.append((events[0].seq, events[-1].seq, "overflow"))
            return
        yield self._arrival(), Message(events, [])
        if self._repeats_some and self._dice.random() < 0.1:
            yield self._arrival(), Message(events, [])

    def _arrival(self) -> int:
        return self._clock + 40 + int(self._dice.expovariate(1 / 120))

    def _report(self, state: str, reason: str | None = None, at: int | None = None) -> Report:
        self._reports += 1
        dropped = sum(last - first + 1 for first, last, _ in self._gaps)
        return Report(
            session_id=self._id,
            number=self._reports,
            state=state,
            reason=msgspec.UNSET if reason is None else reason,
            started_at=self._plan.start + self._plan.skew,
            at=(self._clock if at is None else at) + self._plan.skew,
            last_seq=self._seq,
            emitted=self._seq,
            delivered=self._seq - dropped,
            dropped={"overflow": dropped} if dropped else {},
            sampled={"bullet_fired": self._sampled} if self._sampled else {},
            gaps=self._gaps,
            sdk="",
            version=self._plan.version,
        )
