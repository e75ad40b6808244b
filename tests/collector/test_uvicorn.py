"""The collector overrides parts of uvicorn that are not documented: they must still be there."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from redvsblue_telemetry.collector import connections

# Of each class: the methods that are overridden, and the attributes that are used.
HTTP = {
    "connection_lost",
    "connection_made",
    "data_received",
    "handle_websocket_upgrade",
    "on_response_complete",
    "send_400_response",
}
USED_OF_HTTP = {"client", "config", "conn", "cycle", "logger", "transport"}
WEBSOCKET = {
    "connection_lost",
    "connection_made",
    "data_received",
    "handle_parser_exception",
    "send",
}
USED_OF_WEBSOCKET = {
    "client",
    "close_sent",
    "close_timer",
    "config",
    "conn",
    "handshake_complete",
    "initial_response",
    "logger",
    "loop",
    "queue",
    "read_paused",
    "transport",
}
USED_OF_SERVER = {"config", "server_state", "servers", "should_exit", "started"}
SERVER = {"capture_signals", "shutdown", "startup"}

USED_OF_CONN = {
    "HttpProtocol": {"their_state"},
    "WebSocketProtocol": {"close_sent", "data_to_send", "handshake_exc"},
    "Server": set[str](),
}
OURS = {
    connections.HttpProtocol: (HTTP, USED_OF_HTTP),
    connections.WebSocketProtocol: (WEBSOCKET, USED_OF_WEBSOCKET),
    connections.Server: (SERVER, USED_OF_SERVER),
}

HINT = "uvicorn has changed: see whether collector/connections.py still does what it says"


def made_by_uvicorn(kind: type) -> Any:
    """An object of the class of uvicorn's that a class of ours extends."""

    async def make() -> Any:
        config = uvicorn.Config(lambda *_: None, lifespan="off", log_config=None)
        config.load()
        base = kind.__mro__[1]
        return base(config) if base is uvicorn.Server else base(config, ServerState(), {})

    return asyncio.run(make())


def own_names(kind: type) -> set[str]:
    """The names that a class of ours has added."""
    made = ast.parse(inspect.getsource(kind))
    assigned = {
        target.attr
        for node in ast.walk(made)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    inherited = set(dir(made_by_uvicorn(kind)))
    return (assigned | set(vars(kind))) - inherited - {"servers"}  # that uvicorn has only later


@pytest.mark.parametrize("ours", OURS)
def test_overridden_methods_have_the_same_parameters(ours: type) -> None:
    base = ours.__mro__[1]
    overridden = {name for name in vars(ours) if callable(vars(ours)[name]) and hasattr(base, name)}
    assert OURS[ours][0] == overridden - {"__init__"}
    for name in OURS[ours][0]:
        parameters = [
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (ours, base)
        ]
        assert parameters[0] == parameters[1], f"{name}: {HINT}"


@pytest.mark.parametrize("ours", OURS)
def test_attributes_that_are_used_exist(ours: type) -> None:
    theirs = made_by_uvicorn(ours)
    used = OURS[ours][1] - {"servers"}
    assert {name for name in used if not hasattr(theirs, name)} == set(), HINT
    of_conn = USED_OF_CONN[ours.__name__]
    assert {name for name in of_conn if not hasattr(theirs.conn, name)} == set(), HINT
    assert ServerState().connections == set(), HINT


def test_server_closes_the_acceptor_as_it_would_an_asyncio_server() -> None:
    source = inspect.getsource(uvicorn.Server)
    assert re.findall(r"in self\.servers:\s+(?:await )?(server\.\w+\(\))", source) == [
        "server.close()",
        "server.wait_closed()",
    ], HINT


@pytest.mark.parametrize("ours", OURS)
def test_no_other_attributes_are_used(ours: type) -> None:
    tree = ast.parse(inspect.getsource(ours))
    found = {
        ast.unparse(node).removeprefix("self.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("self.")
    }
    used = {name for name in found if "." not in name} - own_names(ours)
    assert used == OURS[ours][1]
    assert {
        name[5:] for name in found if name.startswith("conn.") and name.count(".") == 1
    } == USED_OF_CONN[ours.__name__]
