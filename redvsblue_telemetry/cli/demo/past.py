"""The demo's past: made sessions of many players, as a collector would have stored them.

More players come in the evening and on weekends. They come back on later days, or don't. The newest
version of the game comes out when more than half of the time is over, and crashes more often.

The collector's own writer stores the sessions, with a clock that shows the time at which each of
their messages arrives. So the database is one that a collector has written, but for the time that
it took.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import msgspec

from ...collector.messages import Message
from ...collector.storage.database import Database
from ...collector.storage.writer import Writer
from .session import VERSIONS, Plan, messages

__all__ = ["Made", "NotEmptyError", "fill"]

_DAY = 86_400_000  # milliseconds, as all times here
_MINUTE = 60_000
_NEW_PLAYERS_A_DAY = 25
_OLD_PLAYERS = 60  # who had played before
_DAYS_OF_INTEREST = 20  # that a player has left, on average
_RELEASES = {"1.4.0": -1.0, "1.4.1": 0.08, "1.4.2": 0.55}
"""The versions, with the part of the time after which each came out."""
_LAG = _DAY // 3  # until half of the players or so have updated
_NEVER_UPDATES = 0.06  # of the players
_HOURS = (3, 2, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 12, 15, 20, 25, 27, 24, 16, 8)
"""How many sessions begin in each hour of a day, relative to one another."""
_WEEKEND = 1.4
_LONGEST_SESSION = 25 * _MINUTE
_MESSAGES_PER_GROUP = 50
_LONGEST_GROUP = 2_000
_GROUPS_AT_ONCE = 200


class NotEmptyError(Exception):
    """The database has sessions already."""


class Made(msgspec.Struct):
    """What was made."""

    sessions: int = 0
    events: int = 0


class _Player(msgspec.Struct, frozen=True):
    name: str
    platform: str
    first_day: int
    """Counted from the day on which the past begins; negative if it was before that."""
    last_day: int
    """The last day on which they may play."""
    keenness: float
    lag: int
    skew: int


def fill(
    path: Path,
    span: int,
    now: int,
    *,
    seed: int = 7,
    offset: int = 0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Made:
    """Store a past in a database that is new or empty. The same arguments make the same past.

    Args:
        path: the file.
        span: how long it is, in milliseconds.
        now: when it ends, in milliseconds since the epoch.
        seed: chooses among all possible ones.
        offset: minutes by which the players' days are ahead of UTC.
        is_stopped: whether to end now, with the part that is made; called often.

    Raises:
        DatabaseError: the database can't be used.
        NotEmptyError: it has sessions already.
    """
    made = Made()
    database = Database(path)
    with contextlib.closing(database), database.reading() as connection:
        if connection.execute("SELECT EXISTS (SELECT 1 FROM sessions)").fetchone()[0]:
            raise NotEmptyError
        with contextlib.closing(Writer(database)) as writer:
            groups = _groups(_in_order(_plans(Random(seed), span, now, offset), now))
            while not is_stopped() and (some := list(itertools.islice(groups, _GROUPS_AT_ONCE))):
                made.events += writer.store_past(some)
        (made.sessions,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
    return made


def _groups(stream: Iterator[tuple[int, Message]]) -> Iterator[tuple[int, list[Message]]]:
    """Yield messages that arrive at about the same time together, with the last one's time."""
    group: list[Message] = []
    began = clock = 0
    for arrival, message in stream:
        if group and (len(group) == _MESSAGES_PER_GROUP or arrival - began > _LONGEST_GROUP):
            yield clock, group
            group = []
        if not group:
            began = arrival
        clock = arrival
        group.append(message)
    if group:
        yield clock, group


def _in_order(plans: list[Plan], now: int) -> Iterator[tuple[int, Message]]:
    """Yield the messages of all sessions in the order in which they arrive, until now."""
    going: list[tuple[int, int, Message, Iterator[tuple[int, Message]]]] = []
    waiting = iter([*plans, None])
    number = 0
    for plan in waiting:
        # All that arrives before the next session begins; at the end, all.
        while going and (plan is None or going[0][0] < plan.start):
            arrival, key, message, rest = going[0]
            if arrival > now:
                return
            yield arrival, message
            following = next(rest, None)
            if following is None:
                heapq.heappop(going)
            else:
                # A network keeps the order of one connection's messages.
                heapq.heapreplace(going, (max(arrival, following[0]), key, following[1], rest))
        if plan is not None:
            rest = messages(plan)
            arrival, message = next(rest)
            heapq.heappush(going, (arrival, number, message, rest))
            number += 1


def _plans(dice: Random, span: int, now: int, offset: int) -> list[Plan]:
    """Return the sessions of all players, in the order in which they begin."""
    zone = timezone(timedelta(minutes=offset))
    start = now - span
    first_day = datetime.fromtimestamp(start / 1000, zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    midnight = int(first_day.timestamp() * 1000)
    days = (now - midnight) // _DAY + 1
    found = []
    for player in _players(dice, days):
        for day in range(max(0, player.first_day), min(days, player.last_day + 1)):
            weekday = (first_day + timedelta(days=day)).weekday()
            if not _plays(dice, player, day, is_weekend=weekday >= 5):
                continue
            free = midnight + day * _DAY
            for _ in range(1 + int(dice.expovariate(1.6))):
                hour = dice.choices(range(24), _HOURS)[0]
                at = midnight + day * _DAY + hour * 60 * _MINUTE + dice.randrange(60 * _MINUTE)
                if not start <= at < now - _LONGEST_SESSION or at < free:
                    continue
                free = at + _LONGEST_SESSION
                version = _version(at, start, span, player)
                plan = Plan(
                    f"{dice.getrandbits(64):x}",
                    player.name,
                    player.platform,
                    version,
                    at,
                    player.skew,
                )
                found.append(plan)
    return sorted(found, key=lambda plan: (plan.start, plan.seed))


def _players(dice: Random, days: int) -> Iterator[_Player]:
    number = 0
    for day in range(-1, days):
        count = _OLD_PLAYERS if day < 0 else dice.randint(-4, 4) + _NEW_PLAYERS_A_DAY
        for _ in range(count):
            number += 1
            first_day = day if day >= 0 else -dice.randint(3, 30)
            stays = int(dice.expovariate(1 / _DAYS_OF_INTEREST))
            yield _Player(
                name=f"p-{number}",
                platform=dice.choices(("windows", "linux", "mac"), (70, 18, 12))[0],
                first_day=first_day,
                last_day=max(first_day, 0) + stays,
                keenness=dice.betavariate(1.6, 2.0),
                lag=_lag(dice),
                skew=_skew(dice),
            )


def _plays(dice: Random, player: _Player, day: int, *, is_weekend: bool) -> bool:
    age = day - player.first_day
    if age == 0:
        return True
    return dice.random() < player.keenness * math.pow(age, -0.3) * (_WEEKEND if is_weekend else 1.0)


def _lag(dice: Random) -> int:
    """Return how long after a release a player updates."""
    is_never = dice.random() < _NEVER_UPDATES
    return 1000 * 365 * _DAY if is_never else int(dice.expovariate(1 / _LAG))


def _skew(dice: Random) -> int:
    """Return by how much a player's clock is ahead: mostly a second or so, for a few an hour."""
    is_wrong = dice.random() < 0.02
    return int(dice.gauss(0, 3_600_000 if is_wrong else 900))


def _version(at: int, start: int, span: int, player: _Player) -> str:
    """Return the version that a player has at a time; a new player downloads the newest."""
    released = [name for name in VERSIONS if at >= start + _RELEASES[name] * span]
    known = [name for name in released if at >= start + _RELEASES[name] * span + player.lag]
    first = start + player.first_day * _DAY
    of_first = [name for name in VERSIONS if first >= start + _RELEASES[name] * span]
    candidates = [*known, *of_first]
    return max(candidates) if candidates else released[0]
