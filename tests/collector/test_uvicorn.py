"""The collector overrides parts of uvicorn that are not documented: they must still be there."""

from __future__ import annotations

import ast
import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from redvsblue_telemetry.collector import server

# Of a WebSocket connection: the methods that are overridden, and the attributes that are used.
OVERRIDDEN = {"connection_lost", "data_received", "handle_parser_exception", "send"}
USED = {
    "close_sent",
    "close_timer",
    "config",
    "conn",
    "handshake_complete",
    "initial_response",
    "loop",
    "queue",
    "read_paused",
    "transport",
}
USED_OF_CONN = {"close_sent", "data_to_send", "handshake_exc"}
SERVER = {"capture_signals", "startup"}

HINT = "uvicorn has changed: see whether collector/server.py still does what it says"


def made_by_uvicorn() -> WebSocketsSansIOProtocol:
    async def make() -> WebSocketsSansIOProtocol:
        config = uvicorn.Config(lambda *_: None, lifespan="off", log_config=None)
        config.load()
        return WebSocketsSansIOProtocol(config, ServerState(), {})

    return asyncio.run(make())


@pytest.mark.parametrize(
    ("ours", "names"),
    [(server._WebSocketProtocol, OVERRIDDEN), (server._Server, SERVER)],
    ids=["connection", "server"],
)
def test_overridden_methods_have_the_same_parameters(ours: type, names: set[str]) -> None:
    assert names == {name for name in vars(ours) if callable(vars(ours)[name])} - {"__init__"}
    for name in names:
        parameters = [
            list(inspect.signature(getattr(kind, name)).parameters)
            for kind in (ours, ours.__mro__[1])
        ]
        assert parameters[0] == parameters[1], f"{name}: {HINT}"


def test_attributes_that_are_used_exist() -> None:
    connection = made_by_uvicorn()
    assert {name for name in USED if not hasattr(connection, name)} == set(), HINT
    assert {name for name in USED_OF_CONN if not hasattr(connection.conn, name)} == set(), HINT
    assert ServerState().connections == set(), HINT


def test_no_other_attributes_are_used() -> None:
    tree = ast.parse(inspect.getsource(server._WebSocketProtocol))
    found = {
        ast.unparse(node).removeprefix("self.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("self.")
    }
    assert {name for name in found if "." not in name} == USED
    assert {name[5:] for name in found if name.startswith("conn.")} == USED_OF_CONN
