"""The gateway with real servers: messages arrive in the stream as they came, and then are acked."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry._compression import DEFLATE, ZSTD, pack, supported
from tests.cluster.gateways import (
    PATIENCE,
    Gateway,
    contents,
    first_ones,
    gateway_running,
    numbers,
    stream_messages,
    suspended,
)
from tests.collector.clients import (
    ACKS,
    acks_up_to,
    array,
    client_of,
    event,
    game,
    lines,
    next_ack,
    read_to_the_end,
)
from tests.collector.test_checks import report
from tests.support.command import run_command
from tests.support.fault_proxy import FaultProxy
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers


@pytest.fixture
def gateway(stream_servers: StreamServers) -> Iterator[Gateway]:
    with gateway_running(stream_servers.urls) as running:
        yield running


def test_games_deliver_through_a_gateway(three_stream_servers: StreamServers) -> None:
    with gateway_running(three_stream_servers.urls) as gateway:
        with game(gateway) as one, game(gateway, wire_format="ndjson") as other:
            for number in range(1000):
                one.emit("hit", {"number": number})
                other.emit("hit", {"number": number})
            assert one.flush(PATIENCE)
            assert other.flush(PATIENCE)
            sessions = [one.session_id, other.session_id]
        found = stream_messages(three_stream_servers)
        assert numbers(found) == {session: list(range(1, 1001)) for session in sessions}
        assert gateway.metric("events_stored_total") == 2000
        assert gateway.metric("events_repeated_total") == 0
    ends = [each.session_id for message in found for each in contents(message).reports]
    assert set(ends) == set(sessions)


@needs_posix
def test_a_message_is_acknowledged_only_when_the_stream_has_it(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    with client_of(gateway) as client:
        client.send(array(1))
        assert next_ack(client) == 1
        with suspended(stream_servers.children):
            client.send(array(2))
            client.send(array(3))
            assert wait_until(lambda: gateway.metric("stream_in_flight") == 1, PATIENCE)
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.5)
        assert acks_up_to(client, 3)[-1] == 3
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2, 3]}


@pytest.mark.parametrize("encoding", [DEFLATE, ZSTD])
def test_a_compressed_message_goes_as_it_came(
    encoding: str, stream_servers: StreamServers, gateway: Gateway
) -> None:
    if encoding not in supported():
        pytest.skip("needs backports.zstd")
    packed = pack(encoding)(array(*range(1, 200)).encode())
    assert packed is not None
    with connect(
        gateway.url, additional_headers=ACKS | {"Telemetry-Encoding": encoding}, proxy=None
    ) as client:
        client.send(packed)
        client.send(array(200))
        assert acks_up_to(client, 2)[-1] == 2
    first, second = stream_messages(stream_servers)
    assert (first.body, first.encoding) == (packed, encoding)
    assert (second.body, second.encoding) == (array(200).encode(), None)


def test_sessions_of_one_message_go_to_their_own_partitions(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    from redvsblue_telemetry.cluster.stream import partition_of

    sessions = [f"session {number}" for number in range(20)]
    mixed = [event(number, session) for number in (1, 2, 3) for session in sessions]
    random.Random(1).shuffle(mixed)
    with client_of(gateway) as client:
        client.send(json.dumps(mixed))
        client.send(lines(4, 5, session=sessions[0]) + lines(4, session=sessions[1]))
        assert acks_up_to(client, 2)[-1] == 2
    found = stream_messages(stream_servers)
    for message in found:
        (session,) = {each.session_id for each in contents(message).events}
        assert message.partition == partition_of(session, 16)
    expected = {
        session: [each["seq"] for each in mixed if each["sessionId"] == session]
        for session in sessions
    }
    expected[sessions[0]] += [4, 5]
    expected[sessions[1]] += [4]
    assert numbers(found) == expected


def test_rejected_parts_travel_with_the_message(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    text = f"[{json.dumps(event(1))}, 7, {json.dumps(event(2))}]"
    with client_of(gateway) as client:
        client.send(text)
        client.send("hello")
        client.send("[]")
        assert acks_up_to(client, 3)[-1] == 3
    found = stream_messages(stream_servers)
    assert sorted(message.body for message in found) == sorted([text.encode(), b"hello"])
    assert all(message.fault is None for message in found)
    assert [len(contents(message).rejected) for message in found] == [1, 1]
    assert gateway.metric("events_rejected_total") == 2
    assert gateway.metric("events_stored_total") == 2


def test_rejected_parts_of_a_message_with_several_sessions_travel_alone(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    text = f"[{json.dumps(event(1))}, 7, 7, {json.dumps(event(1, 'other'))}]"
    with client_of(gateway) as client:
        client.send(text)
        assert next_ack(client) == 1
    found = stream_messages(stream_servers)
    assert numbers(found) == {"s": [1], "other": [1]}
    faults = [message for message in found if message.fault is not None]
    assert [message.body for message in faults] == [b"7", b"7"]
    assert all("Expected `object`" in str(message.fault) for message in faults)


def test_a_message_that_can_not_be_unpacked_is_a_fault_in_the_stream(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    with connect(
        gateway.url, additional_headers=ACKS | {"Telemetry-Encoding": DEFLATE}, proxy=None
    ) as client:
        client.send(b"\x00not deflate" + bytes(2000))
        assert read_to_the_end(client) == ([], 1007)
    assert wait_until(lambda: gateway.metric("events_rejected_total") == 1, PATIENCE)
    (message,) = stream_messages(stream_servers)
    assert message.fault is not None
    assert message.fault.startswith("compressed message: not the zlib format")
    assert message.body == (b"\x00not deflate" + bytes(2000))[:1024]


def test_reports_of_one_or_several_sessions_arrive(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    both = lines(1).strip() + "\n" + report("s") + "\n" + report("other") + "\n"
    with client_of(gateway) as client:
        client.send(report("s"))
        client.send(both)
        assert acks_up_to(client, 2)[-1] == 2
    found = [contents(message) for message in stream_messages(stream_servers)]
    reported = [each for message in found for each in message.reports]
    assert sorted(each.session_id for each in reported) == ["other", "s", "s"]
    assert {each.dropped["overflow"] for each in reported} == {2}
    assert [each.seq for message in found for each in message.events] == [1]


def test_a_check_passes_and_loaders_are_to_leave_it_out(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    done = run_command("check", gateway.url)
    assert done.returncode == 0, done.stdout + done.stderr
    found = stream_messages(stream_servers)
    assert found
    assert all(message.is_check for message in found)
    assert gateway.metric("events_stored_total") == 0


def test_a_message_that_is_too_large_for_the_stream_is_refused(
    stream_servers: StreamServers,
) -> None:
    with (
        gateway_running(stream_servers.urls, "--max-message-bytes", 20_000_000) as gateway,
        client_of(gateway) as client,
    ):
        client.send(array(1))
        client.send(json.dumps([event(2, data={"text": "x" * (8 * 1024 * 1024)})]))
        assert read_to_the_end(client)[1] == 1009
        assert gateway.is_healthy
        with client_of(gateway) as other:
            other.send(json.dumps([event(2, data={"text": "x" * (7 * 1024 * 1024)})]))
            assert next_ack(other) == 1
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2]}


def test_a_message_with_thousands_of_sessions_is_refused_at_once(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    with client_of(gateway) as client, client_of(gateway) as other:
        client.send(json.dumps([event(1, f"session {number}") for number in range(5000)]))
        assert read_to_the_end(client)[1] == 1009
        other.send(array(1))
        assert next_ack(other) == 1
    assert numbers(stream_messages(stream_servers)) == {"s": [1]}


def test_a_message_that_comes_again_is_in_the_stream_once(stream_servers: StreamServers) -> None:
    with (
        gateway_running(stream_servers.urls) as one,
        gateway_running(stream_servers.urls) as other,
    ):
        for gateway in (one, other, one):
            with client_of(gateway) as client:
                client.send(array(1, 2, 3))
                client.send(array(4))
                assert acks_up_to(client, 2)[-1] == 2
        assert one.metric("events_stored_total") == 4
        assert one.metric("events_repeated_total") == 4
        assert other.metric("events_repeated_total") == 4
    assert numbers(stream_messages(stream_servers)) == {"s": [1, 2, 3, 4]}


def test_a_client_moves_between_gateways(three_stream_servers: StreamServers) -> None:
    urls = three_stream_servers.urls
    with gateway_running(urls) as one, gateway_running(urls) as other, FaultProxy() as balancer:
        ports = [int(each.http_url.rsplit(":")[2].strip("/")) for each in (one, other)]
        balancer.upstream = ("127.0.0.1", ports[0])
        with game(balancer, batch_size=20) as telemetry:
            for turn in range(10):
                before = telemetry.stats().delivered
                for _ in range(200):
                    telemetry.emit("hit")
                assert wait_until(lambda n=before: telemetry.stats().delivered > n, PATIENCE)
                balancer.upstream = ("127.0.0.1", ports[(turn + 1) % 2])
                balancer.reset()
            assert telemetry.flush(PATIENCE)
            session = telemetry.session_id
            assert telemetry.stats().delivered == 2000
        assert min(each.metric("events_stored_total") for each in (one, other)) > 0
    found = numbers(stream_messages(three_stream_servers))[session]
    assert first_ones(found) == list(range(1, 2001))


@needs_posix
def test_all_that_was_received_is_acknowledged_before_the_end(
    stream_servers: StreamServers, gateway: Gateway
) -> None:
    with client_of(gateway) as client:
        with suspended(stream_servers.children):
            for number in range(1, 31):
                client.send(array(number))
            assert wait_until(lambda: gateway.metric("stream_waiting_bytes") >= 30 * 1024, PATIENCE)
            gateway.running.process.send_signal(signal.SIGTERM)
            gateway.running.wait_for("stopping")
        acks, code = read_to_the_end(client)
        assert (acks[-1], code) == (30, 1001)
        assert gateway.running.end() == 0
        assert "everything received is stored" in gateway.running.output
    assert numbers(stream_messages(stream_servers)) == {"s": list(range(1, 31))}


def test_it_says_where_people_look_and_has_no_api(stream_servers: StreamServers) -> None:
    page = "https://telemetry.example/"
    with gateway_running(stream_servers.urls, "--public-url", page) as gateway:
        status, text = gateway.get("")
        assert status == 200
        assert page in text
        assert gateway.get("api/events")[0] == 404
        assert gateway.get("telemetry")[0] == 426


def test_a_token_is_needed_for_all_but_its_health(stream_servers: StreamServers) -> None:
    with gateway_running(stream_servers.urls, "--token", "sesame") as gateway:
        assert gateway.get("healthz") == (200, "ok\n")
        assert [gateway.get(path)[0] for path in ("", "metrics", "telemetry")] == [401] * 3
        with client_of(gateway, token="sesame") as client:
            client.send(array(1))
            assert next_ack(client) == 1


def test_the_token_of_games_does_not_open_the_metrics_if_people_have_another(
    stream_servers: StreamServers,
) -> None:
    options = ("--token", "sesame", "--read-token", "thyme")
    with gateway_running(stream_servers.urls, *options) as gateway:
        assert gateway.get("metrics", token="sesame")[0] == 401
        status, text = gateway.get("metrics", token="thyme")
        assert (status, "telemetry_stream_connected 1.0" in text) == (200, True)
        with client_of(gateway, token="sesame") as client:
            client.send(array(1))
            assert next_ack(client) == 1


def test_clients_beyond_the_limits_are_refused_as_by_a_collector(
    stream_servers: StreamServers,
) -> None:
    options = ("--max-connections", 1, "--max-rate", 10)
    with (
        gateway_running(stream_servers.urls, *options) as gateway,
        client_of(gateway) as client,
    ):
        client.send(array(1))
        assert next_ack(client) == 1
        with client_of(gateway) as other:
            assert read_to_the_end(other) == ([], 1013)
        client.send(array(*range(2, 200)))
        client.send(array(200))
        assert read_to_the_end(client)[1] == 1008
