"""``collect``: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry.cli._arguments import AlertCondition
from redvsblue_telemetry.cli._runner import _SafeFormatter
from redvsblue_telemetry.cli._serving import page_url
from tests.support.collector import bearer
from tests.support.command import (
    ENDINGS,
    PATIENCE,
    Running,
    command_without_reader,
    environment,
    invoke_command,
    needs_full_disk,
    run_command_onto_full_disk,
    running_command,
)
from tests.support.ports import own_port
from tests.support.systems import IS_WINDOWS, IS_WINE, needs_posix, not_on_windows
from tests.support.wait import wait_until
from tests.support.webhook import Receiver

TOKEN = "sesame-7"
CTRL_C_EXIT = -signal.SIGINT
if IS_WINDOWS:
    CTRL_C_EXIT = 0 if IS_WINE else 0xC000013A  # wine has no such exit code


def url_of(collector: Running) -> str:
    collector.wait_for("Press Ctrl-C to stop.\n")
    found = re.search(r"http://([\w.:]+)/", collector.output)
    assert found
    return f"ws://{found[1]}/telemetry"


def event(seq: int, **data: object) -> dict[str, object]:
    names = {"id": f"id-{seq}", "type": "shot", "timestamp": 1_700_000_000_000 + seq}
    return {**names, "sessionId": "s", "seq": seq, "data": data}


def message(*seqs: int) -> str:
    return json.dumps([event(seq) for seq in seqs])


def connected(url: str, token: str | None = None) -> ClientConnection:
    headers = {"Telemetry-Ack": "cumulative", **bearer(token)}
    return connect(url, additional_headers=headers, proxy=None)


def stored_in(db: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM events ORDER BY arrival")]


def test_what_it_says_is_what_makes_it_move(tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite3"
    with running_command("collect", "--port", 0, "--db", db) as collector:
        url_of(collector)
        assert str(db) in collector.output
        begin = collector.lines.index("from redvsblue_telemetry import start_telemetry")
        code = collector.lines[begin : begin + 3]
        game = subprocess.run(
            [sys.executable, "-c", "\n".join(code)], env=environment(), check=False, timeout=30
        )
        assert game.returncode == 0
        assert stored_in(db) == [1]
        assert "\x1b" not in collector.output
        assert collector.end(signal.SIGINT) == 0

    assert collector.errors == ""


@pytest.mark.parametrize("ending", ENDINGS)
def test_signal_ends_it_with_everything_stored_and_clients_closed(
    ending: signal.Signals, tmp_path: Path
) -> None:
    db = tmp_path / "t.sqlite3"
    with running_command("collect", "--port", 0, "--db", db) as collector:
        with connected(url_of(collector)) as client:
            for seq in range(1, 51):
                client.send(message(seq))
            acknowledged = json.loads(client.recv(PATIENCE))["ack"]  # so it has come that far
            collector.send(ending)
            for said in client:  # ends without an error when it is closed as it should be
                acknowledged = json.loads(said)["ack"]
            assert client.protocol.close_code == 1001
        assert collector.end() == 0

    assert stored_in(db) == list(range(1, acknowledged + 1))
    assert "stopped" in collector.output
    assert collector.errors == ""


@contextlib.contextmanager
def stubborn_client(collector: Running) -> Iterator[None]:
    """One that keeps the collector waiting, as it doesn't answer when it is to close."""
    found = re.search(r"ws://([\d.]+):(\d+)", url_of(collector))
    assert found
    with socket.create_connection((found[1], int(found[2])), timeout=PATIENCE) as stubborn:
        stubborn.sendall(
            b"GET /telemetry HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"101" in stubborn.recv(4096)
        yield


def test_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with (
        running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector,
        stubborn_client(collector),
    ):
        collector.send(signal.SIGINT)
        collector.wait_for("stopping; press Ctrl-C again")
        assert collector.end(signal.SIGINT) == CTRL_C_EXIT


@needs_posix
@pytest.mark.parametrize("first", ["SIGHUP", "SIGTERM"])
def test_hangup_after_another_signal_does_not_hasten_the_end(first: str, tmp_path: Path) -> None:
    """A terminal that is closed sends two, and a stop may come with the hook of a certificate."""
    with (
        running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector,
        stubborn_client(collector),
    ):
        collector.send(signal.Signals[first])
        collector.wait_for("stopping; press Ctrl-C again")
        assert collector.end(signal.SIGHUP) == 0
    assert "stopped; everything received is stored" in collector.output


@needs_posix
@pytest.mark.parametrize("until", [b"collecting", b"Press Ctrl-C to stop."])
def test_it_goes_on_and_ends_as_it_should_though_nobody_reads_what_it_says(
    until: bytes, tmp_path: Path
) -> None:
    db, port = tmp_path / "t.sqlite3", own_port()
    with command_without_reader("collect", "--port", port, "--db", db, until=until) as collector:
        with connected(f"ws://127.0.0.1:{port}/telemetry") as client:
            client.send(message(1))
            client.recv(PATIENCE)
            collector.send_signal(signal.SIGTERM)
            assert code_of_close(client) == 1001
        _, errors = collector.communicate(timeout=PATIENCE)

    assert (collector.returncode, errors) == (0, b"")
    assert stored_in(db) == [1]


@needs_full_disk
def test_full_disk_for_what_it_says_is_one_line_and_exit_code_2() -> None:
    done = run_command_onto_full_disk("collect", "--port", 0, "--db", ":memory:")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"Error: standard output can't be written: ")


@pytest.mark.parametrize("rate", ["nan", "0"])
def test_rate_that_is_none_is_wrong_usage(rate: str) -> None:
    done = invoke_command("collect", "--port", 0, "--db", ":memory:", "--max-rate", rate)

    assert done.exit_code == 2
    assert "Invalid value for '--max-rate'" in done.output


def test_token_of_the_environment_guards_it_and_is_never_shown(tmp_path: Path) -> None:
    variables = {"REDVSBLUE_COLLECTOR_TOKEN": TOKEN}
    db = tmp_path / "t.sqlite3"
    with running_command("collect", "--port", 0, "--db", db, **variables) as collector:
        url = url_of(collector)
        with pytest.raises(InvalidStatus) as refused, connected(url):
            pass
        assert refused.value.response.status_code == 401
        with connected(url, TOKEN) as client:
            client.send(message(1))
            client.recv(PATIENCE)
        assert 'token="…"' in collector.output
        assert TOKEN not in collector.said


def test_limits_are_those_of_the_arguments(tmp_path: Path) -> None:
    arguments = ["--max-message-bytes", 300, "--max-connections", 1, "--max-rate", 0.5]
    with running_command("collect", "--port", 0, "--db", ":memory:", *arguments) as collector:
        url = url_of(collector)
        assert "stored in a temporary file" in collector.output
        with connected(url) as client:
            client.send(message(1))
            client.recv(PATIENCE)
            with connected(url) as second:
                assert code_of_close(second) == 1013
            client.send(message(2) + " " * 300)
            assert code_of_close(client) == 1009
        with connected(url) as third:
            lines = "\n".join(json.dumps({"seq": seq}) for seq in range(6))  # of 10 s: five
            third.send(lines)  # is taken, and leaves nothing for what follows
            third.recv(PATIENCE)
            third.send(lines)
            assert code_of_close(third) == 1008


def code_of_close(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(PATIENCE)
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


def test_quiet_says_nothing(tmp_path: Path) -> None:
    db, port = tmp_path / "t.sqlite3", own_port()
    with running_command("collect", "--quiet", "--port", port, "--db", db) as collector:
        assert wait_until(lambda: _listens(port), PATIENCE)
        assert collector.end(signal.SIGTERM) == 0

    assert collector.said.strip("\n") == "--"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--token", " "], "the token is empty"),
        (["--db", "{folder}/none/t.sqlite3"], "none does not exist"),
        (["--db", ""], "the file name is empty"),
        pytest.param(
            ["--db", "/dev/null"],
            "/dev/null is not a regular file; choose another file",
            marks=not_on_windows("a device can be created, and fails as a database"),
        ),
        (["--db", "{folder}"], "is a directory"),
        (["--schema", ""], "the file name is empty"),
        (["--db", "{folder}/text"], "not a database"),
        (["--db", "{folder}/other"], "not a telemetry database"),
        (["--port", "{taken}"], "--port"),
        (["--schema", "{folder}/none.json"], "cannot read"),
        (["--schema", "{folder}/text"], "not a schema as `redvsblue-telemetry schema` writes it"),
    ],
)
def test_what_it_cannot_do_is_one_line_and_exit_code_2(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no database" * 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE theirs (id)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"folder": tmp_path, "taken": taken.getsockname()[1]}
        done = invoke_command(
            *("collect", "--port", 0, "--db", tmp_path / "t"),
            *(argument.format(**names) for argument in arguments),
        )

    assert done.exit_code == 2
    line = done.output.splitlines()[-1]  # click puts the usage before
    assert line.startswith("Error: ")
    assert reason in line


def test_page_of_every_address_is_looked_at_on_this_machine() -> None:
    assert page_url("http://0.0.0.0:3000/") == "http://127.0.0.1:3000/"
    assert page_url("http://[::]:3000/") == "http://[::1]:3000/"
    assert page_url("http://127.0.0.1:3000/") == "http://127.0.0.1:3000/"


def test_log_line_shows_what_a_client_sent_as_printable_text() -> None:
    formatter = _SafeFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "bad: %s", ("\x1b[2J\nmore",), None)

    assert formatter.format(record) == "ERROR bad: \\u001b[2J\nmore"


def test_alert_test_posts_to_each_url_and_fails_if_one_does() -> None:
    with Receiver() as good, Receiver(403) as bad:
        works = invoke_command(
            "collect", "--alert-test", "--public-url", "https://t.example/", "--alert", good.url
        )
        assert (works.exit_code, works.output) == (0, "127.0.0.1: took the test\n")
        fails = invoke_command(
            "collect", "--alert-test", REDVSBLUE_COLLECTOR_ALERT=f"{good.url} {bad.url}"
        )
    assert fails.exit_code == 1
    assert fails.output == "127.0.0.1: took the test\n127.0.0.1: it answered with status 403\n"
    assert Receiver.SECRET not in fails.output
    assert [alert["name"] for alert in good.alerts] == ["test", "test"]
    assert good.alerts[0]["page"] == "https://t.example/"


def test_alert_test_needs_a_url_and_never_quotes_one() -> None:
    missing = invoke_command("collect", "--alert-test")
    assert missing.exit_code == 2
    assert "REDVSBLUE_COLLECTOR_ALERT" in missing.output
    for arguments in (["--alert-test"], ["--port", 0]):
        wrong = invoke_command("collect", *arguments, "--alert", f"hooks.example/{Receiver.SECRET}")
        assert wrong.exit_code == 2
        assert "must start with https://" in wrong.output
        assert Receiver.SECRET not in wrong.output


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("crash-free<98.5%", ("crash-free", 0.985)),
        (" gaps > 0.1 % ", ("gaps", 0.001)),
        ("rejected>100%", ("rejected", 1.0)),
        ("silence>15m", ("silence", 900.0)),
        ("silence=off", ("silence", None)),
        ("disk=off", ("disk", None)),
    ],
)
def test_conditions_of_alerts_are_read(given: str, read: tuple[str, float | None]) -> None:
    assert AlertCondition().convert(given, None, None) == read


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("crash-free", "must start with one of"),
        ("speed<3%", "must start with one of crash-free, gaps"),
        ("crash-free>99%", "must be crash-free< and a limit, or crash-free=off"),
        ("gaps<1%", "must be gaps> and a limit"),
        ("gaps=1%", "must be gaps> and a limit"),
        ("gaps>1", "a share such as 1%"),
        ("gaps>101%", "a share such as 1%"),
        ("gaps>1e999%", "a share such as 1%"),
        ("silence>15", "not a time such as"),
        ("disk<5%", "disk has no limit; disk=off"),
        ("storing=on", "storing has no limit"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(given: str, reason: str) -> None:
    result = invoke_command("collect", "--alert-when", given)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.replace("│", " ").split())


def test_a_condition_that_is_given_twice_is_refused() -> None:
    twice = ["--alert-when", "silence>1h", "--alert-when", "silence>2h"]
    result = invoke_command("collect", *twice)
    assert result.exit_code == 2
    assert "more than once for silence" in result.output


def test_it_says_where_alerts_go_without_the_secret(tmp_path: Path) -> None:
    alerts = f"https://hooks.example/{Receiver.SECRET} https://chat.example/{Receiver.SECRET}"
    with running_command(
        "collect", "--port", 0, "--db", tmp_path / "t", REDVSBLUE_COLLECTOR_ALERT=alerts
    ) as collector:
        collector.wait_for("Press Ctrl-C")
        assert "alerts go to hooks.example, chat.example\n" in collector.output
        assert collector.end(signal.SIGINT) == 0
    assert Receiver.SECRET not in collector.said
