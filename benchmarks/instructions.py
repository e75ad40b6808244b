"""How many CPU instructions an emit takes: a figure that doesn't depend on how busy the machine is.

    python -m benchmarks.instructions [--check] [--require] [--tool T] [--quick] [--json FILE]

Each case runs in a fresh process twice, with N1 and with N2 calls, and the instructions are
counted by ``valgrind --tool=callgrind`` or by ``perf stat -e instructions:u``, the first of them
that works. The difference is divided by N2 - N1, so the start of Python and all imports cancel out;
PYTHONHASHSEED is 0. The cost of the loop is measured as a separate case and subtracted.

- ``emit_on``: ``telemetry.emit(type, data)`` with six fields, into a store that doesn't fill, while
  the worker waits (``set_online(False)``).
- ``emit_full``: the same into a full store, where each emit drops the oldest event.
- ``emit_off``: the same call when telemetry is off.
- ``empty_function``, ``empty_method``: an empty Python function, or method, of the same signature.
- ``msgspec_encode``: msgspec alone, encoding the same event (a ready-made Struct of type,
  timestamp and data), by one encoder.

``--check`` compares ratios with ``LIMITS`` below; the exit code is 1 if one is above its limit.
Without a tool that can count, a line is printed and the exit code is 0, or 3 with ``--require``.
The counts differ between versions of Python and of msgspec, so the limits leave room.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from benchmarks.backlog import empty, offline
from benchmarks.harness import (
    EVENT_TYPE,
    Result,
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
    ("emit_full", "msgspec_encode"): 3.4 if _IS_SLOW else 2.7,
    ("emit_off", "empty_function"): 1.5,
}
"""The most that the first case may take, as a multiple of the second."""

_SIZE = 150
_FULL = 500  # a store that is soon full
_TIMEOUT = 300.0  # seconds for one run under a tool
_NO_TOOL = 3


# In the child: a number of calls of one kind.


class _Empty:
    """Has an empty method with the signature of ``emit``."""

    def emit(self, type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Do nothing."""


def _emit_each(target: Any, count: int) -> None:
    kind, data = EVENT_TYPE, event_data(_SIZE)
    for _ in repeat(None, count):
        target.emit(kind, data)


def emit_on(count: int) -> None:
    """Emit into a store that has room, below the mark at which the worker is woken."""
    _emit_each(offline(1_000_000), count)


def emit_full(count: int) -> None:
    """Emit into a full store."""
    telemetry = offline(_FULL)
    _emit_each(telemetry, _FULL)
    _emit_each(telemetry, count)


def emit_off(count: int) -> None:
    """Emit while telemetry is off."""
    from redvsblue_telemetry import start_telemetry  # not imported by every case

    _emit_each(start_telemetry(enabled=False), count)


def empty_method(count: int) -> None:
    """Call an empty method with this signature."""
    _emit_each(_Empty(), count)


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
        empty_method,
        emit_off,
        msgspec_encode,
        emit_on,
        emit_full,
    )
}


def _play(task: str) -> int:
    name, _, count = task.partition(":")
    CASES[name](int(count))
    sys.stdout.flush()
    os._exit(0)  # the cost of Python's end depends on the contents of the store


# In the parent.


def _count_by_valgrind(command: list[str]) -> int:
    options = ["--tool=callgrind", "--callgrind-out-file=/dev/null"]
    text = _run(["valgrind", *options, *command])
    return int(_found(r"Collected\s*:\s*(\d+)", text))


def _count_by_perf(command: list[str]) -> int:
    text = _run(["perf", "stat", "-x,", "-e", "instructions:u", *command])
    return int(_found(r"^(\d+),[^\n]*instructions", text))


TOOLS = {"valgrind": _count_by_valgrind, "perf": _count_by_perf}


def _run(command: list[str]) -> str:
    done = run_bounded(command, _TIMEOUT, PYTHONHASHSEED="0")
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-600:]}")
    return done.stderr


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"no count of instructions in: {text[-600:]}")
    return match[1]


def find_tool(wanted: str | None) -> str | None:
    """Return the first tool that is installed and can count here."""
    for name in (wanted,) if wanted else TOOLS:
        if shutil.which(name):
            try:
                TOOLS[name]([sys.executable, "-S", "-c", ""])
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                progress(f"instructions: {name} can't count here: {str(error).strip()[:200]}")
            else:
                return name
    return None


def _measure(tool: str, case: str, few: int, many: int) -> float:
    """Return the instructions of one call, including the loop."""
    command = [sys.executable, "-m", MODULE, "--child"]
    _run([*command, f"{case}:1"])  # writes the bytecode, so that neither of the counted runs does
    counts = [TOOLS[tool]([*command, f"{case}:{count}"]) for count in (few, many)]
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
    options = parser(__doc__, rounds=1)
    options.add_argument("--check", action="store_true", help="exit code 1 above a limit")
    options.add_argument("--require", action="store_true", help="exit code 3 without a tool")
    options.add_argument("--tool", choices=TOOLS)
    arguments = options.parse_args()
    if arguments.child:
        return _play(arguments.child)
    tool = find_tool(arguments.tool)
    if tool is None:
        print("skipped: neither valgrind nor perf can count instructions here")
        save(arguments.json, "instructions", {"tool": None, "skipped": True})
        return _NO_TOOL if arguments.require else 0
    few, many = (500, 1_500) if arguments.quick else (2_000, 12_000)
    costs: dict[str, float] = {}
    failed: dict[str, str] = {}
    for case in CASES:
        progress(f"instructions: {case}")
        try:
            costs[case] = _measure(tool, case, few, many)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            failed[case] = str(error)
    each = costs.pop("loop", 0.0)
    costs = {name: cost - each for name, cost in costs.items()}
    result: Result = {"tool": tool, "calls": [few, many], "loop": each, "instructions": costs}
    result |= {"ratios": _ratios(costs), "failures": failed}
    save(arguments.json, "instructions", result)
    counts = [[name, number(cost)] for name, cost in costs.items()]
    print("\n".join(["", table([f"one call, by {tool}", "instructions"], counts), ""]))
    print(*tables(result).values(), sep="\n")
    for case, failure in failed.items():
        print(f"failure: {case}: {failure}")
    above = [r for r in result["ratios"] if r["ratio"] > r["limit"]]
    for r in above:
        print(f"above its limit: {r['case']} / {r['base']}: {r['ratio']:.2f} > {r['limit']}")
    return 1 if arguments.check and (above or failed) else 0


if __name__ == "__main__":
    sys.exit(main())
