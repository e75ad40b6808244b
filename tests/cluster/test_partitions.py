"""A cluster whose parts are cut off from each other: a short run of the benchmark for that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="needs nats-py")
pytest.importorskip("moto", reason="needs moto")

from tests.support import REPOSITORY
from tests.support.wait import PATIENCE, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("nsenter") is None,
        reason="Linux only, with the rights of root and nsenter",
    ),
]

LONG = 240.0  # seconds


def playing(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.cluster", "--scenario", "partitioned"]
    command += ["--clients", "4", "--rate", "200", "--dir", str(folder / "files")]
    return subprocess.Popen(
        [*command, *options],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_behind(folder: Path) -> list[str]:
    """The command lines of processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_nothing_is_lost_when_parts_are_cut_off(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ("--cut", "6", "--only", "leader from the followers", "--json", str(report))
    with playing(tmp_path, *options) as benchmark:
        _, said = benchmark.communicate(timeout=LONG)
    # Its exit code is also about times, which a busy machine can't promise.
    (result,) = json.loads(report.read_text("utf-8"))["results"]
    assert (result["times"], result["acknowledged"] > 0) == (1, True), said
    assert (result["lost"], result["twice"], result["out of order"]) == (0, 0, 0), said
    assert wait_until(lambda: not left_behind(tmp_path)), left_behind(tmp_path)


def test_nothing_is_left_behind_when_the_run_is_interrupted(tmp_path: Path) -> None:
    with playing(tmp_path, "--cut", str(LONG)) as benchmark:
        assert benchmark.stderr is not None
        assert any("cut off for" in line for line in benchmark.stderr)
        assert left_behind(tmp_path)
        benchmark.send_signal(signal.SIGINT)
        benchmark.communicate(timeout=PATIENCE)
    assert wait_until(lambda: not left_behind(tmp_path)), left_behind(tmp_path)
