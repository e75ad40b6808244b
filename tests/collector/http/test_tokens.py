"""One token for games, and another one for people."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from redvsblue_telemetry.collector.client import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from redvsblue_telemetry.collector.http.access import Access, AccessControl
from redvsblue_telemetry.collector.server import Options, OptionsError
from tests.collector.clients import game
from tests.collector.http.test_access import METHODS, PATHS, ask, line_of, shake
from tests.support.collector import (
    PATIENCE,
    RunningCollector,
    basic,
    bearer,
    collector_running,
)
from tests.support.command import invoke_command

GAMES, PEOPLE = "for-the-games", "for-the-people"
GAME, PERSON = (line_of(bearer(token)) for token in (GAMES, PEOPLE))
READ = [path for path in PATHS if path != "/telemetry"]


@pytest.fixture(scope="module")
def two() -> Iterator[RunningCollector]:
    with collector_running(token=GAMES, read_token=PEOPLE, allow_reset=True) as running:
        yield running


def test_each_token_opens_its_part(two: RunningCollector) -> None:
    with game(two, token=GAMES) as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
    for line in (PERSON, line_of(basic(PEOPLE, user="me"))):
        for target in ("/", "/static/app.js", "/api/stats", "/api/live", "/metrics"):
            assert ask(two, line, target=target).status == 200
    assert two.events_of("hit").types() == ["hit"]  # the public class knows which token to show


@pytest.mark.parametrize("method", METHODS)
def test_token_of_games_opens_nothing_else(two: RunningCollector, method: str) -> None:
    found = {path: ask(two, GAME, target=path, method=method) for path in READ}
    assert {answer.status for answer in found.values()} == {401}
    if method == "GET":
        errors = {answer.json()["error"] for answer in found.values()}
        assert errors == {"this is the token of games; this needs the read token"}


def test_token_of_people_sends_nothing(two: RunningCollector) -> None:
    for answer in (shake(two, PERSON), ask(two, PERSON, target="/telemetry")):
        assert answer.status == 401
        expected = "this is the read token; this needs the token of games"
        assert answer.json() == {"error": expected}
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    for path in PATHS:  # no WebSocket is a person's
        assert shake(two, PERSON, target=path).status == 401
        assert shake(two, GAME, target=path).status == (101 if path == "/telemetry" else 404)


def test_missing_and_wrong_tokens_learn_which_one_is_needed(two: RunningCollector) -> None:
    wrong = line_of(bearer("guess"))
    for lines, what in (((), "missing"), ((wrong,), "wrong")):
        assert ask(two, *lines).json() == {"error": f"{what} token; this needs the read token"}
        error = {"error": f"{what} token; this needs the token of games"}
        assert shake(two, *lines).json() == error


def test_health_needs_neither(two: RunningCollector) -> None:
    for lines in ((), (GAME,), (PERSON,), (line_of(bearer("guess")),)):
        assert ask(two, *lines, target="/healthz").status == 200


def test_who_deletes_shows_the_token_of_people(two: RunningCollector) -> None:
    reset = {"method": "DELETE", "target": "/api/events"}
    assert ask(two, GAME, **reset).status == 401
    assert ask(two, PERSON, **reset).status == 204


def test_commands_that_read_take_the_read_token(two: RunningCollector) -> None:
    prove = ("prove", "--url", two.http_url)
    assert invoke_command(*prove, "--token", PEOPLE).exit_code == 0
    both = {READ_TOKEN_VARIABLE: PEOPLE, TOKEN_VARIABLE: GAMES}
    assert invoke_command(*prove, **both).exit_code == 0
    for command in (prove, ("tail", "--url", two.http_url)):
        done = invoke_command(*command, "--token", GAMES)
        assert done.exit_code == 2
        assert "this is the token of games; this needs the read token" in done.stderr
        assert GAMES not in done.stderr


def test_check_takes_the_token_of_games(two: RunningCollector) -> None:
    assert invoke_command("check", two.url, "--token", GAMES).exit_code == 0
    done = invoke_command("check", two.url, "--token", PEOPLE)
    assert done.exit_code == 1
    assert "A collector with two wants that of games here" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"read_token": "x"}, "--read-token needs --token"),
        ({"token": "x", "read_token": "x"}, "are the same"),
        ({"token": "x", "read_token": " "}, "the read token is empty"),
        ({"token": "x", "read_token": "y "}, "the read token starts or ends with whitespace"),
        ({"token": "x", "read_token": "ü"}, "the read token must be printable ASCII"),
    ],
)
def test_read_token_that_makes_no_sense_is_refused(tokens: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        Options(**tokens).check()


@pytest.mark.parametrize(
    ("tokens", "path", "shown", "expected"),
    [
        ({}, "/api/stats", GAMES, False),
        ({"token": GAMES}, "/api/stats", GAMES, True),
        ({"token": GAMES}, "/healthz", None, False),
        ({"token": GAMES}, "/healthz", GAMES, True),
        ({"token": GAMES, "read_token": PEOPLE}, "/api/stats", PEOPLE, True),
        ({"token": GAMES, "read_token": PEOPLE}, "/telemetry", GAMES, True),
        ({"token": GAMES, "read_token": PEOPLE}, "/healthz", GAMES, False),
    ],
)
def test_application_learns_whether_the_token_was_shown(
    tokens: dict[str, Any], path: str, shown: str | None, expected: bool
) -> None:
    seen: list[bool] = []

    async def application(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope["state"]["shows_token"])

    async def never(*_: Any) -> Any:
        raise AssertionError("refused")

    headers = [(b"host", b"localhost")]
    headers += [(b"authorization", f"Bearer {shown}".encode())] if shown else []
    scope = {"type": "http", "scheme": "http", "method": "GET", "path": path, "headers": headers}
    asyncio.run(AccessControl(application, Access(**tokens))(scope, never, never))
    assert seen == [expected]
