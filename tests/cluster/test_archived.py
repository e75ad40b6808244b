"""From a game with ``confirm="archived"`` into the lake: all that the stream loses comes again."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry import Telemetry
from tests.cluster.gateways import Gateway, gateway_running
from tests.cluster.loader.loaders import loader_running, sequences, wait_for_events
from tests.collector.clients import array, game
from tests.support.killed_games import files, has_recovered, is_balanced
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

PATIENCE = 60.0  # seconds for what takes a few


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def gateway(stream_servers: StreamServers) -> Iterator[Gateway]:
    with gateway_running(stream_servers.urls, "--partitions", 4) as gateway:
        yield gateway


def emit(telemetry: Telemetry, count: int) -> None:
    for number in range(count):
        telemetry.emit("hit", n=number)


def are_stored(gateway: Gateway, count: int) -> bool:
    """Wait until the gateway has acknowledged so many as stored."""
    return wait_until(lambda: gateway.metric("events_stored_total") >= count, PATIENCE)


def expected(*sessions: tuple[str, int]) -> Counter[tuple[str, int]]:
    return Counter((session, seq) for session, last in sessions for seq in range(1, last + 1))


def lose_all_data(servers: StreamServers) -> None:
    """Kill all servers of the stream at once, and start them with empty disks."""
    for index, _ in enumerate(servers.children):
        servers.kill(index)
    for directory in servers.directories:
        shutil.rmtree(directory / "store")
    servers.start()


def test_a_game_is_confirmed_by_the_lake(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path
) -> None:
    with game(gateway, confirm="archived", journal=journal) as telemetry:
        emit(telemetry, 1000)
        assert are_stored(gateway, 1000)
        assert not telemetry.flush(0.5)
        assert telemetry.stats().delivered == 0
        assert gateway.metric("stream_unarchived") > 0
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE)
            assert sequences(lake) == expected((telemetry.session_id, 1000))
            assert telemetry.stats().reconnects == 0
            assert telemetry.stop(PATIENCE)
    assert files(journal) == []


def test_others_are_confirmed_by_the_stream(gateway: Gateway, journal: Path) -> None:
    with game(gateway, journal=journal) as telemetry:
        emit(telemetry, 100)
        assert telemetry.flush(PATIENCE)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ({"Telemetry-Ack": "cumulative", "Telemetry-Confirm": "archived"}, "archived"),
        ({"Telemetry-Ack": "cumulative", "Telemetry-Confirm": "burned"}, "cumulative"),
        ({"Telemetry-Ack": "cumulative"}, "cumulative"),
        ({"Telemetry-Confirm": "archived"}, None),
        ({"Telemetry-Ack": "archived"}, None),
    ],
)
def test_a_gateway_answers_what_it_will_do(
    gateway: Gateway, offer: dict[str, str], answer: str | None
) -> None:
    with connect(gateway.url, additional_headers=offer, proxy=None) as client:
        assert client.response is not None
        assert client.response.headers.get("Telemetry-Ack") == answer
        client.send(array(1))
        if answer == "archived":
            assert client.recv(PATIENCE) == '{"ack":0,"stored":1}'
        elif answer == "cumulative":
            assert client.recv(PATIENCE) == '{"ack":1}'


def test_a_message_without_events_is_archived_with_those_before_it(
    stream_servers: StreamServers, gateway: Gateway, lake: Path
) -> None:
    headers = {"Telemetry-Ack": "cumulative", "Telemetry-Confirm": "archived"}
    with connect(gateway.url, additional_headers=headers, proxy=None) as client:
        client.send("[]")
        client.send(array(1))
        client.send("[]")
        answers = [client.recv(PATIENCE)]
        while '"stored":3' not in str(answers[-1]):
            answers.append(client.recv(PATIENCE))
        assert answers[-1] == '{"ack":1,"stored":3}'
        with loader_running(stream_servers.urls, lake):
            assert client.recv(PATIENCE) == '{"ack":3,"stored":3}'


@pytest.mark.parametrize("loads", ["before", "after"])
def test_a_stream_that_loses_all_is_refilled_by_the_games(
    loads: str, stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path
) -> None:
    """The loader sees all, or nothing, of what was there before."""
    # No loader is left to archive the last report, so a stop would wait for its whole timeout.
    with game(gateway, confirm="archived", journal=journal, stop_timeout=0.2) as telemetry:
        if loads == "before":
            with loader_running(stream_servers.urls, lake):
                emit(telemetry, 500)
                assert telemetry.flush(PATIENCE)
        before = telemetry.stats().delivered
        emit(telemetry, 1000)
        assert are_stored(gateway, before + 1000)
        assert telemetry.stats().delivered == before
        lose_all_data(stream_servers)
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE)
            assert sequences(lake) == expected((telemetry.session_id, before + 1000))
        assert telemetry.stats().reconnects > 0
        assert is_balanced(telemetry.stats())


def test_three_servers_that_lose_all_are_refilled_while_all_goes_on(
    three_stream_servers: StreamServers, lake: Path, journal: Path
) -> None:
    servers = three_stream_servers
    with (
        gateway_running(servers.urls, "--partitions", 4) as gateway,
        loader_running(servers.urls, lake) as loader,
        game(gateway, confirm="archived", journal=journal) as telemetry,
    ):
        loader.wait_for_owned(4)
        emit(telemetry, 500)
        assert telemetry.flush(PATIENCE)
        emit(telemetry, 500)
        assert are_stored(gateway, 1000)
        lose_all_data(servers)
        emit(telemetry, 500)
        assert telemetry.flush(PATIENCE), telemetry.stats()
        assert sequences(lake) == expected((telemetry.session_id, 1500))
        assert telemetry.stats().dropped == 0


def test_a_game_that_has_ended_refills_the_stream_at_its_next_start(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path
) -> None:
    with game(gateway, confirm="archived", journal=journal, stop_timeout=0.2) as telemetry:
        emit(telemetry, 1000)
        assert are_stored(gateway, 1000)
    assert wait_until(lambda: telemetry.stats().buffered == 1000)
    lose_all_data(stream_servers)
    with (
        loader_running(stream_servers.urls, lake),
        game(gateway, confirm="archived", journal=journal) as again,
    ):
        assert has_recovered(again, 1000)
        wait_for_events(lake, 1000)
        assert sequences(lake) == expected((telemetry.session_id, 1000))
        assert again.stop(PATIENCE)
    assert wait_until(lambda: files(journal) == [])


def test_a_stream_that_goes_back_in_time_skips_nothing_new(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path, tmp_path: Path
) -> None:
    """Its numbers come again for other messages, which loaders would take for known ones."""
    (directory,) = stream_servers.directories
    with (
        loader_running(stream_servers.urls, lake) as loader,
        game(gateway, confirm="archived", journal=journal) as telemetry,
    ):
        loader.wait_for_owned(4)
        emit(telemetry, 100)
        assert telemetry.flush(PATIENCE)
        stream_servers.stop(0)
        shutil.copytree(directory / "store", tmp_path / "earlier")
        stream_servers.start()
        emit(telemetry, 3000)
        assert telemetry.flush(PATIENCE)
        stream_servers.kill(0)
        shutil.rmtree(directory / "store")
        shutil.move(tmp_path / "earlier", directory / "store")
        stream_servers.start()
        emit(telemetry, 100)
        assert telemetry.flush(PATIENCE), telemetry.stats()
        assert sequences(lake) == expected((telemetry.session_id, 3200))


def test_a_quiet_gateway_confirms_nothing_that_the_stream_has_lost(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path, tmp_path: Path
) -> None:
    """Other messages have the numbers of the lost ones, by another gateway, when loaders come."""
    (directory,) = stream_servers.directories
    with game(
        gateway, confirm="archived", journal=journal, session_id="a", reports="none"
    ) as telemetry:
        with loader_running(stream_servers.urls, lake):
            emit(telemetry, 100)
            assert telemetry.flush(PATIENCE)
        stream_servers.stop(0)
        shutil.copytree(directory / "store", tmp_path / "earlier")
        stream_servers.start()
        emit(telemetry, 1000)
        assert are_stored(gateway, 1100)
        stream_servers.kill(0)
        shutil.rmtree(directory / "store")
        shutil.move(tmp_path / "earlier", directory / "store")
        stream_servers.start()
        with (
            gateway_running(stream_servers.urls) as another,
            game(another, session_id="c", reports="none") as other,  # of the same partition
        ):
            emit(other, 3000)
            assert other.flush(PATIENCE)
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE), telemetry.stats()
            assert sequences(lake) == expected(("a", 1100), ("c", 3000))
        assert telemetry.stats().reconnects > 0


def test_a_gateway_and_a_loader_that_come_after_a_loss_take_nothing_new_for_known(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path, tmp_path: Path
) -> None:
    """The lake has gone past the places of the new messages, in the same partition."""
    (directory,) = stream_servers.directories
    options: dict[str, Any] = {"confirm": "archived", "journal": journal, "reports": "none"}
    with (
        loader_running(stream_servers.urls, lake),
        game(gateway, session_id="a", **options) as telemetry,
    ):
        emit(telemetry, 100)
        assert telemetry.flush(PATIENCE)
        stream_servers.stop(0)
        shutil.copytree(directory / "store", tmp_path / "earlier")
        stream_servers.start()
        emit(telemetry, 3000)
        assert telemetry.flush(PATIENCE)
    stream_servers.kill(0)
    shutil.rmtree(directory / "store")
    shutil.move(tmp_path / "earlier", directory / "store")
    stream_servers.start()
    with (
        gateway_running(stream_servers.urls) as another,
        game(another, session_id="c", **options) as telemetry,
    ):
        emit(telemetry, 100)
        assert are_stored(another, 100)
        assert not telemetry.flush(2), "nobody has loaded them"
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE), telemetry.stats()
            assert sequences(lake) == expected(("a", 3100), ("c", 100))


@pytest.mark.parametrize("how", ["purged", "made anew by hand"])
def test_messages_that_somebody_deletes_before_they_are_archived_come_again(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path, how: str
) -> None:
    async def delete() -> None:
        from redvsblue_telemetry.cluster.stream import STREAM
        from tests.cluster.loader.publishing import publishing

        async with publishing(stream_servers.urls) as publisher:
            if how == "purged":
                await publisher.jetstream.purge_stream(STREAM)
            else:
                await publisher.make_anew()

    with game(gateway, confirm="archived", journal=journal, reports="none") as telemetry:
        emit(telemetry, 500)
        assert are_stored(gateway, 500)
        asyncio.run(delete())
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE), telemetry.stats()
            assert sequences(lake) == expected((telemetry.session_id, 500))


def test_a_killed_loader_is_replaced_by_one_that_knows_what_is_in_the_lake(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path
) -> None:
    with (
        loader_running(stream_servers.urls, lake) as first,
        game(gateway, confirm="archived", journal=journal) as telemetry,
    ):
        first.wait_for_owned(4)
        emit(telemetry, 500)
        assert are_stored(gateway, 500)
        first.kill()  # before, while or after it stores them
        emit(telemetry, 500)
        with loader_running(stream_servers.urls, lake):
            assert telemetry.flush(PATIENCE), telemetry.stats()
            assert sequences(lake) == expected((telemetry.session_id, 1000))
            assert telemetry.stats().reconnects == 0


def test_a_gateway_that_ends_waits_a_moment_for_the_lake(
    stream_servers: StreamServers, gateway: Gateway, lake: Path, journal: Path
) -> None:
    with (
        loader_running(stream_servers.urls, lake, "--interval", "1"),
        game(gateway, confirm="archived", journal=journal, stop_timeout=0.2) as telemetry,
    ):
        emit(telemetry, 1000)
        assert are_stored(gateway, 1000)
        assert gateway.running.end(signal.SIGTERM) == 0
        assert wait_until(lambda: telemetry.stats().delivered == 1000)


# Which messages are archived.


class Client:
    """A receipt of the archive."""

    def __init__(self) -> None:
        self.count = 0
        self.has_failed = False

    def archived(self, messages: int) -> None:
        assert messages > 0
        self.count += messages

    def failed(self) -> None:
        self.has_failed = True


class Archive:
    """A following with its clock, and loaders that answer it."""

    def __init__(self) -> None:
        from redvsblue_telemetry.cluster.gateway.following import Following

        self.now = 0.0
        self.following = Following(lambda: self.now)

    def follow(self, client: Client, *places: tuple[int, int, str | None, int, int]) -> None:
        """Follow a message: of each session, its partition, place, name, first and last number."""
        from redvsblue_telemetry.collector.storing import Place

        self.following.follow(
            client,
            1,
            [
                Place(partition, sequence, session, [] if session is None else [(first, last)])
                for partition, sequence, session, first, last in places
            ],
        )

    def answer(
        self,
        partition: int,
        sequence: int,
        numbers: dict[str, list[tuple[int, int]]],
        *,
        is_all: bool = False,
    ) -> int:
        """Answer what it asks now about a partition."""
        from redvsblue_telemetry.cluster.stream import Answer

        asked = self.following.sessions(partition)
        found = {session: numbers.get(session, []) for session in asked}
        return self.following.learn(partition, asked, Answer(sequence, is_all, found))

    @property
    def awaited(self) -> set[int]:
        return set(self.following.awaited)


def test_a_client_hears_of_its_messages_in_their_order() -> None:
    archive, client, other = Archive(), Client(), Client()
    archive.follow(client, (0, 10, "a", 1, 5))
    archive.follow(client, (0, 12, "a", 6, 9), (1, 11, "b", 1, 2))
    archive.follow(client)
    archive.follow(other, (1, 9, "c", 1, 1))
    assert (client.count, archive.awaited, archive.following.unarchived) == (0, {0, 1}, 4)
    assert archive.answer(1, 11, {"b": [(1, 2)], "c": [(1, 1)]}) == 0
    assert (client.count, other.count, archive.awaited) == (0, 1, {0})
    archive.answer(0, 11, {"a": [(1, 5)]})
    assert (client.count, archive.awaited) == (1, {1})
    archive.answer(1, 11, {"b": [(1, 2)]})
    assert (client.count, archive.awaited) == (1, {0})
    archive.answer(0, 12, {"a": [(1, 9)]})
    assert (client.count, archive.awaited, archive.following.unarchived) == (3, set(), 0)
    assert not client.has_failed


def test_one_answer_is_enough_for_all_that_is_in_the_lake() -> None:
    """Also for sessions whose messages take turns."""
    archive, client = Archive(), Client()
    for number in range(1, 101):
        archive.follow(client, (0, 2 * number, "a", number, number))
        archive.follow(client, (1, 2 * number + 1, "b", number, number))
    archive.answer(0, 200, {"a": [(1, 100)]})
    assert client.count == 1
    archive.answer(1, 201, {"b": [(1, 70)]})
    assert client.count == 141


def test_a_message_without_events_is_archived_by_its_place() -> None:
    archive, client = Archive(), Client()
    archive.follow(client, (0, 10, None, 0, 0))
    archive.answer(0, 9, {})
    assert client.count == 0
    archive.answer(0, 10, {})
    assert client.count == 1


@pytest.mark.parametrize("numbers", [[], [(1, 4)], [(2, 9)], [(1, 2), (4, 9)]])
def test_a_message_is_lost_if_the_lake_has_gone_past_it_without_its_numbers(
    numbers: list[tuple[int, int]],
) -> None:
    archive, client, other = Archive(), Client(), Client()
    archive.follow(client, (0, 10, "a", 1, 5))
    archive.follow(other, (0, 11, "b", 1, 5))
    archive.now = 19.0
    assert archive.answer(0, 10, {"a": numbers}) == 0, "the loader may not have read it again yet"
    archive.now = 20.0
    assert archive.answer(0, 9, {"a": numbers}) == 0
    assert (client.count, client.has_failed) == (0, False)
    assert archive.answer(0, 10, {"a": numbers}) == 1
    assert (client.count, client.has_failed, other.has_failed) == (0, True, False)
    assert (archive.following.unarchived, archive.following.sessions(0)) == (1, {"b": 1})


def test_a_message_is_lost_if_the_loader_has_all_and_not_its_numbers() -> None:
    """The numbers of a stream that has lost messages are low for a while."""
    archive, client = Archive(), Client()
    archive.follow(client, (0, 1000, "a", 1, 5))
    assert archive.answer(0, 10, {}, is_all=True) == 0
    archive.now = 20.0
    assert archive.answer(0, 10, {}) == 0
    assert archive.answer(0, 10, {}, is_all=True) == 1
    assert client.has_failed


def test_an_answer_says_nothing_about_what_was_not_asked() -> None:
    from redvsblue_telemetry.cluster.stream import Answer

    archive, client, other = Archive(), Client(), Client()
    archive.follow(client, (0, 10, "a", 5, 9))
    asked = archive.following.sessions(0)
    archive.follow(client, (0, 11, "b", 1, 1))
    archive.follow(other, (0, 8, "a", 1, 4))  # by a connection that came later
    assert archive.following.learn(0, asked, Answer(20, True, {"a": [(5, 9)]})) == 0
    assert (client.count, other.count) == (1, 0)
    assert archive.following.sessions(0) == {"a": 1, "b": 1}


def test_who_has_gone_hears_nothing_more() -> None:
    archive, client, other = Archive(), Client(), Client()
    archive.follow(client, (0, 10, "a", 1, 1))
    archive.follow(other, (0, 10, "b", 1, 1))
    archive.following.forget(client)
    archive.following.forget(client)
    assert archive.following.unarchived == 1
    archive.answer(0, 10, {"a": [(1, 1)], "b": [(1, 1)]})
    assert (client.count, other.count, archive.following.unarchived) == (0, 1, 0)
    assert not archive.awaited


def test_all_fail_when_what_was_stored_is_lost() -> None:
    archive, client, other = Archive(), Client(), Client()
    archive.follow(client, (0, 101, "a", 1, 1))
    archive.answer(0, 100, {})
    archive.following.lose_all()
    assert client.has_failed
    assert (archive.following.unarchived, archive.awaited) == (0, set())
    archive.follow(other, (0, 1, None, 0, 0))  # of the new stream, whose numbers start over
    assert other.count == 0
    archive.answer(0, 1, {})
    assert other.count == 1
    assert not other.has_failed
