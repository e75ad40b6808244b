"""A process that deletes without a pause, and prints a line after each step; it is killed.

``python -m tests.collector.storage.deleting_process DATABASE``
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.forgetting import Forgetting
from redvsblue_telemetry.collector.storage.retention import Retention
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.upkeep import Keep
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.clients import event

EVENTS = 100  # in a group


def main() -> None:
    """Store, delete what is older than a moment, and print, until the end."""
    database = Database(Path(sys.argv[1]))
    writer = Writer(database, lambda name, data: "a fault" if name == "bad" else None)
    keep = Retention(database, Keep(0.02, {"crash": 0.06}))
    types = itertools.cycle(["hit", "bad", "crash", "hit", "move"])
    run = f"{time.time_ns()}"
    for number in itertools.count():
        events = [
            event(
                number * EVENTS + seq,
                f"{run}-{number % 5}-{number // 50}",
                type=next(types),
                context={"player": f"p-{number % 3}", "level": seq % 7},
                data={"text": "x" * (seq % 90)},
            )
            for seq in range(1, EVENTS + 1)
        ]
        writer.store([read_message(json.dumps(events))])
        works = [keep, TextIndex()]
        if number % 10 == 9:
            works.append(Forgetting(field=("player", f"p-{number % 3}")))
        for work in works:
            writer.maintain(work.step)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
