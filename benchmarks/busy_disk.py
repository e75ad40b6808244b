"""A process that keeps the disk busy while a benchmark runs: it writes and syncs, over and over.

    python -m benchmarks.busy_disk FOLDER

It answers each line on its standard input with a line of JSON, which says how often it synced and
how long that took, and ends when the input does. Its one file has no name, so nothing is left.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from typing import IO

_BLOCK_BYTES = 256 * 1024  # written before each sync
_FILE_BYTES = 32 * 1024 * 1024  # then the file begins anew


class Writer:
    """Writes to a file, and counts.

    Args:
        file: unbuffered.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._durations: list[float] = []  # milliseconds, since the last report

    def write(self) -> None:
        """Write and sync, forever."""
        block = os.urandom(_BLOCK_BYTES)
        while True:
            if self._file.tell() >= _FILE_BYTES:
                self._file.truncate(0)
                self._file.seek(0)
            self._file.write(block)
            started = time.perf_counter()
            os.fsync(self._file.fileno())
            self._durations.append((time.perf_counter() - started) * 1000)

    def report(self) -> dict[str, float]:
        """Return how many syncs were done since the last report, and their milliseconds."""
        durations, self._durations = self._durations, []
        return {
            "syncs": len(durations),
            "mean_sync_ms": sum(durations) / max(1, len(durations)),
            "longest_sync_ms": max(durations, default=0.0),
        }


def main() -> None:
    """Write until the standard input ends."""
    with tempfile.TemporaryFile(dir=sys.argv[1], buffering=0) as file:
        writer = Writer(file)
        threading.Thread(target=_answer, args=(writer,), daemon=True).start()
        print(json.dumps({}), flush=True)
        writer.write()


def _answer(writer: Writer) -> None:
    for _ in sys.stdin:
        print(json.dumps(writer.report()), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
