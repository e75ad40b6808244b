"""Run and check the documentation: its snippets, commands, links, tables and figures.

Each ``python`` block of ``README.md`` and ``docs/`` is a separate test:

* It runs with telemetry turned on by the environment, and with a :class:`RecordingServer` at the
  URL there. All its events must be confirmed when telemetry is stopped afterward.
* It may use two names without defining them, since they stand for the reader's game: ``engine``, a
  :class:`FakeEngine`, and ``draw``, which does nothing.
* Its output must equal its comments ``# -> …``, if there are any, line by line.
* A block with ``if __name__ == "__main__":`` runs as a separate program, the others in here.
* Its directory is empty, except for a certificate in ``our-ca.pem``; the player's
  own files are in there, too.

A block that can't be run has a comment line above it, ``<!-- not run: why -->``.
"""

from __future__ import annotations

import configparser
import contextlib
import enum
import http.client
import io
import json
import logging
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import textwrap
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import attrs
import click
import msgspec
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

import redvsblue_telemetry
from redvsblue_telemetry import (
    TelemetrySettings,
    TelemetryStats,
    _lifecycle,
    _user_dir,
    start_telemetry,
    stop_telemetry,
    testing,
)
from redvsblue_telemetry._delivery import states
from redvsblue_telemetry._recording.ledger import DropReason
from redvsblue_telemetry._report import Reason, Report, decode_report, encode_report
from redvsblue_telemetry.cli._arguments import AlertCondition
from redvsblue_telemetry.cli.collect import collect
from redvsblue_telemetry.cli.main import commands
from redvsblue_telemetry.collector.alerts import ALERTS, Alert, Conditions, as_message
from redvsblue_telemetry.testing import RecordingServer
from redvsblue_telemetry.testing.collector import RunningCollector
from scripts import api_docs
from tests.support import REPOSITORY
from tests.support.wait import PATIENCE
from tests.test_imports import THE_PACKAGE

PACKAGE = REPOSITORY / "redvsblue_telemetry"
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
OTHERS = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "examples/README.md",
)
LINKED = [*PAGES, *(REPOSITORY / name for name in OTHERS)]

NOT_RUN = re.compile(r"<!-- not run: .+ -->")
NO_VARIABLE = "\u2013"  # a dash, as the tables have it
PRINTED = re.compile(r"# -> (.*)$", re.MULTILINE)


# Reading the pages.


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """The number of its first line in the page, from 1."""
    language: str
    text: str
    marker: str
    """The line above the fence that is not blank."""

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return not NOT_RUN.fullmatch(self.marker)

    @property
    def is_program(self) -> bool:
        return 'if __name__ == "__main__":' in self.text


def blocks_of(page: Path) -> Iterator[Block]:
    marker, start, language, inside = "", 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if start:
                yield Block(page, start, language, "\n".join(inside) + "\n", marker)
                start, inside = 0, []
            else:
                start, language = number + 1, line.removeprefix("```")
            continue
        if start:
            inside.append(line)
        elif line.strip():
            marker = line
    assert not start, f"{name_of(page)}:{start}: the block has no end"


def prose_of(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def table_of(page: Path, first_column: str) -> list[list[str]]:
    """The rows of the page's table that begins with this column, without the header."""
    lines = iter(prose_of(page).splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    else:
        raise AssertionError(f"{name_of(page)} has no table of {first_column!r}")
    next(lines)  # the rule
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def plain(cell: str) -> str:
    """A cell's text without its backticks."""
    return cell.strip().strip("`")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SNIPPETS = [block for block in BLOCKS if block.language == "python" and block.is_run]
SHELL = [b for page in LINKED for b in blocks_of(page) if b.language == "sh"]


# Snippets.


class FakeEngine:
    """A reader's game: three frames long. Each ``update`` emits one event, the last one quits."""

    def __init__(self) -> None:
        self.frames_left = 3
        self.score = 7
        self._handlers: list[Callable[[Mapping[str, Any]], object]] = []

    @property
    def running(self) -> bool:
        return self.frames_left > 0

    def on(self, event: str, handler: Callable[[Mapping[str, Any]], object]) -> None:
        assert event == "telemetry"
        self._handlers.append(handler)

    def off(self, event: str, handler: Callable[[Mapping[str, Any]], object]) -> None:
        self._handlers.remove(handler)

    def update(self, dt: float) -> None:
        self.frames_left -= 1
        for handler in self._handlers:
            handler({"type": "ship_hit", "data": {"shipId": "red-3", "dt": dt}})
        pygame = sys.modules.get("pygame")
        if pygame and pygame.display.get_init() and not self.running:
            pygame.event.post(pygame.event.Event(pygame.QUIT))


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


@pytest.fixture
def readers_machine(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """The environment and the directory that snippets run in."""
    monkeypatch.setenv("REDVSBLUE_ENABLE_TELEMETRY", "true")
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_WS_URL", server.url)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_user_dir, "_base", lambda: str(tmp_path))
    trustme.CA().cert_pem.write_to_path(tmp_path / "our-ca.pem")
    start_telemetry(enabled=False)  # a snippet that starts none stops this one, and not a test's
    logger = logging.getLogger("redvsblue_telemetry")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("block", SNIPPETS, ids=[block.place for block in SNIPPETS])
@pytest.mark.usefixtures("readers_machine")
def test_snippet_runs_and_prints_its_comments(block: Block, tmp_path: Path) -> None:
    run = run_as_program if block.is_program else run_in_here

    printed = run(block, tmp_path)

    expected = PRINTED.findall(block.text)
    assert not expected or printed.splitlines() == expected


def run_in_here(block: Block, folder: Path) -> str:
    """Run a block with the names of the reader's game, and return its output."""
    source = "\n" * (block.line - 1) + block.text  # so that a traceback has the page's lines
    code = compile(source, name_of(block.page), "exec", dont_inherit=True)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {"__name__": "snippet", "engine": FakeEngine(), "draw": lambda engine: None})
    finally:
        is_confirmed = stop_telemetry(timeout=5)
    assert is_confirmed
    return printed.getvalue()


def run_as_program(block: Block, folder: Path) -> str:
    program = folder / "program.py"
    program.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def environment() -> dict[str, str]:
    """The environment in which a program finds the package that is tested here."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}


@pytest.mark.usefixtures("readers_machine")
def test_first_example_delivers_the_events_of_the_game_loop(
    server: RecordingServer, tmp_path: Path
) -> None:
    first = next(block for block in SNIPPETS if block.page == README)

    run_in_here(first, tmp_path)

    types = [event["type"] for event in server.events]
    assert types == ["ship_hit", "ship_hit", "ship_hit", "game_closed"]
    assert server.events[-1]["data"] == {"score": 7}


@pytest.mark.usefixtures("readers_machine")
def test_example_with_processes_delivers_one_event_of_each(
    server: RecordingServer, tmp_path: Path
) -> None:
    (program,) = (block for block in SNIPPETS if block.is_program)

    run_as_program(program, tmp_path)

    assert sorted(event["data"]["match"] for event in server.events) == [0, 1]
    assert len({event["sessionId"] for event in server.events}) == 2


def test_block_that_is_not_run_says_why() -> None:
    not_run = [b.place for b in BLOCKS if b.language == "python" and not b.is_run]
    assert not_run == [server_block().place]


# The server of the wire protocol.


def server_block() -> Block:
    (block,) = (block for block in BLOCKS if "serve_forever" in block.text)
    return block


@pytest.fixture
def documented_server(tmp_path: Path) -> Iterator[str]:
    """The URL of the documented server, which runs in a separate process."""
    (tmp_path / "server.py").write_text(server_block().text, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "server.py", "0"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the server ended before it was ready"
            yield url
        finally:
            process.terminate()


def stored_events(folder: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(folder / "telemetry.db")) as database:
        return [json.loads(row) for (row,) in database.execute("SELECT event FROM events")]


def test_documented_server_has_no_more_than_44_lines_of_code() -> None:
    lines = [line for line in server_block().text.splitlines() if line.strip()]
    assert len(lines) <= 44


def test_documented_server_stores_each_event_once(documented_server: str, tmp_path: Path) -> None:
    telemetry = start_telemetry(enabled=True, url=documented_server, batch_size=10)
    for number in range(1, 121):
        telemetry.emit("tick", number=number)
    assert telemetry.stop(timeout=10)

    # An ack came only after the commit, so all of it is there by now.
    stored = stored_events(tmp_path)
    assert [event["seq"] for event in stored] == list(range(1, 121))
    assert [event["data"]["number"] for event in stored] == list(range(1, 121))
    assert {event["sessionId"] for event in stored} == {telemetry.session_id}

    # As after a reconnect: the first batches once more, on a new connection.
    offer = {"Telemetry-Ack": "cumulative"}
    with connect(documented_server, additional_headers=offer) as repeating:
        assert repeating.response is not None
        assert repeating.response.headers["Telemetry-Ack"] == "cumulative"
        for number in (1, 2):
            repeating.send(json.dumps(stored[:10]))
            assert json.loads(repeating.recv(timeout=10)) == {"ack": number}
    assert stored_events(tmp_path) == stored


def test_documented_server_takes_compressed_messages(
    documented_server: str, tmp_path: Path
) -> None:
    def message(*numbers: int, data: str = "") -> bytes:
        events = [{"sessionId": "s", "seq": number, "data": data} for number in numbers]
        return zlib.compress(json.dumps(events).encode())

    offer = {"Telemetry-Ack": "cumulative", "Telemetry-Encoding": "zstd, deflate"}
    with connect(documented_server, additional_headers=offer) as client:
        assert client.response is not None
        assert client.response.headers["Telemetry-Encoding"] == "deflate"
        client.send(message(1, 2))
        assert json.loads(client.recv(timeout=10)) == {"ack": 1}
        client.send(message(3, data="x" * 2**20))  # its text is too large
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with connect(documented_server, additional_headers=offer) as client:
        client.send(message(4)[:30])
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    assert [event["seq"] for event in stored_events(tmp_path)] == [1, 2]


def stored_reports(folder: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(folder / "telemetry.db")) as database:
        return [json.loads(row) for (row,) in database.execute("SELECT report FROM reports")]


def test_documented_server_keeps_the_newest_report(documented_server: str, tmp_path: Path) -> None:
    telemetry = start_telemetry(
        enabled=True, url=documented_server, before_send=lambda e: e if e.seq != 2 else None
    )
    for _ in range(3):
        telemetry.emit("tick")
    assert telemetry.stop(timeout=10)

    (report,) = stored_reports(tmp_path)
    assert report["sessionId"] == telemetry.session_id
    assert (report["state"], report["reason"]) == ("ended", "stopped")
    assert (report["lastSeq"], report["delivered"]) == (3, 2)
    assert report["gaps"] == [[2, 2, "filtered"]]
    assert report["dropped"] == {"filtered": 1}

    older = {**report, "number": report["number"] - 1, "state": "running"}
    newer = {**report, "number": report["number"] + 1}
    offer = {"Telemetry-Ack": "cumulative", "Telemetry-Report": "1"}
    with connect(documented_server, additional_headers=offer) as talking:
        assert talking.response is not None
        assert talking.response.headers["Telemetry-Report"] == "1"
        for number, each in enumerate((older, newer), start=1):
            talking.send(json.dumps({"report": each}))
            assert json.loads(talking.recv(timeout=10)) == {"ack": number}
            assert stored_reports(tmp_path) == [report if each is older else newer]


def test_wire_protocol_has_all_keys_of_a_report_and_its_reasons() -> None:
    wire = DOCS / "wire-protocol.md"
    reports = wire.read_text(encoding="utf-8").partition("## Reports")[2]
    example = decode_report(next(b.text for b in blocks_of(wire) if '{"report"' in b.text))
    keys = {field.encode_name for field in msgspec.structs.fields(Report)}
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", reports, re.M))))
    reasons = {value for name, value in vars(Reason).items() if name.isupper()}
    assert keys | reasons <= documented
    assert documented - keys - reasons <= {"code", "any"}, "the keys of no report"
    assert json.loads(encode_report(example))["report"].keys() == keys
    assert {reason.value for reason in DropReason} <= set(re.findall(r"`(\w+)`", reports))


def test_documented_server_closes_with_1011_when_a_message_is_not_json(
    documented_server: str,
) -> None:
    with connect(documented_server) as talking_nonsense:
        talking_nonsense.send("no JSON")
        with pytest.raises(ConnectionClosedError) as closed:
            talking_nonsense.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


# Links.


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as the hosting sites of repositories make them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose_of(page), flags=re.MULTILINE):
        kept = "".join(
            letter
            for letter in heading.lower()
            if letter in " -_" or unicodedata.category(letter)[0] in "LN"
        )
        anchor = kept.replace(" ", "-")
        assert anchor not in anchors, f"{name_of(page)}: two headings make #{anchor}"
        anchors.add(anchor)
    return anchors


def links_of(page: Path) -> list[str]:
    text = re.sub(r"`[^`]*`", "", prose_of(page))
    definitions = re.findall(r"^\[[^]]+\]: (\S+)$", text, flags=re.MULTILINE)
    return [*re.findall(r"\]\(([^)\s]+)\)", text), *definitions]


def metadata() -> configparser.SectionProxy:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return config["metadata"]


def path_in_the_repository(link: str) -> str | None:
    """The file that an absolute link into the repository leads to; None for any other link."""
    home = metadata()["url"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for prefix in (f"{home}/(?:blob|tree)/(?:main|v[0-9.]+)/", f"{raw}/main/"):
        if inside := re.match(prefix, link):
            return link[inside.end() :]
    assert "/redvsblue-telemetry" not in link or link.startswith((home, raw)), link
    return None


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        is_absolute = link.startswith("https://")
        place = path_in_the_repository(link) if is_absolute else link
        if place is None:
            continue
        path, _, anchor = place.partition("#")
        folder = REPOSITORY if is_absolute else page.parent
        target = (folder / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{name_of(page)}: {link}"


def test_links_of_the_readme_are_absolute_for_package_indexes() -> None:
    links = links_of(README)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_each_link_by_reference_has_its_definition(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", prose_of(page))
    defined = set(re.findall(r"^\[([^]]+)\]: \S+$", text, flags=re.MULTILINE))
    assert set(re.findall(r"\]\[([^]]+)\]", text)) <= defined


def test_links_of_the_metadata_lead_somewhere() -> None:
    urls = dict(line.split(" = ") for line in metadata()["project_urls"].strip().splitlines())
    assert set(urls) == {"Documentation", "Source", "Changelog", "Issues"}
    for link in urls.values():
        inside = path_in_the_repository(link)
        assert inside is None or (REPOSITORY / inside).exists(), link


def test_index_lists_every_page() -> None:
    listed = {link for link in links_of(DOCS / "README.md") if "/" not in link}
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


# Tables, against the code that they describe.


def documented_default(field: attrs.Attribute[Any]) -> str:
    """How the tables write a default."""
    default = field.default
    if default is None or isinstance(default, attrs.Factory):
        return "not set"
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_table_of_settings_is_that_of_the_class() -> None:
    rows = [tuple(map(plain, row[:3])) for row in table_of(DOCS / "settings.md", "setting")]
    assert rows == [
        (field.name, field.metadata.get("variable", NO_VARIABLE), documented_default(field))
        for field in attrs.fields(TelemetrySettings)
    ]


def test_example_of_an_environment_has_every_variable_with_its_default() -> None:
    text = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^(?:# ?)?([A-Z_]+)=(.*)$", text, flags=re.MULTILINE))
    expected = {
        field.metadata["variable"]: documented_default(field).replace("not set", "")
        for field in attrs.fields(TelemetrySettings)
        if "variable" in field.metadata
    }
    assert documented == {**expected, "DO_NOT_TRACK": ""}


def test_example_of_an_environment_is_one_that_is_allowed() -> None:
    text = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^(?:# ?)?([A-Z_]+)=(.*)$", text, flags=re.MULTILINE))
    documented["REDVSBLUE_ENABLE_TELEMETRY"] = "true"
    settings = TelemetrySettings.from_environment(documented)
    assert settings == TelemetrySettings(enabled=True)


def test_reference_of_the_api_is_generated_from_the_docstrings() -> None:
    assert api_docs.page() == api_docs.PAGE.read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize("package", [redvsblue_telemetry, testing], ids=lambda p: p.__name__)
def test_reference_of_the_api_has_every_public_name(package: ModuleType) -> None:
    documented = {
        name
        for _, module, _, names in api_docs.SECTIONS
        for name in names
        if module == package.__name__
    }
    assert documented == set(package.__all__)


def test_table_of_the_ledger_has_every_field() -> None:
    rows = table_of(DOCS / "delivery.md", "field")
    assert [plain(row[0]) for row in rows] == [f.name for f in attrs.fields(TelemetryStats)]


def test_table_of_the_alerts_has_every_condition_with_its_default() -> None:
    rows = table_of(DOCS / "alerts.md", "condition")
    assert [plain(row[0]) for row in rows] == list(ALERTS)
    for name, default, _ in rows:
        limit = getattr(Conditions(), plain(name).replace("-", "_"))
        if limit is True:
            assert plain(default) == plain(name)
        else:
            assert AlertCondition().convert(plain(default), None, None) == (plain(name), limit)
    (option,) = (p for p in collect.params if p.name == "alert_when")
    assert ", ".join(plain(row[1]) for row in rows) in option.to_info_dict()["help"]


def test_example_of_an_alert_is_one() -> None:
    (block,) = (b for b in BLOCKS if b.page == DOCS / "alerts.md" and b.language == "json")
    shown = json.loads(block.text)
    alert = msgspec.convert(shown["alert"], Alert, strict=True)
    assert json.loads(as_message(alert)) == shown


def metrics_of_a_collector() -> set[str]:
    """The names of the metrics, without those that a library adds."""
    with RunningCollector() as collector:
        address = urlsplit(collector.http_url).netloc
        connection = http.client.HTTPConnection(address, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
    names = {sample.name for f in text_string_to_metric_families(text) for sample in f.samples}
    return {name for name in names if name.startswith("telemetry_") and "_created" not in name}


def test_table_of_the_metrics_is_that_of_a_collector() -> None:
    rows = table_of(DOCS / "collector-api.md", "metric")
    assert {plain(row[0]).partition("{")[0] for row in rows} == metrics_of_a_collector()


def test_rules_for_prometheus_are_about_metrics_that_exist() -> None:
    text = (REPOSITORY / "deploy/prometheus-alerts.yml").read_text(encoding="utf-8")
    expressions = re.sub(r"^\s*#.*|summary:.*|- name:.*", "", text, flags=re.MULTILINE)
    used = set(re.findall(r"\btelemetry_\w+", expressions))
    assert len(used) >= 8
    assert used <= metrics_of_a_collector()


@pytest.mark.parametrize(
    ("column", "transitions"),
    [("state", states.TRANSITIONS), ("phase", _lifecycle.TRANSITIONS)],
    ids=["states", "phases"],
)
def test_table_of_transitions_is_that_of_the_code(
    column: str, transitions: Mapping[enum.Enum, Iterable[enum.Enum]]
) -> None:
    documented = {
        plain(state): set(re.findall(r"`(\w+)`", followers))
        for state, followers in table_of(DOCS / "architecture.md", column)
    }
    assert documented == {
        state.name: {follower.name for follower in followers}
        for state, followers in transitions.items()
    }


def text_block(page: Path, first_line: str) -> str:
    """The block of a page that begins with this line."""
    (block,) = (b for b in BLOCKS if b.page == page and b.text.startswith(f"{first_line}\n"))
    return block.text


def documented_files() -> set[str]:
    """The files in the tree of the page on the architecture, with their folders."""
    folders: list[str] = []
    files = set()
    for line in text_block(DOCS / "architecture.md", "redvsblue_telemetry/").splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        if name.endswith(".py"):
            files.add("".join(folders))
    return files


def test_tree_of_the_architecture_is_that_of_the_package() -> None:
    tree = {name_of(path) for path in PACKAGE.rglob("*.py")}
    plain_inits = {name for name in tree - documented_files() if name.endswith("/__init__.py")}
    assert documented_files() == tree - plain_inits


def test_files_that_the_architecture_sends_to_exist() -> None:
    for _, places in table_of(DOCS / "architecture.md", "to change"):
        named = re.findall(r"`([\w/]+\.\w+)`", places)
        assert named or "<command>" in places
        for name in named:
            assert (PACKAGE / name).exists(), name


def test_picture_of_the_imports_is_that_of_their_test() -> None:
    picture = textwrap.dedent(THE_PACKAGE).lstrip()
    assert text_block(DOCS / "architecture.md", picture.splitlines()[0]) == picture


def test_log_lines_to_watch_are_those_of_the_code() -> None:
    code = " ".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for line, *_ in table_of(DOCS / "rollout.md", "line"):
        for part in re.split(r"'?…'?", plain(line)):
            assert part in code, line


def test_tests_that_the_promises_name_exist() -> None:
    for *_, files in table_of(DOCS / "delivery.md", "promise"):
        for name in re.findall(r"`(.+?)`", files):
            assert (REPOSITORY / name).exists(), name


def test_changelog_begins_with_this_version_and_links_each_to_its_changes() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, flags=re.MULTILINE)
    assert redvsblue_telemetry.__version__ in versions[:2]
    assert versions[0] in {"Unreleased", redvsblue_telemetry.__version__}
    for version, older in zip(versions, versions[1:], strict=False):
        newer = "HEAD" if version == "Unreleased" else f"v{version}"
        link = f"[{version}]: {metadata()['url']}/compare/v{older}...{newer}"
        assert link in text.splitlines()


def test_release_looks_for_the_version_where_it_is() -> None:
    workflow = (REPOSITORY / ".github/workflows/release.yml").read_text(encoding="utf-8")
    ((pattern, name),) = re.findall(r'grep -qx "(.+)" (\S+\.py)', workflow)
    line = pattern.replace('\\"', '"').replace("$version", redvsblue_telemetry.__version__)
    assert line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()


# Commands.


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    shell = "\n".join(block.text for block in SHELL)
    inline = "\n".join(code for page in LINKED for code in re.findall(r"`(.+?)`", prose_of(page)))
    named = set(re.findall(r"^make ([a-z-]+)", f"{shell}\n{inline}", flags=re.MULTILINE))
    assert {"test", "demo"} <= named <= targets


def command_lines() -> list[tuple[str, list[str]]]:
    """The commands of this package in the pages, with their arguments."""
    texts = [(block.place, block.text) for block in SHELL]
    texts += [(name_of(p), c) for p in LINKED for c in re.findall(r"`(.+?)`", prose_of(p))]
    return [
        (place, shlex.split(line.partition(" #")[0])[1:])
        for place, text in texts
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("redvsblue-telemetry ")
    ]


def test_commands_take_the_arguments_that_the_pages_give_them() -> None:
    pytest.importorskip("nats", reason="needs nats-py")  # for the commands of a cluster
    named = set()
    for place, (name, *arguments) in command_lines():
        command = commands.get_command(click.Context(commands), name)
        assert command is not None, f"{place}: {name}"
        try:
            command.make_context(name, arguments)
        except click.MissingParameter:
            pass  # the text names a command, and not all that it needs
        except click.UsageError as error:
            pytest.fail(f"{place}: {error.format_message()}")
        named.add(name)
    assert named == set(commands.list_commands(click.Context(commands)))


def test_examples_that_are_started_exist() -> None:
    started = {name for block in SHELL for name in re.findall(r"examples/\w+\.py", block.text)}
    assert started
    assert {name for name in started if not (REPOSITORY / name).exists()} == set()


def test_picture_is_made_as_its_example_says() -> None:
    (command,) = (block.text for block in SHELL if "--screenshot" in block.text)
    example = (REPOSITORY / "examples" / "pygame_window.py").read_text(encoding="utf-8")
    assert command.splitlines()[-1] in example


def test_the_figures_of_the_chaos_run_are_those_of_its_report() -> None:
    report = json.loads((REPOSITORY / "benchmarks" / "results" / "chaos.json").read_text("utf-8"))
    page = (
        (REPOSITORY / "docs" / "delivery.md").read_text("utf-8").partition("### The chaos run")[2]
    )
    documented = dict(re.findall(r"^\| \**(.+?)\** \| \**([\d,]+)\** \|$", page, re.MULTILINE))
    faults = report["faults"]
    assert {words: int(number.replace(",", "")) for words, number in documented.items()} == {
        "emitted by four threads": report["emitted_by_threads"],
        "delivered, by the library's ledger": report["ledger"]["delivered"],
        "dropped": report["ledger"]["dropped"],
        "arrived at the server, each event counted once": report["receiver"]["unique"],
        "lost": report["lost"],
        "first arrivals out of order": report["receiver"]["out_of_order"],
        "repeats of events in flight (a server drops these)": report["receiver"]["duplicates"],
        "repeats of anything else": report["receiver"]["unexplained"],
        "reconnects": report["reconnects"],
        "resets, those of flapping included": faults["reset"],
        "other faults": sum(faults.values()) - faults["reset"],
    }
    assert report["problems"] == []
    assert report["seconds"] >= 30 * 60 - 5
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert f"{report['emitted_by_threads']:,} events" in readme
    assert f"{report['reconnects']:,}" in readme


def test_the_figures_of_the_benchmarks_are_those_of_their_results() -> None:
    page = pytest.importorskip("benchmarks.page", reason="needs the packages of the benchmarks")
    texts = [path.read_text("utf-8") for path in page.PAGES]
    assert [page.with_tables(text) for text in texts] == texts
    tables = re.findall(r"<!-- table: (.*?) -->\n\n(?!<!--)", "".join(texts))
    assert sorted(tables) == sorted(page.tables())
