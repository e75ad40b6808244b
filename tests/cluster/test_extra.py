"""The packages of the extra are all that a cluster needs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support.command import environment
from tests.support.lake import STREAM, append, numbered

_WITHOUT_OTHERS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

others = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Absent())
from redvsblue_telemetry.__main__ import main
sys.exit(main())
"""


def packages_of(wanted: Requirement, found: set[str]) -> None:
    """Add the packages that are installed with a requirement."""
    found.add(canonicalize_name(wanted.name))
    for text in requires(wanted.name) or ():
        inner = Requirement(text)
        is_met = any(
            inner.marker is None or inner.marker.evaluate({"extra": extra})
            for extra in wanted.extras or {""}
        )
        if is_met and (inner.extras or canonicalize_name(inner.name) not in found):
            packages_of(inner, found)


def test_a_lake_is_read_with_the_packages_of_the_extra_alone(tmp_path: Path) -> None:
    allowed = {"pip", "setuptools"}
    packages_of(Requirement("redvsblue-telemetry[cluster]"), allowed)
    others = {
        module
        for module, packages in packages_distributions().items()
        if allowed.isdisjoint(map(canonicalize_name, packages))
    }
    assert {"pytest", "hypothesis"} <= others
    assert not {"click", "duckdb", "redvsblue_telemetry"} & others
    lake = Lake.open(str(tmp_path))
    append(lake, lake.claim(STREAM, [0]), 0, 1, numbered("s", 1, 3))

    query = ("query", "--lake", str(tmp_path), "SELECT count(*) FROM events")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_OTHERS, ",".join(others), *query],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "3" in done.stdout
