"""The storage of a gateway: lanes, receipts and retries, against a real server.

No server can be asked to hold back one message, or to lose one acknowledgement: the connection to
it does that here.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("nats", reason="needs nats-py")

from nats.js.api import PubAck

from redvsblue_telemetry.cluster.gateway import storage as module
from redvsblue_telemetry.cluster.gateway.link import Link, SilenceError, StreamError
from redvsblue_telemetry.cluster.gateway.storage import Counts, StreamStorage
from redvsblue_telemetry.cluster.stream import StreamOptions, partition_of
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storing import Body, MessageTooLargeError, Place
from tests.cluster.gateways import PATIENCE, numbers, stream_messages
from tests.collector.clients import array, event

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

SOON = 3.0  # seconds until a message is given up; a loaded machine needs one to store it


class TroubledLink(Link):
    """Holds back messages whose body has a text, and loses the acknowledgements of others."""

    def __init__(self, options: StreamOptions) -> None:
        super().__init__(options, "test")
        self.held = ""
        self.lost = 0
        self.refuses = False
        self.is_cut_off = False
        self.left = 0
        self.go_on = asyncio.Event()
        self.started: list[str] = []
        self.now = self.most = 0

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> PubAck:
        self.started.append(headers["Nats-Msg-Id"])
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.refuses:
                raise StreamError("the stream refuses messages: on demand")
            if self.is_cut_off:
                raise SilenceError("the stream has no leader now")
            if self.held and self.held.encode() in body:
                await self.go_on.wait()
            ack = await super().publish(subject, body, headers, timeout)
        finally:
            self.now -= 1
        if self.lost:
            self.lost -= 1
            raise StreamError("the stream does not answer")
        return ack

    async def leave_server(self) -> None:
        self.left += 1
        self.is_cut_off = False
        await super().leave_server()


class Sender:
    """A receipt that remembers."""

    def __init__(self) -> None:
        self.is_broken = False
        self.acked = 0
        self.failures = 0
        self.places: list[Place] = []
        self.changed = asyncio.Event()

    def stored(self, messages: int, places: Sequence[Place] = ()) -> None:
        self.acked += messages
        self.places += places
        self.changed.set()

    def failed(self) -> None:
        self.failures += 1
        self.changed.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), PATIENCE)


class Setting:
    """A storage, and what it has reported."""

    def __init__(self, link: TroubledLink, publish_timeout: float) -> None:
        self.link = link
        self.counts: list[Counts] = []
        self.failures = 0
        self.storage = StreamStorage(link, self.counts.append, self._note_failure, publish_timeout)

    def _note_failure(self) -> None:
        self.failures += 1

    def submit(self, text: str, sender: Sender) -> None:
        body = text.encode()
        self.storage.submit(read_message(body), len(body), sender, body=Body(body, None))

    async def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.002)

        await asyncio.wait_for(wait(), PATIENCE)


@asynccontextmanager
async def set_up(servers: StreamServers, publish_timeout: float) -> AsyncIterator[Setting]:
    setting = Setting(TroubledLink(StreamOptions(servers=servers.urls)), publish_timeout)
    await setting.storage.start(PATIENCE)
    try:
        yield setting
    finally:
        setting.link.go_on.set()
        await setting.storage.close()


def run(
    servers: StreamServers,
    test: Callable[[Setting], Coroutine[None, None, None]],
    publish_timeout: float = PATIENCE,
) -> None:
    async def main() -> None:
        async with set_up(servers, publish_timeout) as setting:
            await test(setting)

    asyncio.run(main())


def mixed(sessions: Iterable[str]) -> str:
    return json.dumps([event(1, session) for session in sessions])


def test_a_client_hears_of_its_messages_in_order(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.held = "slow"
        setting.submit(array(1, session="quick 1"), sender)
        setting.submit(mixed(["slow", "quick 2"]), sender)
        setting.submit(array(1, session="quick 3"), sender)
        await setting.until(lambda: sum(each.events for each in setting.counts) == 3)
        assert sender.acked == 1
        setting.link.go_on.set()
        await sender.wait_for(lambda: sender.acked == 3)

    run(stream_servers, test)


def test_a_session_has_one_message_in_flight(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        one, other = Sender(), Sender()
        setting.link.held = '"seq": 1,'
        for number in range(1, 6):
            setting.submit(array(number), one if number % 2 else other)
        setting.submit(array(9, session="t"), other)
        await setting.until(lambda: len(setting.counts) == 1)
        assert [each.partition(":")[0] for each in setting.link.started] == ["s", "t"]
        assert setting.storage.in_flight == 1
        setting.link.go_on.set()
        await one.wait_for(lambda: one.acked == 3)
        await other.wait_for(lambda: other.acked == 3)

    run(stream_servers, test)
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2, 3, 4, 5], "t": [9]}


def test_only_so_many_messages_are_in_flight(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.held = "s"
        for number in range(200):
            setting.submit(array(1, session=f"session {number}"), sender)
        await setting.until(lambda: setting.link.now == module._MAX_IN_FLIGHT)
        setting.link.go_on.set()
        await sender.wait_for(lambda: sender.acked == 200)
        assert setting.link.most == module._MAX_IN_FLIGHT

    run(stream_servers, test)
    assert len(numbers(stream_messages(stream_servers))) == 200


def test_a_lost_acknowledgement_stores_nothing_twice(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.lost = 2
        setting.submit(array(1, 2), sender)
        setting.submit(array(3), sender)
        await sender.wait_for(lambda: sender.acked == 2)
        assert setting.storage.retries == 2
        assert [each.events for each in setting.counts] == [2, 1]
        assert sum(each.repeats for each in setting.counts) == 0

    run(stream_servers, test)
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2, 3]}


def test_the_places_are_those_in_the_stream(stream_servers: StreamServers) -> None:
    senders = []

    async def test(setting: Setting) -> None:
        for _ in range(2):  # the second one learns where the first one's messages are
            sender = Sender()
            senders.append(sender)
            setting.submit(array(1), sender)
            setting.submit(mixed(["t", "u"]), sender)
            setting.submit("[]", sender)
            await sender.wait_for(lambda s=sender: s.acked == 3)  # type: ignore[misc]
        assert [each.repeats for each in setting.counts] == [0, 0, 0, 1, 1, 1]

    run(stream_servers, test)
    found = [(message.partition, message.sequence) for message in stream_messages(stream_servers)]
    for sender in senders:
        assert sorted((each.partition, each.sequence) for each in sender.places) == sorted(found)
    assert senders[0].places[0] == Place(partition_of("s", 16), 1, "s", [(1, 1)])


def test_when_one_can_not_be_stored_all_that_wait_are_refused(
    stream_servers: StreamServers,
) -> None:
    async def test(setting: Setting) -> None:
        one, other, late = Sender(), Sender(), Sender()
        setting.submit(array(1), one)
        await one.wait_for(lambda: one.acked == 1)
        setting.link.refuses = True
        for number in (2, 3, 4):
            setting.submit(array(number), one)
        setting.submit(array(5), other)
        await one.wait_for(lambda: one.failures == 1)
        assert (one.is_broken, other.is_broken) == (True, True)
        assert (one.acked, other.acked, other.failures) == (1, 0, 1)
        assert str(setting.storage.last_error) == "the stream refuses messages: on demand"
        assert setting.storage.waiting_bytes == 0
        setting.submit(array(6), late)  # at once
        assert (late.is_broken, late.failures) == (True, 1)
        setting.link.refuses = False
        await setting.until(lambda: setting.storage.last_error is None)
        setting.submit(array(7), one)  # it has to send the others again first
        again = Sender()
        setting.submit(array(2), again)
        await again.wait_for(lambda: again.acked == 1)
        assert (one.acked, one.failures) == (1, 1)

    run(stream_servers, test, SOON)
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2]}


def test_a_server_that_is_cut_off_from_the_leader_is_left(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.is_cut_off = True
        setting.submit(array(1), sender)
        setting.submit(array(1, session="t"), sender)
        await sender.wait_for(lambda: sender.acked == 2)
        assert setting.link.left == 1
        assert setting.failures == 0

    run(stream_servers, test)


def test_a_server_whose_stream_is_full_is_not_left(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.refuses = True
        setting.submit(array(1), sender)
        await sender.wait_for(lambda: sender.failures == 1)
        assert setting.link.left == 0

    run(stream_servers, test, module._LEAVE_AFTER + SOON)


def test_there_is_no_room_while_too_many_bytes_wait(
    stream_servers: StreamServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 10_000)

    async def test(setting: Setting) -> None:
        sender = Sender()
        setting.link.held = "s"
        await setting.storage.room()
        for number in range(10):
            setting.submit(array(number), sender)
        assert setting.storage.waiting_bytes > 10_000
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(setting.storage.room(), 0.05)
        setting.link.go_on.set()
        await asyncio.wait_for(setting.storage.room(), PATIENCE)
        await sender.wait_for(lambda: sender.acked == 10)
        assert setting.storage.waiting_bytes == 0

    run(stream_servers, test)


def test_the_close_stores_what_waits(stream_servers: StreamServers) -> None:
    sender = None

    async def test(setting: Setting) -> None:
        nonlocal sender
        sender = Sender()
        setting.link.held = "s"
        for number in range(10):
            setting.submit(array(number), sender)

    run(stream_servers, test)
    assert sender is not None
    assert sender.acked == 10
    assert numbers(stream_messages(stream_servers)) == {"s": list(range(10))}


def test_a_message_that_is_too_large_is_not_queued(stream_servers: StreamServers) -> None:
    async def test(setting: Setting) -> None:
        sender = Sender()
        with pytest.raises(MessageTooLargeError, match="up to 8388608 bytes"):
            setting.submit(json.dumps([event(1, data={"x": "x" * 8_388_500})]), sender)
        assert setting.storage.waiting_bytes == 0
        setting.submit(array(2), sender)
        await sender.wait_for(lambda: sender.acked == 1)

    run(stream_servers, test)


def test_an_internal_error_is_logged_and_refuses(
    stream_servers: StreamServers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def test(setting: Setting) -> None:
        sender = Sender()
        with monkeypatch.context() as patch:
            patch.setattr(setting.link, "publish", fail)
            setting.submit(array(1), sender)
            await sender.wait_for(lambda: sender.failures == 1)
        await setting.until(lambda: setting.storage.last_error is None)

    run(stream_servers, test)
    lines = Counter(record.getMessage() for record in caplog.records)
    assert lines["internal error in the collector"] >= 1
    assert lines["events are being stored again"] == 1
