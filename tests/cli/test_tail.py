"""``tail``: all that comes, in its order, and nothing that harms a terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry._schema import EventSchema, EventSchemas, write_schemas
from tests.support.collector import (
    REFUSING_PORT,
    RunningCollector,
    bearer,
    collector_running,
)
from tests.support.command import (
    PATIENCE,
    Running,
    Terminal,
    command,
    command_without_reader,
    environment,
    invoke_command,
    needs_full_disk,
    run_command_onto_full_disk,
    running_command,
)
from tests.support.ports import own_port
from tests.support.systems import needs_posix, needs_proc, needs_terminals
from tests.support.wait import wait_until

TOKEN = "sesame-7"
HOSTILE = "\x9b31m\u202e\x7f"  # JSON allows these as they are, and ESC as an escape


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


@pytest.fixture
def collector(db: Path) -> Iterator[RunningCollector]:
    with collector_running(db=db, allow_reset=True) as running:
        yield running


def send(
    collector: RunningCollector,
    *seqs: int,
    session: str = "s",
    type_: str = "shot",
    data: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> None:
    """Send events in one message, and wait until they are stored."""
    events = [
        {
            "id": f"{session}-{seq}",
            "type": type_,
            "timestamp": 1_700_000_000_000 + seq,
            "sessionId": session,
            "seq": seq,
            "data": {"number": seq} if data is None else data,
            **({} if context is None else {"context": context}),
        }
        for seq in seqs
    ]
    headers = {"Telemetry-Ack": "cumulative", **bearer(token)}
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        client.send(json.dumps(events, ensure_ascii=False))
        client.recv(PATIENCE)


def shown(tail: Running) -> list[int]:
    """The numbers of the events that were printed as JSON."""
    whole = tail.output.rpartition("\n")[0]
    return [json.loads(line)["seq"] for line in whole.splitlines()]


def test_begins_with_the_newest_and_goes_on_with_each_once_in_order(
    collector: RunningCollector,
) -> None:
    send(collector, *range(1, 1301))
    with running_command("tail", "--url", collector.http_url, "--json", "-n", 700) as tail:
        tail.wait_for_lines(700)
        assert shown(tail) == list(range(601, 1301))
        send(collector, *range(1301, 2501))  # more than one page, between two looks
        for seq in range(2501, 2600):
            send(collector, seq)
        tail.wait_for_lines(700 + 1299)
        assert shown(tail) == list(range(601, 2600))
        assert tail.end(signal.SIGINT) == 0
    assert tail.errors == ""


def test_large_events_that_fit_into_no_page_are_all_shown() -> None:
    with collector_running(max_message_bytes=32 * 1024 * 1024) as collector:
        large = {"text": "x" * 1_000_000}  # eight of them are the most that one answer has
        send(collector, *range(1, 14), data=large)
        with running_command("tail", "--url", collector.http_url, "--json", "-n", 12) as tail:
            tail.wait_for_lines(12)
            assert shown(tail) == list(range(2, 14))
            send(collector, *range(14, 27), data=large)  # in one transaction: seen by one look
            tail.wait_for_lines(12 + 13)
            assert shown(tail) == list(range(2, 27))


def test_more_are_asked_for_than_there_are(collector: RunningCollector) -> None:
    send(collector, 1, 2)
    with running_command("tail", "--url", collector.http_url, "--json", "-n", 10**9) as tail:
        tail.wait_for_lines(2)
        assert shown(tail) == [1, 2]


@pytest.mark.slow
@needs_proc
def test_events_to_begin_with_are_not_all_in_memory(tmp_path: Path) -> None:
    with collector_running(max_message_bytes=64 * 1024 * 1024) as collector:
        send(collector, *range(1, 1201), data={"text": "x" * 50_000})
        peaks = [peak_of_tail(collector, count, tmp_path / "shown") for count in (1, 1200)]
    assert peaks[1] - peaks[0] < 100 * 1024 * 1024  # 60 MB, kept and then joined, take 250


def peak_of_tail(collector: RunningCollector, count: int, output: Path) -> int:
    """The most bytes of memory that it took to begin with so many events of 50 kB."""
    arguments = command("tail", "--url", collector.http_url, "-n", count)
    with (
        output.open("wb") as stream,
        subprocess.Popen(arguments, env=environment(), stdout=stream) as tail,
    ):
        try:
            assert wait_until(lambda: output.stat().st_size > count * 50_000, PATIENCE)
            status = Path(f"/proc/{tail.pid}/status").read_text()
        finally:
            tail.kill()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_with_none_of_the_old_ones_it_shows_only_what_comes(collector: RunningCollector) -> None:
    send(collector, 1)
    seqs = iter(range(2, 10_000))
    with running_command("tail", "--url", collector.http_url, "--json", "-n", 0) as tail:

        def is_shown_after_one_more() -> bool:
            send(collector, next(seqs))
            return "\n" in tail.output

        assert wait_until(is_shown_after_one_more, PATIENCE), tail.said
        first = shown(tail)[0]
        last = next(seqs)
        send(collector, last)
        tail.wait_for_lines(last - first + 1)
        assert shown(tail) == list(range(first, last + 1))
        assert first > 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--type", "hit"], [2, 4, 6, 8]),
        (["--session", "other"], [3, 4, 7, 8]),
        (["--text", '"needle"'], [3, 7]),
        (["--type", "hit", "--session", "other"], [4, 8]),
        (["--context", "player=p-17"], [2, 6]),
    ],
)
def test_filters_hold_for_stored_events_and_for_new_ones(
    arguments: list[str], expected: list[int], collector: RunningCollector
) -> None:
    def send_four(first: int) -> None:
        send(collector, first)
        send(collector, first + 1, type_="hit", context={"player": "p-17"})
        send(collector, first + 2, session="other", data={"needle": 1})
        send(collector, first + 3, session="other", type_="hit")

    send_four(1)
    with running_command("tail", "--url", collector.http_url, "--json", *arguments) as tail:
        tail.wait_for_lines(len(expected) // 2)
        send_four(5)
        tail.wait_for_lines(len(expected))
        assert shown(tail) == expected


def test_plain_line_has_its_fields_between_tabs(collector: RunningCollector) -> None:
    send(collector, 7, type_="a\tb", data={"x": "y z"})
    with running_command("tail", "--url", collector.http_url) as tail:
        tail.wait_for_lines(1)
        time, session, seq, type_, data = tail.lines[0].split("\t")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", time)
    assert (session, seq, type_) == ("s", "7", r"a\u0009b")
    assert json.loads(data) == {"x": "y z"}


def test_context_is_the_last_field_of_a_plain_line(collector: RunningCollector) -> None:
    send(collector, 1, data={"x": 1}, context={"player": "p\t17"})
    with running_command("tail", "--url", collector.http_url) as tail:
        tail.wait_for_lines(1)
        *_, data, context = tail.lines[0].split("\t")
    assert (json.loads(data), json.loads(context)) == ({"x": 1}, {"player": "p\t17"})


def test_fault_is_the_last_field_of_a_plain_line(tmp_path: Path) -> None:
    schema = tmp_path / "events.json"
    data = EventSchema("hit", {"properties": {"x": {"type": "string"}}})
    schema.write_bytes(write_schemas(EventSchemas({"hit": data}, {})))
    with collector_running(schema=schema) as collector:
        send(collector, 1, 2, type_="hit", data={"x": 1}, context={"player": "p-17"})
        send(collector, 3, type_="hit", data={"x": "1"})
        with running_command("tail", "--url", collector.http_url, "--fault", "data.x") as tail:
            tail.wait_for_lines(2)
            fields = [line.split("\t") for line in tail.lines]
    assert [line[2] for line in fields] == ["1", "2"]
    context, fault = fields[0][-2:]
    assert (json.loads(context), fault) == (
        {"player": "p-17"},
        "fault: data.x: must be a string, not an integer",
    )


def hostile_event(collector: RunningCollector) -> None:
    text = HOSTILE + "\x1b]0;pwned\x07"
    send(collector, 1, session=text, type_=text, data={text: text})


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_hostile_text_is_escaped_in_a_pipe(
    arguments: list[str], collector: RunningCollector
) -> None:
    hostile_event(collector)
    with running_command("tail", "--url", collector.http_url, *arguments) as tail:
        tail.wait_for_lines(1)
        line = tail.lines[0]
    assert line.replace("\t", "").isprintable()
    assert "\\u202e" in line


@pytest.mark.parametrize("encoding", ["", "cp437"])
def test_json_means_the_same_in_any_encoding(encoding: str, collector: RunningCollector) -> None:
    player = {"name": "世界 \U0001f680"}
    send(collector, 1, data=player)
    variables = {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": encoding}
    with running_command("tail", "--url", collector.http_url, "--json", **variables) as tail:
        tail.wait_for_lines(1)
        line = tail.lines[0]

    assert json.loads(line)["data"] == player
    assert line.isascii() == bool(encoding)


@needs_terminals
def test_terminal_gets_colors_and_nothing_else_that_moves_it(collector: RunningCollector) -> None:
    hostile_event(collector)
    send(collector, 2, type_="ship_hit")
    with Terminal("tail", "--url", collector.http_url) as terminal:
        terminal.wait_for(b"ship_hit")
        assert terminal.end(signal.SIGINT) == 0
    text = terminal.shown.decode()
    assert re.search(r"\x1b\[3\dm", text)
    rest = re.sub(r"\x1b\[[\d;]*m|\r\n", "", text)
    assert rest.isprintable(), rest


@needs_terminals
def test_terminal_gets_the_date_of_events_of_another_day(tmp_path: Path) -> None:
    options = {"db": tmp_path / "telemetry.sqlite3"}
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=1)
    days = [datetime.datetime(2001, 2, 3, 4, 5, 6, 789_000, datetime.timezone.utc), today]
    if today.timetuple().tm_yday > 3:  # there is another day of this year
        days.insert(1, today - datetime.timedelta(days=2))
    with collector_running(**options) as collector:
        send(collector, *range(1, len(days) + 1))
    with contextlib.closing(sqlite3.connect(options["db"])) as connection, connection:
        for seq, day in enumerate(days, start=1):
            received = int(day.timestamp()) * 1000 + day.microsecond // 1000
            connection.execute("UPDATE events SET received = ? WHERE seq = ?", (received, seq))

    with (
        collector_running(**options) as collector,
        Terminal("tail", "--url", collector.http_url, TZ="UTC") as terminal,
    ):
        terminal.wait_for(b"\x1b[2m     %d" % len(days))
        shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown.decode()).splitlines()
    times = [line.partition("  ")[0] for line in shown if line]
    expected = [f"{day:%m-%d %H:%M:%S}" for day in days[1:-1]]
    assert times[0] == "2001-02-03 04:05:06.789"
    assert [time[:-4] for time in times[1:]] == [*expected, "00:00:01"]


@needs_terminals
def test_no_colors_where_none_are_wanted(collector: RunningCollector) -> None:
    send(collector, 1)
    with Terminal("tail", "--url", collector.http_url, NO_COLOR="1") as terminal:
        terminal.wait_for(b"number")
        assert b"\x1b" not in terminal.shown


def test_collector_that_restarts_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    options = {"port": own_port(), "db": tmp_path / "t.sqlite3"}
    with running_command_beside(options, 5) as tail:
        with collector_running(**options) as collector:
            tail.wait_for("the collector answers again")
            send(collector, 6, 7)
            tail.wait_for_lines(7)
        assert shown(tail) == list(range(1, 8))
    assert tail.errors.count("waiting for it") <= 2
    assert "another database" not in tail.errors


def test_another_database_is_shown_from_its_beginning() -> None:
    options = {"port": own_port(), "db": None}
    with running_command_beside(options, 5) as tail:
        with collector_running(**options) as collector:
            send(
                collector, *range(11, 31)
            )  # at once more than there were: the numbers alone prove nothing
            tail.wait_for("another database")
            tail.wait_for_lines(25)
        assert shown(tail) == [*range(1, 6), *range(11, 31)]


class running_command_beside:  # noqa: N801 - used as the function that it wraps
    """A tail that has shown some events of a collector which is gone by now."""

    def __init__(self, options: dict[str, Any], count: int) -> None:
        self._options = options
        self._count = count

    def __enter__(self) -> Running:
        with collector_running(**self._options) as collector:
            send(collector, *range(1, self._count + 1))
            self._command = running_command("tail", "--url", collector.http_url, "--json")
            tail = self._command.__enter__()
            try:
                tail.wait_for_lines(self._count)
            except BaseException:
                self._command.__exit__(None, None, None)
                raise
        tail.wait_for("waiting for it")
        return tail

    def __exit__(self, *error: Any) -> None:
        self._command.__exit__(*error)


def test_what_comes_after_all_was_deleted_is_shown(collector: RunningCollector) -> None:
    send(collector, 1, 2)
    with running_command("tail", "--url", collector.http_url, "--json") as tail:
        tail.wait_for_lines(2)
        assert collector.request("DELETE", "/api/events").status == 204
        send(collector, 1, 2, 3)
        tail.wait_for_lines(5)
        assert shown(tail) == [1, 2, 1, 2, 3]


@needs_posix
def test_reader_that_has_enough_ends_it_quietly_even_if_nothing_comes(
    collector: RunningCollector,
) -> None:
    send(collector, *range(1, 6))
    with command_without_reader("tail", "--url", collector.http_url, until=b"shot") as tail:
        _, errors = tail.communicate(timeout=PATIENCE)
    assert (tail.returncode, errors) == (0, b"")


@needs_full_disk
def test_full_disk_is_one_line_and_exit_code_2(collector: RunningCollector) -> None:
    send(collector, 1)
    done = run_command_onto_full_disk("tail", "--url", collector.http_url)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"Error: standard output can't be written: ")


class ClosingGateway(ThreadingHTTPServer):
    """Stands before a collector, and closes a connection when asked to, as one that is idle
    is closed: without a word, between one question and the next."""

    daemon_threads = True

    def __init__(self, collector: RunningCollector) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarding)
        self.collector = collector
        self.closings: list[RunningCollector] = []
        """For each connection that is to be closed, the collector that the later ones lead to."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ClosingGateway

    def do_GET(self) -> None:
        answer = self.server.collector.get(self.path)
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        if self.server.closings:
            self.server.collector = self.server.closings.pop()
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def gateway(collector: RunningCollector) -> Iterator[ClosingGateway]:
    with ClosingGateway(collector) as gateway:
        serving = threading.Thread(target=gateway.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield gateway
        finally:
            gateway.shutdown()
            serving.join()


def test_connection_that_was_closed_while_idle_is_no_news(
    collector: RunningCollector, gateway: ClosingGateway
) -> None:
    send(collector, *range(1, 701))
    gateway.closings.append(collector)  # between the first question and the second
    with running_command("tail", "--url", gateway.url, "--json", "-n", 600) as tail:
        tail.wait_for_lines(600)
        for seq in range(701, 706):
            gateway.closings.append(collector)
            assert wait_until(lambda: not gateway.closings, PATIENCE)
            send(collector, seq)
            tail.wait_for_lines(seq - 100)
        assert shown(tail) == list(range(101, 706))
        assert tail.end(signal.SIGINT) == 0
    assert tail.errors == ""


def test_another_collector_after_a_pause_is_shown_from_its_beginning(
    collector: RunningCollector, gateway: ClosingGateway
) -> None:
    send(collector, 1, 2)
    with collector_running() as another:
        send(another, *range(11, 31))  # at once more than there were
        with running_command("tail", "--url", gateway.url, "--json") as tail:
            tail.wait_for_lines(2)
            gateway.closings.append(another)
            tail.wait_for_lines(22)
            assert shown(tail) == [1, 2, *range(11, 31)]
            assert tail.end(signal.SIGINT) == 0
    (line,) = tail.errors.splitlines()
    assert "another database" in line


def test_deleted_newest_event_is_no_reason_to_start_again(
    db: Path, collector: RunningCollector, gateway: ClosingGateway
) -> None:
    send(collector, 1, 2, 3)
    with running_command("tail", "--url", gateway.url, "--json") as tail:
        tail.wait_for_lines(3)
        send(collector, 4)
        tail.wait_for_lines(4)
        with contextlib.closing(sqlite3.connect(db, timeout=PATIENCE)) as connection:
            connection.execute("DELETE FROM events WHERE seq = 4")
            connection.commit()
        for _ in range(3):  # it looks at least once over the old connection, and over new ones
            gateway.closings.append(collector)
            assert wait_until(lambda: not gateway.closings, PATIENCE)
        send(collector, 5)
        tail.wait_for_lines(5)
        assert shown(tail) == [1, 2, 3, 4, 5]
        assert tail.end(signal.SIGINT) == 0
    assert "another database" not in tail.errors


def test_answer_without_end_is_refused(gateway: ClosingGateway) -> None:
    gateway.RequestHandlerClass = _Endless
    done = invoke_command("tail", "--url", gateway.url)

    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert "larger than 64 MiB" in line


class _Endless(_Forwarding):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for _ in range(200):
            try:
                self.wfile.write(b" " * 1024 * 1024)
            except OSError:  # it has had enough
                return


def test_token_is_shown_to_the_collector_alone() -> None:
    with collector_running(token=TOKEN) as collector:
        send(collector, 1, token=TOKEN)
        refused = invoke_command("tail", "--url", collector.http_url, "--token", "wrong")
        assert refused.exit_code == 2
        assert "rejected the token (wrong token); pass the collector's with" in refused.output
        asked = invoke_command("tail", "--url", collector.http_url)
        assert asked.exit_code == 2
        assert asked.output == (
            f"Error: {collector.http_url} requires a token; set REDVSBLUE_COLLECTOR_READ_TOKEN or "
            "REDVSBLUE_COLLECTOR_TOKEN, or pass it with --token\n"
        )
        variables = {"REDVSBLUE_COLLECTOR_TOKEN": TOKEN}
        with running_command("tail", "--url", collector.http_url, **variables) as tail:
            tail.wait_for_lines(1)
            assert TOKEN not in tail.said


def test_token_for_reading_goes_before_that_of_games() -> None:
    with collector_running(token="for-games", read_token=TOKEN) as collector:
        send(collector, 1, token="for-games")
        variables = {"REDVSBLUE_COLLECTOR_TOKEN": "for-games"}
        for name in ("tail", "prove"):
            done = invoke_command(name, "--url", collector.http_url, **variables)
            assert done.exit_code == 2
            assert "this is the token of games; this needs the read token" in done.output
        variables["REDVSBLUE_COLLECTOR_READ_TOKEN"] = TOKEN
        with running_command("tail", "--url", collector.http_url, **variables) as tail:
            tail.wait_for_lines(1)


@pytest.mark.parametrize("end", ["/telemetry", "/telemetry/"])
def test_url_of_games_is_answered_with_that_of_the_page(
    end: str, collector: RunningCollector
) -> None:
    for name in ("tail", "prove"):
        done = invoke_command(name, "--url", collector.http_url.rstrip("/") + end)
        assert done.exit_code == 2
        (line,) = done.output.splitlines()
        page = collector.http_url.rstrip("/")
        assert line.endswith(f"is where games send to; give the URL of the page: {page}")


def test_web_server_that_is_no_collector_is_called_so(gateway: ClosingGateway) -> None:
    gateway.RequestHandlerClass = _Other
    done = invoke_command("tail", "--url", gateway.url)
    assert done.exit_code == 2
    assert done.output == f"Error: {gateway.url} is not the page of a collector (HTTP status 404)\n"


class _Other(_Forwarding):
    def do_GET(self) -> None:
        self.send_error(404)
        self.close_connection = True


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{free}", "does not respond"),
        ("ws://127.0.0.1:3000/telemetry", "give the URL of the page: http://127.0.0.1:3000"),
        ("http://user:secret@127.0.0.1", "--token"),
        ("ws://user:secret@127.0.0.1/telemetry", "--token"),
        ("http://user:secret@127.0.0.1:notaport", "--token"),
        ("http://[::1", "is not a valid URL"),
        ("", "is not the URL of a collector's page"),
        ("http://127.0.0.1:notaport", "port"),
    ],
)
def test_what_it_cannot_ask_is_one_line_and_exit_code_2(url: str, reason: str) -> None:
    done = invoke_command("tail", "--url", url.format(free=REFUSING_PORT))

    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert reason in line
    assert "secret" not in line
