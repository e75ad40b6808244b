"""The states of a connection and their transitions."""

from __future__ import annotations

import enum

from .._shared import keep_on_reload

__all__ = ["TRANSITIONS", "ConnectionState"]


@keep_on_reload
class ConnectionState(enum.Enum):
    """The state of the connection to the server."""

    IDLE = "idle"
    """Not started yet, or switched off by the player's toggle. No attempt is made."""
    CONNECTING = "connecting"
    """An attempt is under way."""
    CONNECTED = "connected"
    """The handshake is done, and events are sent."""
    BACKING_OFF = "backing_off"
    """The last attempt or connection failed; waiting before the next attempt."""
    OFFLINE = "offline"
    """There is no network: no route, no name, or the host called ``set_online(False)``."""
    STOPPED = "stopped"
    """Stopped for good."""

    def __str__(self) -> str:
        return self.value


IDLE, CONNECTING, CONNECTED, BACKING_OFF, OFFLINE, STOPPED = ConnectionState

TRANSITIONS: dict[ConnectionState, frozenset[ConnectionState]] = {
    IDLE: frozenset({CONNECTING, BACKING_OFF, OFFLINE, STOPPED}),
    CONNECTING: frozenset({CONNECTED, BACKING_OFF, OFFLINE, IDLE, STOPPED}),
    CONNECTED: frozenset({CONNECTING, BACKING_OFF, OFFLINE, IDLE, STOPPED}),
    BACKING_OFF: frozenset({CONNECTING, OFFLINE, IDLE, STOPPED}),
    OFFLINE: frozenset({CONNECTING, BACKING_OFF, IDLE, STOPPED}),
    STOPPED: frozenset(),
}
