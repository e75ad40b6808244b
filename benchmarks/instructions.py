"""How many CPU instructions an emit takes: a figure that doesn't depend on the machine's mood.

    python -m benchmarks.instructions [--check] [--require] [--tool T] [--quick] [--json FILE]

Each case runs in a fresh process twice, with N1 and with N2 calls, and the instructions are
counted by ``valgrind --tool=callgrind`` or by ``perf stat -e instructions:u``, whichever is there
(and works). What the difference is divided by is N2 - N1, so the start of Python and all imports
cancel; PYTHONHASHSEED is 0. The cost of the loop is measured by a case of its own and taken off.

- ``emit_on``: ``telemetry.emit(type, data)`` with six fields, into a store that doesn't fill, while
  the worker waits (``set_online(False)``).
- ``emit_full``: the same into a full store, where each emit drops the oldest event.
- ``emit_off``: the same call when telemetry is off.
- ``empty_function``, ``empty_method``: an empty Python function, or method, of the same signature.
- ``msgspec_encode``: msgspec alone, encoding the same event (a ready-made Struct of type,
  timestamp and data), by one encoder.

``--check`` compares ratios with ``LIMITS`` below; exit code 1 if one is above its limit. With no
tool to count by it says so and ends with exit code 0, or 3 if ``--require`` is given. The counts
differ between versions of Python and of msgspec, so the ratios' limits leave room.
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
from benchmarks.measuring import (
    EVENT_TYPE,
    Result,
    event_data,
    parser,
    print_table,
    progress,
    run_bounded,
    save,
)

MODULE = "benchmarks.instructions"
_IS_SLOW = sys.version_info < (3, 11)  # Python 3.11 calls functions with less
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


# In the child: so many calls of one kind.


class _Empty:
    """Has an empty method of the signature of ``emit``."""

    def emit(self, type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Do nothing."""


def _emit_each(target: Any, count: int) -> None:
    kind, data = EVENT_TYPE, event_data(_SIZE)
    for _ in repeat(None, count):
        target.emit(kind, data)


def emit_on(count: int) -> None:
    """Into a store that has room, below the mark at which the worker is woken."""
    _emit_each(offline(1_000_000), count)


def emit_full(count: int) -> None:
    """Into a store that was filled before."""
    telemetry = offline(_FULL)
    _emit_each(telemetry, _FULL)
    _emit_each(telemetry, count)


def emit_off(count: int) -> None:
    """While telemetry is off."""
    from redvsblue_telemetry import start_telemetry  # some cases do without

    _emit_each(start_telemetry(enabled=False), count)


def empty_method(count: int) -> None:
    """The least that a method of this signature takes."""
    _emit_each(_Empty(), count)


def empty_function(count: int) -> None:
    """The least that a function of this signature takes."""
    kind, data, call = EVENT_TYPE, event_data(_SIZE), empty
    for _ in repeat(None, count):
        call(kind, data)


def msgspec_encode(count: int) -> None:
    """The compiled encoder alone."""
    import msgspec

    body_type = msgspec.defstruct(
        "EncodedEvent", [("type", str), ("timestamp", int), ("data", dict)]
    )
    body = body_type(EVENT_TYPE, 1_700_000_000_000, event_data(_SIZE))
    encode = msgspec.json.Encoder().encode
    for _ in repeat(None, count):
        encode(body)


def loop(count: int) -> None:
    """Nothing at all, so many times."""
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
    os._exit(0)  # what the end of Python costs depends on what is in the store


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
    """The first tool that is there and can count."""
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
    """Instructions of one call, the loop included."""
    command = [sys.executable, "-m", MODULE, "--child"]
    _run([*command, f"{case}:1"])  # writes the bytecode, so that neither of the two does
    counts = [TOOLS[tool]([*command, f"{case}:{count}"]) for count in (few, many)]
    return (counts[1] - counts[0]) / (many - few)


def _ratios(costs: dict[str, float]) -> list[Result]:
    ratios = []
    for (case, base), limit in LIMITS.items():
        if case in costs and base in costs:
            ratio = costs[case] / costs[base]
            ratios.append({"case": case, "base": base, "ratio": ratio, "limit": limit})
    return ratios


def _report(result: Result) -> None:
    rows: list[list[object]] = [[name, cost] for name, cost in result["instructions"].items()]
    print_table(
        f"Instructions of one call by {result['tool']}, less the loop's {result['loop']:.1f}",
        ["", "instructions"],
        rows,
    )
    rows = [[f"{r['case']} / {r['base']}", r["ratio"], r["limit"]] for r in result["ratios"]]
    print_table("Ratios", ["", "ratio", "limit"], rows)


def main() -> int:
    """Count, print, and check if that is asked for."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--check", action="store_true", help="exit code 1 above a limit")
    options.add_argument("--require", action="store_true", help="exit code 3 without a tool")
    options.add_argument("--tool", choices=TOOLS)
    arguments = options.parse_args()
    if arguments.child:
        return _play(arguments.child)
    tool = find_tool(arguments.tool)
    if tool is None:
        print("skipped: neither valgrind nor perf is here that can count instructions")
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
    _report(result)
    for case, failure in failed.items():
        print(f"failure: {case}: {failure}")
    above = [r for r in result["ratios"] if r["ratio"] > r["limit"]]
    for r in above:
        print(f"above its limit: {r['case']} / {r['base']}: {r['ratio']:.2f} > {r['limit']}")
    return 1 if arguments.check and (above or failed) else 0


if __name__ == "__main__":
    sys.exit(main())
