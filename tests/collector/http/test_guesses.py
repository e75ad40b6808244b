"""Wrong tokens: held back, counted and logged. The right one is let in at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from redvsblue_telemetry.collector.http import guesses
from redvsblue_telemetry.collector.http.guesses import Guesses
from tests.collector.http.test_access import (
    UPGRADE,
    Asked,
    answer_to,
    ask,
    asked,
    line_of,
    request,
    shake,
)
from tests.support.collector import PATIENCE, RunningCollector, bearer, collector_running
from tests.support.wait import wait_until

__all__ = ["asked"]  # a fixture
RIGHT, WRONG = line_of(bearer("sesame")), line_of(bearer("guess"))


def seconds(asked: Asked, collector: RunningCollector, *lines: str) -> tuple[int, float]:
    started = time.monotonic()
    status = asked(collector, *lines).status
    return status, time.monotonic() - started


def refused(collector: RunningCollector, line: str = RIGHT) -> dict[str, float]:
    text = ask(collector, line, target="/metrics").body.decode()
    pattern = r'^telemetry_refused_requests_total\{reason="(\w+)"\} (\S+)$'
    return {name: float(count) for name, count in re.findall(pattern, text, re.MULTILINE)}


def test_wrong_tokens_are_answered_ever_later(asked: Asked) -> None:
    with collector_running(token="sesame") as collector:
        times = []
        for _ in range(8):
            status, took = seconds(asked, collector, WRONG)
            assert status == 401
            times.append(took)
        assert times[5] > 0.25
        assert times[6] > 0.5
        assert times[7] > 1.0


def test_too_many_at_once_are_refused_and_the_right_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guesses, "_MAX_DELAY", 3600)
    monkeypatch.setattr(guesses, "_FIRST_DELAY", 3600)
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(token="sesame"))
        statuses: list[int] = []
        held = []
        for count in range(5 + 16):
            client = socket.create_connection(("127.0.0.1", collector.port), PATIENCE)
            stack.enter_context(client)
            client.sendall(request(collector, WRONG))
            if count < 5:
                statuses.append(answer_to(client).status)
            else:
                held.append(client)
        assert statuses == [401] * 5

        def is_refused() -> bool:
            with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
                client.sendall(request(collector, WRONG))
                client.settimeout(0.2)
                with contextlib.suppress(TimeoutError, socket.timeout):
                    statuses.append(answer_to(client).status)
            return 429 in statuses

        assert wait_until(is_refused, PATIENCE)
        answer = ask(collector, WRONG)
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert shake(collector, WRONG).status == 429
        assert ask(collector, RIGHT).status == 200
        assert shake(collector, RIGHT).status == 101
        assert ask(collector).status == 401, "a browser's first request is not a guess"
        collector.stop()
        assert {answer_to(client).status for client in held} == {401}


def test_client_that_leaves_while_its_answer_is_held_back_does_no_harm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "_FREE_GUESSES", 0)
    monkeypatch.setattr(guesses, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(guesses, "_MAX_DELAY", 0.05)
    with collector_running(token="sesame") as collector:
        for sent in (
            request(collector, WRONG),
            request(collector, *UPGRADE, WRONG, target="/telemetry"),
        ):
            with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
                client.sendall(sent)
        assert wait_until(lambda: refused(collector)["wrong_token"] == 2, PATIENCE)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_refusals_are_counted_by_reason() -> None:
    with collector_running(token="sesame", read_token="simsim") as collector:
        reader = line_of(bearer("simsim"))
        none = dict.fromkeys(
            ("host", "origin", "site", "no_token", "wrong_token", "other_token", "too_many"), 0.0
        )
        assert refused(collector, reader) == none
        ask(collector, host="evil.example")
        ask(collector, "Origin: http://evil.example")
        ask(collector, "Sec-Fetch-Site: cross-site")
        ask(collector)
        ask(collector, WRONG)
        shake(collector, WRONG)
        ask(collector, RIGHT)
        expected = {"host": 1.0, "origin": 1.0, "site": 1.0, "no_token": 1.0}
        expected |= {"wrong_token": 2.0, "other_token": 1.0}
        assert refused(collector, reader) == none | expected


def test_wrong_tokens_are_logged_once_with_the_address(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    with collector_running(token="sesame", trust_proxy=True) as collector:
        for number in range(5):
            asked(collector, WRONG, f"X-Forwarded-For: 192.0.2.{number + 1}")
        asked(collector)
    found = [record.getMessage() for record in caplog.records if "token" in record.getMessage()]
    assert found == ["refused a request: wrong token; from 192.0.2.1"]
    assert "guess" not in caplog.text


# The table of addresses.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def test_addresses_are_slowed_each_for_itself_and_forgotten() -> None:
    async def scenario() -> None:
        clock = Clock()
        table = Guesses(clock)
        delays = [table._note("192.0.2.1") for _ in range(40)]
        assert delays[:8] == [0, 0, 0, 0, 0, 0.25, 0.5, 1]
        assert delays[-1] == 4
        assert table._note("192.0.2.2") == 0
        clock.now = 299
        assert table._note("192.0.2.1") == 4
        clock.now = 299 + 301
        assert table._note("192.0.2.1") == 0

    run(scenario())


def test_table_is_bounded() -> None:
    async def scenario() -> None:
        table = Guesses(Clock())
        for number in range(10_000):
            assert await table.hold((f"10.0.{number // 250}.{number % 250}", 1))
        assert len(table._noted) == 4096
        assert not table._held

    run(scenario())


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),  # one user has all of a /64
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_networks_of_one_user_are_one_address(one: str, other: str, is_same: bool) -> None:
    assert (guesses._source((one, 1)) == guesses._source((other, 2))) == is_same


def test_client_without_an_address_is_one_too() -> None:
    assert guesses._source(None) == guesses._source(None)
