"""A session, or the data of a person, is deleted until no byte of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.forgetting import Forgetting
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.thread import WriterThread
from tests.collector.clients import event
from tests.collector.storage.consistency import contradictions
from tests.collector.storage.test_retention import Collected

PLAYER = {"player": "p-17", "level": 2}
SECRETS = (b"p-17", b"Ada Lovelace", b"lovelace", b"secret-session", b"made-up-type")


@pytest.fixture
def collected(tmp_path: Path) -> Iterator[Collected]:
    made = Collected(
        tmp_path / "telemetry.sqlite3",
        check=lambda name, data: "a fault" if name == "bad" else None,
    )
    yield made
    made.writer.close()
    assert contradictions(made.path) == {}


def forget(collected: Collected, **wanted: object) -> Forgetting:
    work = Forgetting(**wanted, clock=collected.clock)  # type: ignore[arg-type]
    collected.tend(work)
    return work


def test_session_is_deleted_with_all_that_belongs_to_it(collected: Collected) -> None:
    collected.store(event(1), event(2, type="crash", context=PLAYER), event(4, type="bad"))
    collected.report("s", 4, dropped={"overflow": 1}, sampled={"step": 3})
    collected.store(event(1, "other"))
    collected.writer.store([read_message('[{"sessionId":"s","broken')])

    receipt = forget(collected, session="s").forgotten
    assert (receipt.session, receipt.sessions, receipt.events) == ("s", 1, 3)
    assert (receipt.rejected, receipt.at, receipt.context) == (1, collected.now, {})
    assert [each.session_id for each in collected.read(queries.sessions)] == ["other"]
    totals = collected.read(queries.totals)
    assert (totals.events, totals.missing, totals.lost, totals.sampled) == (1, 0, {}, {})
    assert (totals.rejected, collected.read(queries.rejected)[0].text) == (1, "")
    assert collected.read(queries.faults) == []


def test_field_of_the_context_is_deleted_with_the_sessions_that_it_leaves_empty(
    collected: Collected,
) -> None:
    collected.store(event(1, "own", context=PLAYER), event(2, "own", context={"player": "p-17"}))
    collected.store(event(1, "shared", context=PLAYER), event(2, "shared", context={"player": "x"}))
    collected.store(event(1, "other", context={"level": 2}))

    receipt = forget(collected, field=("player", "p-17")).forgotten
    assert (receipt.sessions, receipt.events, receipt.context) == (1, 3, {"player": "p-17"})
    sessions = {each.session_id: each for each in collected.read(queries.sessions)}
    assert sessions.keys() == {"shared", "other"}
    assert (sessions["shared"].deleted, sessions["shared"].missing) == (1, 0)
    assert collected.numbers("shared") == [2]

    # A repeat of a deleted event is not stored again while its session is known.
    assert collected.store(event(1, "shared", context=PLAYER)).repeats == 1


def test_nothing_is_found_for_a_stranger(collected: Collected) -> None:
    collected.store(event(1, context=PLAYER))
    assert not forget(collected, session="t").found_anything
    assert not forget(collected, field=("player", "p-1")).found_anything
    assert collected.numbers() == [1]


def test_newest_event_of_a_fault_is_one_that_is_left(collected: Collected) -> None:
    collected.store(event(1, type="bad", context={"player": "x"}))
    first = collected.now
    collected.pass_days(1)
    collected.store(event(2, type="bad", context=PLAYER), event(3, type="bad", context=PLAYER))
    collected.store(event(1, "later"))
    forget(collected, field=("player", "p-17"))
    (group,) = collected.read(queries.faults)
    assert (group.count, group.newest.seq, group.last, group.fault) == (1, 1, first, "a fault")


def test_events_that_arrive_meanwhile_stay(collected: Collected) -> None:
    collected.store(*[event(seq, context=PLAYER) for seq in range(1, 5001)])
    work = Forgetting(field=("player", "p-17"))
    collected.writer.maintain(work.step)
    collected.store(event(5001, context=PLAYER))
    collected.tend(work)
    assert (work.forgotten.events, work.forgotten.sessions) == (5000, 0)
    assert collected.numbers() == [5001]


def test_no_byte_is_left_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    made = Collected(path)
    rows = []
    for number in range(2000):
        if number % 3:
            rows.append(event(number, f"other-{number % 7}", data={"text": "x" * (number % 300)}))
        else:
            session = "secret-session" if number % 2 else f"secret-session-{number}"
            data = {"name": "Ada Lovelace", "text": "y" * (number % 5000)}
            name = "made-up-type" if number % 5 else "hit"
            rows.append(event(number, session, type=name, data=data, context=PLAYER))
    for start in range(0, 2000, 100):
        made.store(*rows[start : start + 100])
    made.report("secret-session", 2000, dropped={"overflow": 1}, sampled={"made-up-type": 5})
    made.writer.store([read_message('[{"context":{"player":"p-17"},"name":"Ada Lovelace"')])
    made.tend(TextIndex())
    made.writer.close()
    assert all(secret in whole(path) for secret in SECRETS)

    async def run() -> None:
        storage = WriterThread(made.database, lambda _: None, lambda: None, upkeep=[TextIndex()])
        work = Forgetting(field=("player", "p-17"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            # A reader holds on to the log for a while.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            running = asyncio.create_task(storage.run(work))
            done, _ = await asyncio.wait([running], timeout=1)
            assert not done
            reader.execute("ROLLBACK")
            await running
        assert (work.forgotten.events, work.forgotten.rejected) == (667, 1)
        assert [secret for secret in SECRETS if secret in whole(path)] == []
        await storage.close()

    asyncio.run(run())
    assert [secret for secret in SECRETS if secret in whole(path)] == []
    assert contradictions(path) == {}


def whole(path: Path) -> bytes:
    """All bytes of the database's files."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))


def test_closing_ends_what_is_not_done(collected: Collected) -> None:
    collected.store(*[event(seq, context=PLAYER) for seq in range(1, 101)])

    async def run() -> None:
        storage = WriterThread(collected.database, lambda _: None, lambda: None)
        with contextlib.closing(sqlite3.connect(collected.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            running = asyncio.create_task(storage.run(Forgetting(field=("player", "p-17"))))
            await asyncio.sleep(0.1)
            await storage.close()
            with pytest.raises(Exception, match="closing"):
                await running

    asyncio.run(run())


def test_values_are_compared_as_json_spells_them(collected: Collected) -> None:
    collected.store(event(1, context={"player": 17}), event(2, "t", context={"player": "17 "}))
    receipt = forget(collected, field=("player", "17")).forgotten
    assert (receipt.events, receipt.sessions) == (1, 1)
    assert json.loads(collected.rows("SELECT text FROM contexts")[0][0]) == {"player": "17 "}
