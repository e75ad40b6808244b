"""The imports follow the shape of the code: a pure core in a thin shell, and no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import redvsblue_telemetry

PACKAGE = Path(redvsblue_telemetry.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
RUN_TIME_DEPENDENCIES = {"attrs", "msgspec", "tenacity", "websocket"}

PURE = [
    "backoff",
    "delivery",
    "emission",
    "errors",
    "events",
    "frames",
    "plain",
    "proxies",
    "settings",
    "states",
    "statelog",
    "store",
    "tally",
]

MAY_IMPORT = {
    "errors": set(),
    "states": set(),
    "tally": set(),
    "plain": set(),
    "backoff": set(),
    "delivery": set(),
    "proxies": set(),
    "statelog": set(),
    "sockets": {"proxies"},
    "waiting": set(),
    "turns": set(),
    "frames": set(),
    "transport": {"frames", "sockets"},
    "exchange": {"delivery", "events", "settings", "statelog", "store", "transport", "turns"},
    "store": {"tally"},
    "events": {"errors", "plain"},
    "emission": {"events", "store"},
    "settings": {"errors"},
    "wiring": {"errors", "events"},
    "connector": {
        "backoff",
        "delivery",
        "events",
        "exchange",
        "settings",
        "sockets",
        "statelog",
        "states",
        "store",
        "transport",
        "waiting",
    },
}


def imports_of(module: str, *, at_top_only: bool = False) -> set[str]:
    """What a module imports when it runs: outside names as they are, the package's as ``.name``."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    return {name for node in _statements(tree, at_top_only) for name in _imported(node)}


def _statements(node: ast.AST, at_top_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if at_top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        yield child
        yield from _statements(child, at_top_only)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level:
        yield from (f".{node.module or alias.name}" for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module is not None
        yield node.module.partition(".")[0]


def siblings_of(module: str) -> set[str]:
    return {name[1:] for name in imports_of(module) if name.startswith(".")}


def test_the_imports_are_read_at_all() -> None:
    assert "websocket" in imports_of("transport")
    assert "store" in siblings_of("connector")
    assert "websockets" in imports_of("testing")


@pytest.mark.parametrize("module", MODULES)
def test_only_the_transport_imports_websocket(module: str) -> None:
    assert ("websocket" in imports_of(module)) == (module == "transport")


@pytest.mark.parametrize("module", PURE)
def test_the_core_knows_no_thread_and_no_socket(module: str) -> None:
    shell = {"asyncio", "select", "selectors", "socket", "threading", "_thread", "websocket"}
    assert imports_of(module).isdisjoint(shell)


def test_the_window_and_the_transport_read_no_clock_of_their_own() -> None:
    assert "time" not in imports_of("delivery")
    assert not imports_of("transport") & {"threading", "tenacity"}


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_a_module_imports_only_what_it_may_know_of(module: str) -> None:
    assert siblings_of(module) <= MAY_IMPORT[module]


def test_the_wiring_does_not_know_the_client_and_what_is_behind_it() -> None:
    assert siblings_of("wiring").isdisjoint({"client", "connector", "transport"})


def test_the_client_does_not_know_the_wire() -> None:
    assert siblings_of("client").isdisjoint({"delivery", "transport"})


def test_there_is_no_circle() -> None:
    graph = {module: siblings_of(module) for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) >= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_only_testing_imports_websockets_and_only_when_a_server_starts(module: str) -> None:
    assert "websockets" not in imports_of(module, at_top_only=True)
    assert ("websockets" in imports_of(module)) == (module == "testing")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "testing"])
def test_nothing_from_outside_is_imported_but_the_dependencies(module: str) -> None:
    outside = {name for name in imports_of(module) if not name.startswith(".")}
    assert outside - RUN_TIME_DEPENDENCIES <= sys.stdlib_module_names


def test_importing_the_package_brings_in_nothing_that_is_not_needed() -> None:
    unneeded = ["asyncio", "numpy", "pyglet", "pytest", "redvsblue_telemetry.testing", "websockets"]
    script = (
        "import sys, redvsblue_telemetry\n"
        f"raise SystemExit(repr([m for m in {unneeded} if m in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stderr.strip() == "[]"


def test_importing_the_package_starts_no_thread() -> None:
    script = (
        "import threading, redvsblue_telemetry\n"
        "raise SystemExit(repr([t.name for t in threading.enumerate()]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stderr.strip() == "['MainThread']"
