"""``export``: exactly what is stored, in little memory, and no half of a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.cli._formats import FORMATS
from redvsblue_telemetry.cli._terminal import one_line
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.batches import EventBatch
from redvsblue_telemetry.collector.storage.database import Database, DatabaseError
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import RunningCollector, collector_running
from tests.support.command import (
    PATIENCE,
    Terminal,
    command,
    environment,
    invoke_command,
    needs_full_disk,
    run_command,
    run_command_onto_full_disk,
    running_command,
)
from tests.support.systems import needs_modes, needs_posix, needs_terminals, needs_windows
from tests.support.wait import wait_until

MANY = 40_000
HOSTILE = "\x9b31m\u202e\x7f\x1b]0;pwned\x07"
EVENTS: list[dict[str, Any]] = [
    {"seq": 1, "type": "shot", "data": {"text": 'one, "two"\nthree', "deep": {"list": [1, 2.5]}}},
    {"seq": 2, "type": "=cmd()", "data": {}, "version": "-1+1"},
    {"seq": 3, "type": HOSTILE, "data": {HOSTILE: HOSTILE}},
    {"seq": 4, "type": "hit", "sessionId": "other", "data": {"big": 12345678901234567890123}},
    {"seq": 5, "type": "hit", "data": {}, "context": {"player": "p-17", "level": 3}},
    {"seq": 6, "type": "shot", "data": {}, "context": {"player": "=p\u202e", "level": 3}},
]


FAULTS = {4: "data.big: must be at most 5"}  # by seq


def whole(event: dict[str, Any]) -> dict[str, Any]:
    seq = event["seq"]
    return {"id": f"id-{seq}", "sessionId": "s", "timestamp": 1_700_000_000_000 + seq, **event}


def fill(path: Path, *messages: str) -> None:
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(
            Writer(database, lambda _, data: FAULTS[4] if b'"big"' in bytes(data) else None)
        ) as writer,
    ):
        for message in messages:
            assert not writer.store([read_message(message)]).rejected


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "telemetry.sqlite3"
    # Indented: line breaks between the parts of the data are stored as they come.
    fill(path, json.dumps([whole(event) for event in EVENTS], indent=2, ensure_ascii=False))
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of many events, twenty megabytes of them."""
    path = tmp_path_factory.mktemp("many") / "many.sqlite3"
    padding = "x" * 400
    chunks = (range(first, first + 10_000) for first in range(1, MANY, 10_000))
    messages = (
        "["
        + ",".join(
            f'{{"id":"{seq}","type":"shot","timestamp":{seq},"sessionId":"s","seq":{seq},'
            f'"data":{{"padding":"{padding}","seq":{seq}}}}}'
            for seq in chunk
        )
        + "]"
        for chunk in chunks
    )
    fill(path, *messages)
    return path


def exported(db: Path, *arguments: object) -> str:
    done = invoke_command("export", "--db", db, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_json_lines_are_what_was_sent(db: Path) -> None:
    lines = exported(db).splitlines()

    got = [json.loads(line) for line in lines]
    assert [event.pop("arrival") for event in got] == [1, 2, 3, 4, 5, 6]
    assert all(event.pop("received") > 1_700_000_000_000 for event in got)
    faults = {each["seq"]: each.pop("fault") for each in got if "fault" in each}
    assert (got, faults) == ([whole(event) for event in EVENTS], FAULTS)


def test_csv_has_the_data_as_json_and_no_formula(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    assert exported(db, "--format", "csv", "-o", file) == ""

    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [json.loads(row["data"]) for row in rows] == [event["data"] for event in EVENTS]
    escaped = "\\u009b31m\\u202e\\u007f\\u001b]0;pwned\\u0007"
    assert [row["type"] for row in rows] == ["shot", "'=cmd()", escaped, "hit", "hit", "shot"]
    assert [row["version"] for row in rows] == ["", "'-1+1", "", "", "", ""]
    assert file.read_text("utf-8").replace("\n", "").isprintable()
    assert [row["seq"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row["sessionId"] for row in rows] == ["s", "s", "s", "other", "s", "s"]
    contexts = [json.loads(row["context"] or "null") for row in rows]
    assert contexts == [event.get("context") for event in EVENTS]
    assert [row["fault"] for row in rows] == [FAULTS.get(event["seq"], "") for event in EVENTS]


def test_parquet_has_the_same_rows(db: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    file = tmp_path / "events.parquet"
    assert exported(db, "--format", "parquet", "-o", file) == ""

    table = parquet.read_table(file)
    rows = table.to_pylist()
    assert [json.loads(row["data"]) for row in rows] == [event["data"] for event in EVENTS]
    for name in ("seq", "type", "id", "timestamp", "sessionId", "version"):
        assert [row[name] for row in rows] == [whole(event).get(name) for event in EVENTS]
    contexts = [row["context"] and json.loads(row["context"]) for row in rows]
    assert contexts == [event.get("context") for event in EVENTS]
    assert [row["fault"] for row in rows] == [FAULTS.get(event["seq"]) for event in EVENTS]
    assert str(table.schema.field("received").type) == "timestamp[ms, tz=UTC]"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--type", "hit"], [4, 5]),
        (["--session", "s"], [1, 2, 3, 5, 6]),
        (["--text", '"deep"'], [1]),
        (["--context", "player=p-17"], [5]),
        (["--context", "level=3"], [5, 6]),
        (["--context", "level=3", "--context", "player==p\u202e"], [6]),
        (["--context", "level=3", "--type", "hit"], [5]),
        (["--fault", "any"], [4]),
        (["--fault", "none", "--type", "hit"], [5]),
        (["--fault", "data.BIG"], [4]),
    ],
)
def test_filters(arguments: list[str], expected: list[int], db: Path) -> None:
    lines = exported(db, *arguments).splitlines()

    assert [json.loads(line)["seq"] for line in lines] == expected


@pytest.mark.parametrize(
    ("arguments", "lack"),
    [
        (["--session", "t\x1b"], "of session t\\u001b"),
        (["--session", ""], "of session "),
        (["--type", "hot", "--session", "s"], "of type hot"),
        (["--session", "other", "--type", "shot"], "that all of the options fit"),
        (["--context", "level=4"], "with level=4 in its context"),
        (["--context", "number=17", "--context", "level=3"], "with number=17 in its context"),
        (["--fault", "small"], "with the fault small"),
        (["--fault", "any", "--type", "shot"], "that all of the options fit"),
        (["--text", "no such text"], "that all of the options fit"),
    ],
)
@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_nothing_to_export_is_one_line_and_exit_code_1(
    format_: str, arguments: list[str], lack: str, db: Path, tmp_path: Path
) -> None:
    done = run_command("export", "--db", db, "--format", format_, *arguments)
    assert done.returncode == 1
    assert done.stderr == f"Error: {db} has no event {lack}\n"
    header = "arrival,received,sessionId,seq,type,timestamp,id,version,data,context,fault\n"
    assert done.stdout == (header if format_ == "csv" else "")

    file = tmp_path / "events"
    file.write_text("from yesterday")
    before = sorted(os.listdir(tmp_path))
    written = invoke_command("export", "--db", db, "-o", file, "--format", format_, *arguments)
    assert written.exit_code == 1
    assert file.read_text() == "from yesterday"
    assert sorted(os.listdir(tmp_path)) == before


def test_all_of_nothing_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    fill(path)
    assert exported(path) == ""
    assert exported(path, "-o", tmp_path / "events") == ""
    assert (tmp_path / "events").read_text() == ""


# Text that a spreadsheet or a terminal would run.


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((f"{sign}1+cmd()", f"'{sign}1+cmd()") for sign in "=+-@\uff1d\uff0b\uff0d\uff20"),
        ("  =cmd()", "'  =cmd()"),
        ("\u00a0\u3000=cmd()", "'\u00a0\u3000=cmd()"),
        ("\n=cmd()", "\\u000a=cmd()"),
        ("\r\t=cmd()", "\\u000d\\u0009=cmd()"),
        ("\ufeff=cmd()", "\\ufeff=cmd()"),
        ("\u200b@x", "\\u200b@x"),
        ("'=cmd()", "''=cmd()"),
        ("-5", "-5"),
        ("+1.5e-3", "+1.5e-3"),
        ("-5 ", "'-5 "),
        ("-\u0665", "'-\u0665"),
        ("'tis", "'tis"),
        ("a=b", "a=b"),
        ("\x1b[31m\x9b0m\u202e", "\\u001b[31m\\u009b0m\\u202e"),
        ("C:\\u00ff", "C:\\u005cu00ff"),
        ("C:\\users", "C:\\users"),
    ],
)
def test_csv_cell_is_no_formula_and_printable(text: str, cell: str) -> None:
    (row,) = csv_rows([text])
    assert row["type"] == cell
    assert original(cell) == text


FORMULA_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
TRICKY = st.text(
    st.sampled_from([*FORMULA_SIGNS, *" '\"\\,;u009b1ae.\x9b\x7f\u202e\u2028\0\U000e0001"])
)


@given(st.lists(TRICKY | st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_csv_that_is_read_back_and_undone_equals_the_events(texts: list[str]) -> None:
    rows = csv_rows(texts)
    assert [original(row["type"]) for row in rows] == texts
    assert [json.loads(row["data"]) for row in rows] == [{text: text} for text in texts]
    for row in rows:
        cell = row["type"]
        assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in cell)
        is_number = re.fullmatch(r"[+-]?[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?", cell)
        assert is_number or not cell.lstrip().startswith(tuple(FORMULA_SIGNS))


def csv_rows(texts: list[str]) -> list[dict[str, str]]:
    """Return the rows that a reader of CSV gets for events with these types."""
    data = [json.dumps({text: text}, ensure_ascii=False).encode() for text in texts]
    ones = [1] * len(texts)
    batch = EventBatch(
        arrival=ones, received=ones, session=ones, seq=ones, type=list(range(len(texts))),
        timestamp=ones, id=["i"] * len(texts), version=[None] * len(texts), data=b"".join(data),
        lengths=list(map(len, data)), context=[None] * len(texts), fault=[None] * len(texts),
        sessions={1: ("s", None)}, types=dict(enumerate(texts)), contexts={}, faults={},
    )  # fmt: skip
    stream = io.BytesIO()
    FORMATS["csv"]([batch], stream)
    return list(csv.DictReader(io.StringIO(stream.getvalue().decode(), newline="")))


def original(cell: str) -> str:
    """Return the text of a cell, as docs/collector.md describes it."""
    if re.match(r"''*\s*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]", cell):
        cell = cell[1:]
    units = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), cell)
    return units.encode("utf-16", "surrogatepass").decode("utf-16")


def test_json_lines_are_the_encoded_events(db: Path, tmp_path: Path) -> None:
    """Line by line, in a batch with letters to escape and in one without."""
    plain = tmp_path / "plain.sqlite3"
    spread = json.dumps(
        [whole({"seq": 1, "type": "a", "data": {"a": [1]}, "context": {}})], indent=1
    )
    fill(plain, spread, json.dumps([whole({"seq": 2, "type": "b", "data": {}})]))
    for path in (db, plain):
        with open_database(path) as connection:
            events = queries.events(connection, EventFilter())
        expected = [one_line(msgspec.json.encode(event).decode()) for event in events]
        assert exported(path).splitlines() == expected


def test_groups_of_rows_end_with_twenty_thousand_rows_or_eight_mebibytes(
    tmp_path: Path,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    path = tmp_path / "t.sqlite3"
    small = [whole({"seq": seq, "type": "a", "data": {}}) for seq in range(1, 20_011)]
    padding = "\u00e4" * 500_000  # two bytes each, but one character
    large = [
        whole({"seq": seq, "type": "b", "data": {"x": padding}, "context": {"x": padding}})
        for seq in range(20_011, 20_030)
    ]
    fill(path, json.dumps(small), *(json.dumps([each], ensure_ascii=False) for each in large))

    file = tmp_path / "events.parquet"
    exported(path, "--format", "parquet", "-o", file)
    found = parquet.ParquetFile(file).metadata
    rows = [found.row_group(index).num_rows for index in range(found.num_row_groups)]
    # 10 small ones and 9 large ones have 9.0 million characters, and 8 have 8.0.
    assert rows == [20_000, 19, 9, 1]


def test_json_lines_are_printable_and_exact_json(db: Path, tmp_path: Path) -> None:
    tabs = whole({"seq": 7, "type": "tab", "data": {"a": "\x7f\U000e0001"}})
    fill(db, json.dumps([tabs], indent="\t", ensure_ascii=False))
    fill(db, json.dumps([whole({"seq": 8, "type": "tab", "data": {"a": [1]}})], indent="\t"))
    file = tmp_path / "events"
    exported(db, "-o", file)

    lines = file.read_text("utf-8").split("\n")
    assert all(line.isprintable() for line in lines)
    got = [json.loads(line)["data"] for line in lines if line]
    assert got == [*(event["data"] for event in EVENTS), tabs["data"], {"a": [1]}]


@pytest.mark.parametrize("option", ["--type", "--session", "--text", "--context", "--fault"])
def test_text_that_is_not_utf_8_is_wrong_usage(option: str, db: Path) -> None:
    done = run_command("export", "--db", db, option, "player=\udcff")

    assert done.returncode == 2
    assert r"'player=\udcff' is not valid UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["player"], "'player' must be NAME=VALUE, such as player=p-17"),
        (["=p-17"], "'=p-17' must be NAME=VALUE"),
        (["level=3", "level=4"], "'level' has two values"),
    ],
)
def test_context_that_names_no_field_is_an_error(given: list[str], reason: str, db: Path) -> None:
    options = [option for text in given for option in ("--context", text)]
    done = invoke_command("export", "--db", db, *options)

    assert done.exit_code == 2
    assert reason in done.output


def test_collector_may_be_writing_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    with collector_running(db=path) as collector, sending(collector) as telemetry:
        for emitted in range(1, 6):
            telemetry.emit("shot", {"n": emitted})
            assert telemetry.flush(timeout=PATIENCE)
            lines = exported(path).splitlines()
            assert [json.loads(line)["seq"] for line in lines] == list(range(1, emitted + 1))


@contextlib.contextmanager
def sending(collector: RunningCollector) -> Iterator[Telemetry]:
    telemetry = Telemetry(TelemetrySettings(enabled=True, url=collector.url))
    telemetry.start()
    try:
        yield telemetry
    finally:
        telemetry.stop(timeout=PATIENCE)


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize(("format_", "allowed"), [("jsonl", 12), ("csv", 12), ("parquet", 60)])
def test_memory_does_not_grow_with_the_events(
    format_: str, allowed: int, many: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.sqlite3"
    fill(few, json.dumps([whole(event) for event in EVENTS]))

    base = megabytes_of(few, format_, tmp_path / "few")
    file = tmp_path / "many"
    grown = megabytes_of(many, format_, file) - base

    assert grown < allowed
    if format_ == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
        assert parquet.ParquetFile(file).metadata.num_rows == MANY
    else:
        with file.open("rb") as lines:
            assert sum(1 for _ in lines) == MANY + (format_ == "csv")


def megabytes_of(db: Path, format_: str, file: Path) -> float:
    """The most memory that an export had at any moment."""
    arguments = command("export", "--db", db, "--format", format_, "-o", file)
    process = subprocess.Popen(arguments, env=environment())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


@needs_posix
@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet"])
def test_disk_that_is_full_leaves_what_was_there(format_: str, many: Path, tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text("from yesterday")

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    done = subprocess.run(
        command("export", "--db", many, "--format", format_, "-o", file),
        env=environment(is_measured=False),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "can't be written" in line
    assert file.read_text() == "from yesterday"
    assert os.listdir(tmp_path) == ["events"]


@pytest.mark.parametrize("ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=needs_posix)])
def test_export_that_is_ended_leaves_nothing(
    ending: signal.Signals, many: Path, tmp_path: Path
) -> None:
    for _ in range(5):  # on a loaded machine, one may be done before its signal
        (tmp_path / "events").unlink(missing_ok=True)
        arguments = ("export", "--db", many, "--format", "csv", "-o", tmp_path / "events")
        with running_command(*arguments) as export:
            assert wait_until(lambda: os.listdir(tmp_path), PATIENCE)
            code = export.end(ending)
        if code != 0:
            break

    assert code not in (0, 2)
    assert "Traceback" not in export.errors
    assert os.listdir(tmp_path) == []


def test_reader_that_has_enough_ends_it_quietly(many: Path) -> None:
    with subprocess.Popen(
        command("export", "--db", many),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        assert export.stdout.readline().startswith(b'{"arrival":1,')
        export.stdout.close()
        assert export.stderr.read() == b""
        assert export.wait(PATIENCE) == 0


@needs_posix
def test_device_is_written_to_and_not_replaced(db: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(command("export", "--db", db, "-o", pipe), env=environment()) as export:
        with pipe.open("rb") as reading:
            assert len(reading.read().splitlines()) == len(EVENTS)
        assert export.wait(PATIENCE) == 0
    assert pipe.is_fifo()


def test_output_may_be_the_device_that_discards_all(db: Path) -> None:
    exported(db, "-o", os.devnull)


@needs_windows
def test_file_that_another_program_has_open_is_left_alone(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("old")
    with file.open() as opened:
        done = invoke_command("export", "--db", db, "-o", file)
        assert opened.read() == "old"

    assert done.exit_code == 2
    assert "is it open in another program?" in done.output
    assert not list(tmp_path.glob("*.part"))


@needs_modes
def test_link_stays_a_link_and_the_file_keeps_its_permissions(db: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to(target)

    exported(db, "-o", link)

    assert link.is_symlink()
    assert len(target.read_text("utf-8").splitlines()) == len(EVENTS)
    assert target.stat().st_mode & 0o777 == 0o604


@needs_modes
@pytest.mark.parametrize("command_name", ["export", "report"])
def test_new_file_is_its_owner_s_alone(command_name: str, db: Path, tmp_path: Path) -> None:
    file = tmp_path / "out"
    done = run_command(
        *(command_name, "--db", db, "-o", file), before=["sh", "-c", 'umask 0; exec "$@"', "sh"]
    )
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600


@needs_terminals
@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_terminal_gets_printable_text(format_: str, db: Path) -> None:
    with Terminal("export", "--db", db, "--format", format_) as terminal:
        assert terminal.end() == 0
    written = terminal.shown.decode()
    assert "hit" in written
    assert "exporting" not in written  # the bar, in the midst of the data
    rest = written.replace("\r\n", "")
    for sequence in ("\x9b", "\u202e", "\x7f", "\x1b]", "\x07"):
        assert sequence not in rest


@needs_terminals
def test_parquet_is_nothing_for_a_terminal(db: Path) -> None:
    with Terminal("export", "--db", db, "--format", "parquet") as terminal:
        assert terminal.end() == 2
    assert terminal.shown.startswith(b"Error: refusing to write Parquet to a terminal")
    assert b"--output" in terminal.shown


@needs_terminals
def test_terminal_shows_how_far_it_is(many: Path, tmp_path: Path) -> None:
    with Terminal("export", "--db", many, "-o", tmp_path / "events") as terminal:
        assert terminal.end() == 0
    assert f"/{MANY}".encode() in terminal.shown


@needs_terminals
def test_terminal_shows_how_far_it_is_while_a_pipe_gets_the_data(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    piped = ["sh", "-c", '"$@" | cat > "$OUT"', "sh"]
    with Terminal("export", "--db", db, before=piped, OUT=str(out)) as terminal:
        assert terminal.end() == 0
    assert b"exporting" in terminal.shown
    assert len(out.read_text("utf-8").splitlines()) == len(EVENTS)


@needs_full_disk
@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet"])
def test_unwritable_standard_output_is_reported_in_one_line(format_: str, db: Path) -> None:
    done = run_command_onto_full_disk("export", "--db", db, "--format", format_)

    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: standard output can't be written: ")


def test_output_without_a_name_is_wrong_usage(db: Path) -> None:
    done = invoke_command("export", "--db", db, "-o", "")

    assert done.exit_code == 2
    assert "the file name is empty" in done.output


def test_without_pyarrow_one_line_says_how_to_get_it(db: Path, tmp_path: Path) -> None:
    arguments = ["export", "--db", str(db), "--format", "parquet", "-o", str(tmp_path / "events")]
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from redvsblue_telemetry.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'pip install "redvsblue-telemetry[collector,parquet]"' in line
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", "{path} does not exist; name the database that `collect` writes with --db"),
        ("empty", "{path} is empty: no collector has stored anything in it"),
        ("text", "{path} is not a database; choose another file"),
        ("folder", "Invalid value for '--db': File {path!r} is a directory."),
    ],
)
@pytest.mark.parametrize("name", ["export", "report", "prove"])
def test_file_that_is_not_a_database_is_refused_and_left_alone(
    name: str, kind: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.sqlite3"
    contents = {"empty": "", "text": "no database " * 1000}
    if kind in contents:
        path.write_text(contents[kind])
    elif kind == "folder":
        path.mkdir()

    done = invoke_command(name, "--db", path)

    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == f"Error: {reason.format(path=str(path))}"
    assert path.exists() == (kind != "none")
    if kind in contents:
        assert path.read_text() == contents[kind]
    assert set(os.listdir(tmp_path)) <= {"t.sqlite3"}


@pytest.mark.parametrize("name", ["export", "report", "prove", "collect", "run", "demo"])
def test_database_without_a_name_is_wrong_usage(name: str) -> None:
    done = invoke_command(name, "--db", "", *(["true"] if name == "run" else []))
    assert done.exit_code == 2
    assert done.output.splitlines()[-1].endswith("'--db': the file name is empty")


@needs_posix
@pytest.mark.parametrize("name", ["export", "report", "prove", "collect", "run", "demo"])
def test_device_is_no_database(name: str) -> None:
    done = invoke_command(name, "--db", os.devnull, *(["true"] if name == "run" else []))
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith(f"Error: {os.devnull} is not a regular file")


# Reading writes nothing.


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def foreign_without_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")
        connection.commit()


def foreign_with_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (x)")


def foreign_in_wal_mode(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE events (x)")


def foreign_in_use(path: Path) -> None:
    live = path.with_name("live")
    with contextlib.closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE events (x)")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint")
        shutil.copy(live, path)
        shutil.copy(f"{live}-wal", f"{path}-wal")  # without its index, which SQLite would make


@pytest.mark.parametrize("command_name", ["export", "report"])
@pytest.mark.parametrize(
    "make", [foreign_without_tables, foreign_with_tables, foreign_in_wal_mode, foreign_in_use]
)
def test_database_of_something_else_is_refused_and_left_alone(
    make: Callable[[Path], None], command_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.sqlite3"
    make(path)
    before = contents(tmp_path)

    done = invoke_command(command_name, "--db", path, "-o", tmp_path / "out")

    assert done.exit_code == 2
    assert done.output.startswith(f"Error: {path} is not a telemetry database")
    assert contents(tmp_path) == before


def test_tables_of_another_version_are_refused(db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA user_version = 1000")

    with pytest.raises(DatabaseError, match="version 1000"), open_database(db):
        pass


def test_nothing_is_left_beside_a_database_that_nobody_writes_to(db: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)

    exported(db)

    assert contents(tmp_path) == before


def test_what_a_killed_collector_left_in_its_log_is_read_and_left_there(
    db: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed" / db.name
    killed.parent.mkdir()
    with (
        contextlib.closing(Database(db)) as database,
        contextlib.closing(Writer(database)) as writer,
    ):
        writer.store([read_message(json.dumps([whole({"seq": 9, "type": "late", "data": {}})]))])
        for end in ("", "-wal", "-shm"):
            shutil.copy(f"{db}{end}", f"{killed}{end}")
    before = contents(killed.parent)

    lines = exported(killed).splitlines()

    assert json.loads(lines[-1])["type"] == "late"
    after = contents(killed.parent)
    for name in (db.name, f"{db.name}-wal"):
        assert after[name] == before[name]
    assert after.keys() == before.keys()


def test_collector_that_has_stored_nothing_yet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    with collector_running(db=path):  # whose tables are in its log only
        assert exported(path) == ""


def test_collector_that_begins_to_write_meanwhile_is_noticed(db: Path) -> None:
    with pytest.raises(DatabaseError, match="try again"), open_database(db):
        fill(db, json.dumps([whole({"seq": 9, "type": "late", "data": {}})]))


def test_database_without_a_log_may_be_written_to_meanwhile(db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with open_database(db) as connection:
        fill(db, json.dumps([whole({"seq": 9, "type": "late", "data": {}})]))
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (len(EVENTS) + 1,)


@pytest.fixture
def bound_by_modes(tmp_path: Path) -> Sequence[str]:
    """What a command is run by so that the modes of files hold for it, as they don't for root."""
    if os.geteuid() != 0:
        return ()
    before = ["setpriv", "--bounding-set=-dac_override"]
    file = tmp_path / "read-only"
    file.touch(0o444)
    if shutil.which("setpriv") is None or subprocess.call([*before, "test", "-w", file]) != 1:
        pytest.skip("machine: root may write to what is read-only")
    return before


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)


@needs_posix
@pytest.mark.parametrize("command_name", ["export", "report"])
def test_place_that_is_read_only_will_do(
    command_name: str, db: Path, read_only_folder: Path, bound_by_modes: Sequence[str]
) -> None:
    path = Path(shutil.copy(db, read_only_folder))
    read_only_folder.chmod(0o555)

    done = run_command(
        command_name, "--db", path, "-o", "-", before=bound_by_modes, is_measured=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "id-1" in done.stdout or "4 " in done.stdout


@needs_posix
def test_log_without_its_index_in_a_place_that_is_read_only_says_what_to_do(
    db: Path, read_only_folder: Path, bound_by_modes: Sequence[str]
) -> None:
    path = read_only_folder / db.name
    with contextlib.closing(Database(db)) as database, contextlib.closing(Writer(database)) as w:
        w.check()
        for end in ("", "-wal"):
            shutil.copy(f"{db}{end}", f"{path}{end}")
    read_only_folder.chmod(0o555)

    done = run_command("export", "--db", path, before=bound_by_modes, is_measured=False)

    assert done.returncode == 2
    assert f"{db.name}-shm is missing" in done.stderr


@pytest.mark.parametrize("made", ["export", "report"])
def test_database_is_not_replaced_by_what_is_made_of_it(made: str, db: Path) -> None:
    before = db.read_bytes()
    done = invoke_command(made, "--db", db, "-o", db.parent / "." / db.name)

    assert done.exit_code == 2
    assert "is the database itself" in done.output
    assert db.read_bytes() == before
    assert os.listdir(db.parent) == [db.name]
