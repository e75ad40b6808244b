"""How many CPU instructions an emit takes: a figure that doesn't depend on how busy the machine is.

    python -m benchmarks.instructions [--check] [--quick] [--json FILE]

Each case runs in a fresh process twice, with N1 and with N2 calls, and the instructions are
counted by ``valgrind --tool=callgrind``. The difference is divided by N2 - N1, so the start of
Python and all imports cancel out; PYTHONHASHSEED is 0. The cost of the
loop is measured as a separate case and subtracted.

- ``emit_on``: ``telemetry.emit(type, data)`` with six fields, into a store that doesn't fill, while
  the worker waits (``set_online(False)``).
- ``emit_struct``, ``emit_attrs``, ``emit_dataclass``: the same event as an instance of a class: a
  Struct, a frozen attrs class with slots, a dataclass with slots.
- ``emit_full``: the same into a full store, where each emit drops the oldest event.
- ``emit_journal``: the same with a journal, in segments that don't fill.
- ``emit_context``, ``emit_journal_context``: the same two while a context is set.
- ``emit_off``: the same call when telemetry is off.
- ``empty_function``: an empty Python function with the same signature.
- ``msgspec_encode``: msgspec alone, encoding the same event (a ready-made Struct of type,
  timestamp and data), by one encoder.

``--check`` compares ratios with ``LIMITS`` below; the exit code is 1 if one is above its limit.
Where valgrind is not installed, that is printed and the exit code is 0. The counts differ between
versions of Python and of msgspec, so the limits leave room.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.backlog import empty, offline
from benchmarks.harness import (
    EVENT_TYPE,
    Result,
    conclude,
    event_data,
    number,
    parser,
    progress,
    run_bounded,
    save,
    table,
)

MODULE = "benchmarks.instructions"
_IS_SLOW = sys.version_info < (3, 11)  # Python 3.11 made calls cheaper
LIMITS = {
    ("emit_on", "msgspec_encode"): 2.2 if _IS_SLOW else 1.9,
    ("emit_journal", "msgspec_encode"): 2.2 if _IS_SLOW else 1.9,
    ("emit_full", "msgspec_encode"): 3.4 if _IS_SLOW else 2.7,
    ("emit_off", "empty_function"): 1.5,
}
"""The most that the first case may take, as a multiple of the second."""

_SIZE = 150
_CONTEXT = {"player": "p-17", "level": 3}
_FULL = 500  # a store that is soon full
_TIMEOUT = 300.0  # seconds for one run under a tool


# In the child: a number of calls of one kind.


def _emit_each(target: Any, count: int) -> None:
    kind, data = EVENT_TYPE, event_data(_SIZE)
    for _ in repeat(None, count):
        target.emit(kind, data)


def emit_on(count: int) -> None:
    """Emit into a store that has room, below the mark at which the worker is woken."""
    _emit_each(offline(1_000_000), count)


def emit_context(count: int) -> None:
    """Emit while a context is set."""
    telemetry = offline(1_000_000)
    telemetry.context(**_CONTEXT)
    _emit_each(telemetry, count)


def _emit_instance(cls: Any, count: int) -> None:
    from redvsblue_telemetry import event_type

    target, event = offline(1_000_000), event_type(EVENT_TYPE)(cls)(**event_data(_SIZE))
    for _ in repeat(None, count):
        target.emit(event)


def emit_struct(count: int) -> None:
    """Emit an instance of a Struct."""
    import msgspec

    _emit_instance(msgspec.defstruct("Hit", list(event_data(_SIZE))), count)


def emit_attrs(count: int) -> None:
    """Emit an instance of a frozen attrs class with slots."""
    import attrs

    _emit_instance(attrs.make_class("Hit", list(event_data(_SIZE)), slots=True, frozen=True), count)


def emit_dataclass(count: int) -> None:
    """Emit an instance of a dataclass with slots."""
    import dataclasses

    _emit_instance(dataclasses.make_dataclass("Hit", list(event_data(_SIZE)), slots=True), count)


def emit_full(count: int) -> None:
    """Emit into a full store."""
    telemetry = offline(_FULL)
    _emit_each(telemetry, _FULL)
    _emit_each(telemetry, count)


def emit_journal(count: int) -> None:
    """Emit into a journal's active segment, which is large enough for all of it."""
    _emit_into_journal(count, {})


def emit_journal_context(count: int) -> None:
    """Emit into a journal while a context is set."""
    _emit_into_journal(count, _CONTEXT)


def _emit_into_journal(count: int, context: dict[str, Any]) -> None:
    from redvsblue_telemetry._journal.layout import Header
    from redvsblue_telemetry._journal.store import JournalStore
    from redvsblue_telemetry._recording.codec import EventCodec
    from redvsblue_telemetry._recording.emit import Flag, make_emit
    from redvsblue_telemetry._recording.ledger import Ledger

    codec, switch = EventCodec("session"), Flag()
    store = JournalStore(max_bytes=1 << 30, max_event_bytes=1 << 20)
    switch.on = True
    with tempfile.TemporaryDirectory() as directory:
        store.open(_Directory(directory), Header(codec.session_id, codec.run, 1, 0, 0, 0))
        emit = make_emit(switch, codec, store, Ledger(store), print)
        if context:
            codec.extend_context(context)
        _emit_each(SimpleNamespace(emit=emit), count)


class _Directory:
    """A directory as a journal's store sees it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def segment_path(self, number: int) -> Path:
        return self._path / str(number)

    def sync(self) -> None:
        pass


def emit_off(count: int) -> None:
    """Emit while telemetry is off."""
    from redvsblue_telemetry import start_telemetry  # not imported by every case

    _emit_each(start_telemetry(enabled=False), count)


def empty_function(count: int) -> None:
    """Call an empty function with this signature."""
    kind, data, call = EVENT_TYPE, event_data(_SIZE), empty
    for _ in repeat(None, count):
        call(kind, data)


def msgspec_encode(count: int) -> None:
    """Call the compiled encoder alone."""
    import msgspec

    body_type = msgspec.defstruct(
        "EncodedEvent", [("type", str), ("timestamp", int), ("data", dict)]
    )
    body = body_type(EVENT_TYPE, 1_700_000_000_000, event_data(_SIZE))
    encode = msgspec.json.Encoder().encode
    for _ in repeat(None, count):
        encode(body)


def loop(count: int) -> None:
    """Run the loop alone."""
    for _ in repeat(None, count):
        pass


CASES: dict[str, Callable[[int], None]] = {
    case.__name__: case
    for case in (
        loop,
        empty_function,
        emit_off,
        msgspec_encode,
        emit_on,
        emit_struct,
        emit_attrs,
        emit_dataclass,
        emit_context,
        emit_journal,
        emit_journal_context,
        emit_full,
    )
}


def _play(task: str) -> int:
    name, _, count = task.partition(":")
    CASES[name](int(count))
    sys.stdout.flush()
    os._exit(0)  # the cost of Python's end depends on the contents of the store


# In the parent.


def _count(command: list[str]) -> int:
    """Return the instructions that a command takes."""
    options = ["--tool=callgrind", "--callgrind-out-file=/dev/null"]
    output = _run(["valgrind", *options, *command])
    match = re.search(r"Collected\s*:\s*(\d+)", output)
    if match is None:
        raise RuntimeError(f"no count of instructions in: {output[-600:]}")
    return int(match[1])


def _run(command: list[str]) -> str:
    """Run a command, and return its standard error."""
    done = run_bounded(command, _TIMEOUT, PYTHONHASHSEED="0")
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-600:]}")
    return done.stderr


def _measure(case: str, few: int, many: int) -> float:
    """Return the instructions of one call, including the loop."""
    command = [sys.executable, "-m", MODULE, "--child"]
    _run([*command, f"{case}:1"])  # writes the bytecode, so that neither of the counted runs does
    counts = [_count([*command, f"{case}:{count}"]) for count in (few, many)]
    return (counts[1] - counts[0]) / (many - few)


def _ratios(costs: dict[str, float]) -> list[Result]:
    ratios = []
    for (case, base), limit in LIMITS.items():
        if case in costs and base in costs:
            ratio = costs[case] / costs[base]
            ratios.append({"case": case, "base": base, "ratio": ratio, "limit": limit})
    return ratios


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    rows = [
        [f"`{ratio['case']}` / `{ratio['base']}`", number(ratio["ratio"]), f"{ratio['limit']:g}"]
        for ratio in report["ratios"]
    ]
    return {"instructions": table(["instructions", "ratio", "limit"], rows)}


def main() -> int:
    """Count, and print; compare with the limits if ``--check`` is given."""
    commands = parser(__doc__, rounds=1)
    commands.add_argument("--check", action="store_true", help="exit code 1 above a limit")
    options = commands.parse_args()
    if options.child:
        return _play(options.child)
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    few, many = (500, 1_500) if options.quick else (2_000, 12_000)
    costs: dict[str, float] = {}
    failed: list[Result] = []
    for case in CASES:
        progress(f"instructions: {case}")
        try:
            costs[case] = _measure(case, few, many)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            failed.append({"failure": f"{case}: {error}"})
    each = costs.pop("loop", 0.0)
    costs = {name: cost - each for name, cost in costs.items()}
    report: Result = {"calls": [few, many], "loop": each, "instructions": costs}
    report |= {"ratios": _ratios(costs), "failures": failed}
    save(options.json, "instructions", report)
    counts = table(["one call", "instructions"], [[n, number(cost)] for n, cost in costs.items()])
    if options.check:
        failed += [
            {"failure": f"{r['case']} / {r['base']}: {r['ratio']:.2f}, above {r['limit']}"}
            for r in report["ratios"]
            if r["ratio"] > r["limit"]
        ]
    return conclude({"counts": counts, **tables(report)}, failed)


if __name__ == "__main__":
    sys.exit(main())
