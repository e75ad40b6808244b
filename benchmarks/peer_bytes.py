"""How many bytes this SDK and others send for the same thousand events, headers and all.

    python -m benchmarks.peer_bytes [--rounds 3] [--quick]
        [--json benchmarks/results/peer-bytes.json]

Each SDK is set up as ``benchmarks.peers`` describes, with its defaults, in a fresh process, and
emits the same events of six fields: all *at once*, so that its batches are as large as it makes
them, and *in play*, at sixty frames a second and an event a frame, so that its timers cut the
batches. Those that can compress are measured without and with it. Then it is shut down.

A sink on loopback counts what it reads from the sockets of an SDK, from the first connection to
the last: requests with their headers, handshakes and frames. It answers as briefly as a server can.
Not counted are TCP's and TLS's own bytes (an SDK that opens a connection for each request would
have more of these), and anything else that an SDK may send to another host.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.game_loop import STOP_TIMEOUT
from benchmarks.harness import (
    Result,
    Server,
    answer,
    ask_sink,
    conclude,
    grouped,
    median,
    number,
    parser,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)
from benchmarks.peers import BY_BYTES, RIVALS, forget_settings, make_events, versions

MODULE = "benchmarks.peer_bytes"
PACES = {"at once": 0, "in play": 60}
"""Events a second; 0 for all of them at once."""
OURS = ("ours-zstd", "ours-deflate")
_EVENTS = 1000
_AT_A_TIME = 4  # SDKs: they mostly wait
_OVERHEAD = 60.0 + STOP_TIMEOUT  # seconds that a child may take beyond its events
_SETTLING = 3.0  # seconds that the sink has to see the last of it


# In the child.


def send(task: Result) -> Result:
    """Emit the events by one SDK, and shut it down."""
    forget_settings()
    peer = BY_BYTES[task["peer"]]()
    peer.load()
    peer.start(task["port"])
    peer.wait_until_ready()
    events = make_events(0, task["events"])
    if not task["rate"]:
        peer.emit_all(events)
    else:
        due = time.perf_counter()
        for event in events:
            peer.emit_all([event])
            due += 1 / task["rate"]
            time.sleep(max(0.0, due - time.perf_counter()))
    failures: list[str] = []

    def stop() -> None:
        try:
            peer.stop(STOP_TIMEOUT)
        except Exception as error:
            failures.append(repr(error))

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    stopper.join(STOP_TIMEOUT + 1)
    if stopper.is_alive():
        failures.append(f"not stopped after {STOP_TIMEOUT:g} s")
    return {"stop_failures": failures}


# In the parent.


def _measure(name: str, pace: str, events: int) -> Result:
    rate = PACES[pace]
    known: Result = {"peer": name, "pace": pace}
    with Server("benchmarks.sink", "--keep", "--acks", "--reports") as sink:
        task = {"kind": "send", "peer": name, "port": sink.port, "rate": rate, "events": events}
        result = run_child(MODULE, task, _OVERHEAD + (events / rate if rate else 0))
        if "failure" in result:
            return known | result
        deadline = time.monotonic() + _SETTLING
        counts = ask_sink(sink.url, "counts?first=0&until=0")
        while counts["arrived"] < events and time.monotonic() < deadline:
            time.sleep(0.2)
            counts = ask_sink(sink.url, "counts?first=0&until=0")
        compressed = ask_sink(sink.url)["compressed"]
    for figure in ("arrived", "requests", "body_bytes", "wire_bytes"):
        result[figure] = counts[figure]
    result["bytes_per_event"] = counts["wire_bytes"] / counts["arrived"] if counts["arrived"] else 0
    faults = [*counts["errors"], *result.pop("stop_failures")]
    if counts["arrived"] != events:
        faults.append(f"{counts['arrived']} of {events} events arrived")
    if name in OURS and not compressed:
        faults.append("no message came compressed")
    return known | result | ({"failure": f"{name}, {pace}: {'; '.join(faults)}"} if faults else {})


def _round(events: int) -> list[Result]:
    tasks = [(name, pace, events) for pace in PACES for name in BY_BYTES]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(lambda task: _measure(*task), tasks))


def of_the_best(report: Result, name: str, pace: str, *, with_options: bool) -> Result:
    """Summarize the bytes of an event, relative to the best other SDK in the same round.

    Args:
        report: the results.
        name: the peer that is compared.
        pace: of the events.
        with_options: compare also with the compression that another SDK has as an option.
    """
    rivals = {peer for peer in BY_BYTES if peer.partition("-")[0] in RIVALS}
    if not with_options:
        rivals &= set(RIVALS)
    ratios: list[float | None] = []
    for group in grouped(report["results"], "round").values():
        figures: dict[str, float] = {
            result["peer"]: result["bytes_per_event"]
            for result in group
            if result["pace"] == pace and result.get("bytes_per_event")
        }
        others = [figures[peer] for peer in rivals & figures.keys()]
        if name in figures and others:
            ratios.append(figures[name] / min(others))
    return summary(ratios)


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    groups = grouped(report["results"], "peer", "pace")
    rows = []
    for name, peer in BY_BYTES.items():
        row = [peer.title]
        for pace in PACES:
            group = groups.get((name, pace), [])
            row.append(spread(summary([result.get("bytes_per_event") for result in group])))
            row.append(number(median(group, "requests")))
        rows.append(row)
    headers = [""]
    for pace in PACES:
        headers += [f"bytes an event, {pace}", "requests"]
    return {"peer-bytes": table(headers, rows)}


def main() -> int:
    """Measure, and print the table."""
    options = parser(__doc__, rounds=3).parse_args()
    if options.child:
        code = answer(options.child, {"send": send})
        sys.stderr.flush()
        os._exit(code)  # an SDK has had its time: nothing runs at exit
    events = 100 if options.quick else _EVENTS
    known = versions()
    report = run_rounds(
        options, "peer-bytes", lambda: _round(events), events=events, versions=known
    )
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
