"""``schema``: from a game's modules to the schema of its events, or to a plan for people."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.support import REPOSITORY
from tests.support.command import environment, invoke_command, needs_full_disk, run_command
from tests.support.command import run_command_onto_full_disk as run_onto_full_disk

Write = Callable[..., Path]

EVENTS = '''
"""The events of a game."""

from __future__ import annotations

import attrs

from redvsblue_telemetry import event_type


@event_type("ship_hit")
@attrs.frozen
class ShipHit:
    """A bullet hits a ship."""

    ship: str
    """The ship that was hit."""
    damage: int = 1
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the modules of a game into the working directory, and forget them afterward."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(**sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def schema(*arguments: object) -> dict[str, Any]:
    """The document that the command writes."""
    done = invoke_command("schema", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def types_of(document: dict[str, Any]) -> list[str]:
    return [branch["title"] for branch in document["oneOf"]]


def refused(*arguments: object) -> str:
    """The message of a command that can't be run."""
    done: Result = invoke_command("schema", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr


# Modules.


def test_document_has_the_class_its_fields_and_their_meanings(write: Write) -> None:
    write(sk_events=EVENTS)

    assert schema("sk_events") == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events",
        "oneOf": [
            {
                "title": "ship_hit",
                "description": "A bullet hits a ship.",
                "type": "object",
                "properties": {
                    "type": {"const": "ship_hit"},
                    "data": {"$ref": "#/$defs/ShipHit"},
                },
                "required": ["type", "data"],
            }
        ],
        "$defs": {
            "ShipHit": {
                "title": "ShipHit",
                "description": "A bullet hits a ship.",
                "type": "object",
                "properties": {
                    "ship": {"type": "string", "description": "The ship that was hit."},
                    "damage": {"type": "integer", "default": 1},
                },
                "required": ["ship"],
                "additionalProperties": False,
            }
        },
    }


def test_module_can_be_a_dotted_name_or_a_path(write: Write) -> None:
    folder = write(sk_game__in__events=EVENTS, sk_game__in____init__="")

    by_name = schema("sk_game.events")
    assert schema("sk_game/events.py") == by_name
    assert schema(folder / "sk_game" / "events.py") == by_name
    assert schema("sk_game") == by_name
    assert schema("sk_game/") == by_name


def test_file_outside_a_package_imports_its_neighbors(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        source__in__sk_events=EVENTS,
        source__in__sk_more="from sk_events import ShipHit\nclass Other(ShipHit): pass\n",
        elsewhere__in__other="",
    )
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert types_of(schema("../source/sk_more.py")) == ["ship_hit"]


def test_package_stands_for_all_its_modules_but_not_for_its_program(write: Write) -> None:
    write(
        sk_pack__in____init__="",
        sk_pack__in____main__="raise SystemExit('the game would start')",
        sk_pack__in__deep__in____init__="",
        sk_pack__in__deep__in__events=EVENTS,
        sk_pack__in__more=EVENTS.replace("ship_hit", "ship_lost"),
    )

    assert types_of(schema("sk_pack")) == ["ship_hit", "ship_lost"]
    assert types_of(schema("sk_pack.deep")) == ["ship_hit"]


def test_class_that_several_modules_import_is_listed_once(write: Write) -> None:
    write(sk_one=EVENTS, sk_two="from sk_one import *\nfrom sk_one import ShipHit as Again\n")

    assert types_of(schema("sk_one", "sk_two", "sk_one.py")) == ["ship_hit"]


def test_subclass_that_is_not_marked_is_not_an_event(write: Write) -> None:
    more = "@attrs.frozen\nclass Child(ShipHit):\n    by: str = ''\n"
    write(sk_sub=EVENTS + more)

    assert list(schema("sk_sub")["$defs"]) == ["ShipHit"]


def test_class_within_a_class_is_found(write: Write) -> None:
    inner = "".join(f"    {line}\n" for line in EVENTS.partition("\n\n\n")[2].splitlines())
    write(sk_inner=f"{EVENTS.partition('@event_type')[0]}class Events:\n    me: Events\n{inner}")

    document = schema("sk_inner")
    ship = document["$defs"]["ShipHit"]["properties"]["ship"]
    assert (types_of(document), ship["description"]) == (["ship_hit"], "The ship that was hit.")


def test_two_classes_with_one_type_are_named(write: Write) -> None:
    write(sk_a=EVENTS, sk_b=EVENTS)

    assert "two classes have the type 'ship_hit': sk_a.ShipHit and sk_b.ShipHit" in refused(
        "sk_a", "sk_b"
    )


def test_module_without_event_classes_is_refused_with_the_decorator_s_name(write: Write) -> None:
    write(sk_empty="class ShipHit: pass\n")

    assert "no event classes in sk_empty; mark them with @event_type" in refused("sk_empty")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sk_missing\n", "ModuleNotFoundError: No module named 'sk_missing'"),
        ("\nraise SystemExit('bye')\n", "SystemExit: bye"),
        ("x = = 1\n", "SyntaxError: invalid syntax"),
        ("\ndef start():\n    1 / 0\nstart()\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_module_that_cannot_be_imported_is_refused_with_its_own_error(
    write: Write, source: str, reason: str
) -> None:
    write(sk_broken=source)

    message = refused("sk_broken")
    assert f"sk_broken can't be imported: {reason}" in message
    assert "Traceback" not in message


def test_error_of_an_import_has_its_place_in_the_game(write: Write) -> None:
    folder = write(sk_outer="import sk_fails", sk_fails="\ndef f():\n    1 / 0\nf()\n")

    assert f"division by zero ({folder / 'sk_fails.py'}:3)" in refused("sk_outer")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sk_nowhere", "No module named 'sk_nowhere'"),
        ("sk_nowhere.py", "sk_nowhere.py doesn't exist"),
        ("folder/", "folder/ has no __init__.py"),
        ("json.py", "json.py can't be imported: the name json is that of"),
    ],
)
def test_module_that_is_not_there_is_refused(write: Write, name: str, reason: str) -> None:
    write(folder__in__events=EVENTS, json=EVENTS)

    assert reason in refused(name)


def test_module_that_prints_does_not_print_into_the_document(write: Write) -> None:
    write(sk_prints=f"{EVENTS}\nprint('Hello from the game')\n")

    done = invoke_command("schema", "sk_prints")
    assert json.loads(done.stdout)["oneOf"]
    assert done.stderr == "Hello from the game\n"


# Fields.

HEAD = """
from __future__ import annotations
import collections.abc, dataclasses, datetime, decimal, enum, pathlib, typing, uuid
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
import attrs, msgspec
from redvsblue_telemetry import event_type
"""


def fields_of(write: Write, source: str, event: str = "hit") -> dict[str, Any]:
    """The schemas of the fields of an event's class."""
    write(sk_fields=HEAD + source)
    document = schema("sk_fields")
    (data,) = [b["properties"]["data"] for b in document["oneOf"] if b["title"] == event]
    definition: dict[str, Any] = document["$defs"][data["$ref"].rpartition("/")[2]]
    return definition["properties"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("datetime.datetime", {"type": "string", "format": "iso-date-time"}),
        (
            "datetime.datetime | None",
            {"anyOf": [{"type": "string", "format": "iso-date-time"}, {"type": "null"}]},
        ),
        (
            "dict[str, list[datetime.time]]",
            {
                "type": "object",
                "additionalProperties": {
                    "type": "array",
                    "items": {"type": "string", "format": "iso-time"},
                },
            },
        ),
        (
            "Annotated[datetime.datetime, msgspec.Meta(tz=False)]",
            {"type": "string", "format": "date-time-local"},
        ),
        ("datetime.date", {"type": "string", "format": "date"}),
        ("uuid.UUID", {"type": "string", "format": "uuid"}),
        ("decimal.Decimal", {"type": "string", "format": "decimal"}),
        ("Literal['b', 'a']", {"enum": ["a", "b"]}),
        ("pathlib.Path", {"type": "string"}),
        ("collections.abc.Sequence[int]", {"type": "array", "items": {"type": "integer"}}),
        ("collections.UserDict", {"type": "object"}),
        ("Vector", {"type": "array"}),
        ("object", {"$comment": "anything"}),
        ("Number", {"type": "integer"}),
        (
            "Annotated[complex, msgspec.Meta(extra_json_schema={'type': 'array'})]",
            {"type": "array"},
        ),
    ],
)
def test_types_of_fields(write: Write, annotation: str, expected: dict[str, Any]) -> None:
    source = f"""
class Vector:
    def __len__(self): return 2
    def __getitem__(self, index): return 0.0
class Number(int): pass
@event_type("hit")
@dataclasses.dataclass
class Hit:
    value: {annotation}
"""
    assert fields_of(write, source) == {"value": expected}


def test_fields_of_a_struct_have_their_names_on_the_wire(write: Write) -> None:
    source = """
@event_type
class Hit(msgspec.Struct, rename="camel", tag="hit"):
    ship_id: str
"""
    assert list(fields_of(write, source)) == ["type", "shipId"]


def test_enum_has_its_values_in_order_with_their_meanings(write: Write) -> None:
    write(
        sk_enum=f'''{HEAD}
class Team(enum.Enum):
    """A side."""
    RED = "red"
    """The left one."""
    BLUE = "blue"
class Power(enum.Flag):
    SHIELD = 1
    TURBO = 2
@event_type
@attrs.define
class Hit:
    team: Team = Team.RED
    power: Power = Power.SHIELD
'''
    )
    definitions = schema("sk_enum")["$defs"]
    assert definitions["Team"] == {
        "title": "Team",
        "description": "A side.",
        "enum": ["red", "blue"],
        "enumDescriptions": ["The left one.", ""],
    }
    assert definitions["Power"] == {"title": "Power", "type": "integer", "minimum": 0}
    assert definitions["Hit"]["properties"]["team"] == {"$ref": "#/$defs/Team", "default": "red"}


def test_meaning_of_a_field_is_found_wherever_it_is_written(write: Write) -> None:
    source = '''
@attrs.define
class Base:
    inherited: int
    """From the base."""
@event_type
@attrs.define(kw_only=True)
class Hit(Base):
    """A hit.

    Attributes:
        listed: From the list,
            on two lines.
        both: From the list.
    """

    below: int
    """From below.

    More of it.
    """
    listed: int
    both: int
    """From below the field."""
    annotated: Annotated[int, msgspec.Meta(description="From the annotation.")]
    with_metadata: int = attrs.field(metadata={"description": "From the metadata."})
    without: int
'''
    meanings = {name: f.get("description") for name, f in fields_of(write, source).items()}
    assert meanings == {
        "inherited": "From the base.",
        "below": "From below.\n\nMore of it.",
        "listed": "From the list,\non two lines.",
        "both": "From below the field.",
        "annotated": "From the annotation.",
        "with_metadata": "From the metadata.",
        "without": None,
    }
    assert schema("sk_fields")["oneOf"][0]["description"] == "A hit."


def test_no_object_may_have_other_fields_but_a_mapping_may(write: Write) -> None:
    write(
        sk_nested=f"""{HEAD}
class Options(TypedDict):
    hard: bool
class Cell(NamedTuple):
    column: int
    row: int = 0
@dataclasses.dataclass
class Place:
    x: float
@event_type
@attrs.define
class Hit:
    place: Place
    options: Options
    cell: Cell
    scores: dict[str, int]
    names: set[str] = attrs.field(factory=set)
    letters: frozenset[str] | None = frozenset("hgfedcba")
"""
    )
    definitions = schema("sk_nested")["$defs"]
    assert [name for name, part in definitions.items() if "description" in part] == []
    closed = {name: part.get("additionalProperties") for name, part in definitions.items()}
    assert closed == {"Hit": False, "Place": False, "Options": False, "Cell": None}
    fields = definitions["Hit"]["properties"]
    assert fields["scores"]["additionalProperties"] == {"type": "integer"}
    assert fields["names"]["default"] == []
    assert fields["letters"]["default"] == list("abcdefgh")
    assert [item["title"] for item in definitions["Cell"]["prefixItems"]] == ["column", "row"]


def test_two_classes_of_one_name_have_definitions_with_their_modules(write: Write) -> None:
    two = EVENTS.replace("ship_hit", "ship_lost")
    write(sk_first=EVENTS, sk_second=two)

    definitions = schema("sk_first", "sk_second")["$defs"]
    assert list(definitions) == ["sk_first.ShipHit", "sk_second.ShipHit"]


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("value: complex", "hit (sk_fault.Hit): type <class 'complex'> is not supported;"),
        ("value: Nowhere", "name 'Nowhere' is not defined; import it outside `if TYPE_CHECKING`"),
        ("value: int | datetime.date | str", "more than one str-like type"),
        (
            "value: pathlib.PurePosixPath = pathlib.PurePosixPath()",
            "a default is a PurePosixPath, which the schema can't show; have a factory make it",
        ),
        ("value = attrs.field()", "the field 'value' has no annotation"),
    ],
)
def test_class_that_cannot_be_described_is_named_with_the_reason(
    write: Write, field: str, reason: str
) -> None:
    write(sk_fault=f"{HEAD}@event_type\n@attrs.define\nclass Hit:\n    {field}\n")

    message = refused("sk_fault")
    assert "hit (sk_fault.Hit): " in message
    assert reason in message


def test_document_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "sk_many.py").write_text(
        f"{HEAD}@event_type\n@attrs.define\nclass Hit:\n"
        "    letters: frozenset[str] = frozenset('abcdefgh')\n",
        encoding="utf-8",
    )

    def in_a_process(seed: str) -> str:
        done = run_command("schema", "sk_many", cwd=tmp_path, PYTHONHASHSEED=seed)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert in_a_process("1") == in_a_process("2")


# Output.


def test_output_is_a_file(write: Write) -> None:
    folder = write(sk_out=EVENTS)

    done = invoke_command("schema", "sk_out", "--output", "events.schema.json")
    assert (done.exit_code, done.output) == (0, "")
    written = (folder / "events.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == schema("sk_out")


def test_file_that_cannot_be_written_is_one_line(write: Write) -> None:
    write(sk_nofile=EVENTS)

    message = refused("sk_nofile", "-o", "missing/events.json")
    assert message == "Error: missing/events.json can't be written: No such file or directory\n"


@needs_full_disk
def test_full_disk_is_one_line() -> None:
    done = run_onto_full_disk("schema", REPOSITORY / "examples" / "battle_events.py")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "Error: standard output can't be written: No space left on device"
    ]


# Check.


def check(write: Write, old: str, new: str) -> Result:
    folder = write(sk_old=old, sk_new=new)
    (folder / "old.json").write_text(json.dumps(schema("sk_old")), encoding="utf-8")
    return invoke_command("schema", "--check", "old.json", "sk_new")


def test_check_without_a_change_says_so(write: Write) -> None:
    events = f"{EVENTS}    range: float = float('inf')\n"
    done = check(write, events, events)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no changes\n")


def test_check_lists_additions_and_succeeds(write: Write) -> None:
    lost = EVENTS.partition("\n\n\n")[2].replace("ship_hit", "ship_lost")
    new = f"{EVENTS}    by: str = ''\n{lost.replace('ShipHit', 'ShipLost')}"
    done = check(write, EVENTS, new)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["ship_hit.by: added", "ship_lost: added"]


def test_check_lists_each_change_that_breaks_and_fails(write: Write) -> None:
    new = EVENTS.replace("damage: int = 1", "damage: str\n    by: str = ''")
    done = check(write, EVENTS, new)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "ship_hit.damage: became required, and events of older games may lack it",
        "ship_hit.damage: type changed from integer to string",
    ]
    assert done.stderr.startswith("2 of 3 changes would break ")


def test_check_reads_standard_input(tmp_path: Path) -> None:
    (tmp_path / "sk_events.py").write_text(EVENTS, encoding="utf-8")
    document = run_command("schema", "sk_events", cwd=tmp_path).stdout

    done = subprocess.run(
        [sys.executable, "-m", "redvsblue_telemetry", "schema", "--check", "-", "sk_events"],
        cwd=tmp_path,
        env=environment(),
        input=document.replace('"ship"', '"boat"'),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "ship_hit.boat: removed",
        "ship_hit.ship: added without a default, and events of older games lack it",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "old.json can't be read: No such file or directory"),
        ("{", "old.json: not a schema as `redvsblue-telemetry schema` writes it"),
        ('{"oneOf": [{"properties": 1}]}', "old.json: not a schema"),
        (
            json.dumps(
                {
                    "oneOf": [
                        {
                            "properties": {
                                "type": {"const": "ship_hit"},
                                "data": {"$ref": "#/$defs/A"},
                            }
                        }
                    ],
                    "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}},
                }
            ),
            "a definition in the older schema is nothing but itself",
        ),
    ],
)
def test_check_with_a_file_that_is_not_a_schema_is_refused(
    write: Write, content: str | None, reason: str
) -> None:
    folder = write(sk_good=EVENTS)
    if content is not None:
        (folder / "old.json").write_text(content, encoding="utf-8")

    assert reason in refused("--check", "old.json", "sk_good")


def test_check_whose_reader_is_gone_still_fails(tmp_path: Path) -> None:
    (tmp_path / "sk_events.py").write_text(EVENTS, encoding="utf-8")
    document = run_command("schema", "sk_events", cwd=tmp_path).stdout
    (tmp_path / "old.json").write_text(document.replace('"ship"', '"boat"'), encoding="utf-8")
    command = [sys.executable, "-m", "redvsblue_telemetry", "schema"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*command, "--check", "old.json", "sk_events"],
            cwd=tmp_path,
            env=environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr.startswith("2 of 2 changes would break ")


def test_check_with_an_empty_name_is_refused(write: Write) -> None:
    write(sk_unnamed=EVENTS)
    assert "can't be read: No such file or directory" in refused("--check", "", "sk_unnamed")


def test_check_writes_no_schema(write: Write) -> None:
    folder = write(sk_one_of=EVENTS)
    (folder / "old.json").write_text("{}", encoding="utf-8")

    for option in (["-o", "new.json"], ["--format", "markdown"]):
        assert "use it without --format and --output" in refused(
            "--check", "old.json", "sk_one_of", *option
        )
    assert not (folder / "new.json").exists()
