"""Looks after the servers of the stream: how each stands, and removing one that is gone for good.

By the requests that nats-server answers to a user of its system account. All servers answer the
first one, so it shows those that run; the leaders know of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
from nats.aio.client import Client

from .._shared import monotonic
from .stream import STREAM, StreamOptions, connect_within

__all__ = ["AdministrationError", "Role", "Server", "look", "remove"]

_LOOK = "$SYS.REQ.SERVER.PING.JSZ"
_REMOVE = "$JS.API.SERVER.REMOVE"
_CONNECT_TIMEOUT = 10.0  # seconds
_ANSWER_TIMEOUT = 1.0
_LOOKS = 10  # a server that is a few messages behind at one moment is not at another
_LOOK_INTERVAL = 0.3
_PATIENCE = 20.0  # seconds for an election


class AdministrationError(Exception):
    """It can't be done; the message says why."""


class Role(msgspec.Struct, frozen=True):
    """What a server does for the stream."""

    leads: bool
    has_all: bool


class Server(msgspec.Struct, frozen=True):
    """A server of the stream."""

    name: str
    version: str | None = None
    """None if it does not run."""
    role: Role | None = None
    """None if it has no copy of the stream."""
    used: int = 0
    """Bytes on its disk."""
    limit: int = 0
    """The most that it may take."""

    @property
    def is_well(self) -> bool:
        """Whether it runs, and has all that it should have."""
        return self.version is not None and (self.role is None or self.role.has_all)


class _Replica(msgspec.Struct):
    name: str
    current: bool = False
    offline: bool = False


class _Group(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []


class _Stream(msgspec.Struct):
    name: str
    cluster: _Group = msgspec.field(default_factory=_Group)


class _Account(msgspec.Struct):
    stream_detail: list[_Stream] = []


class _Limits(msgspec.Struct):
    max_storage: int = 0


class _Standing(msgspec.Struct):
    storage: int = 0
    config: _Limits = msgspec.field(default_factory=_Limits)
    meta_cluster: _Group = msgspec.field(default_factory=_Group)
    account_details: list[_Account] = []


class _Identity(msgspec.Struct):
    name: str
    ver: str


class _Answer(msgspec.Struct):
    server: _Identity
    data: _Standing = msgspec.field(default_factory=_Standing)


class _Error(msgspec.Struct):
    description: str


class _Removed(msgspec.Struct):
    error: _Error | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_removed = msgspec.json.Decoder(_Removed).decode


async def look(options: StreamOptions) -> list[Server]:
    """Return the servers, by name.

    Args:
        options: a user of the system account, and the servers.

    Raises:
        AdministrationError: none answers, or they have no leader.
    """
    async with _connected(options) as client:
        servers = await _look(client)
        for _ in range(_LOOKS):
            if all(server.is_well for server in servers):
                break
            await asyncio.sleep(_LOOK_INTERVAL)
            servers = await _look(client)
        return servers


async def remove(options: StreamOptions, name: str) -> None:
    """Have the others forget a server that is gone for good; one without a copy takes its place.

    Args:
        options: a user of the system account, and the servers.
        name: of the server.

    Raises:
        AdministrationError: it still runs, or no other server could take its place.
    """
    async with _connected(options) as client:
        servers = {server.name: server for server in await _look(client)}
        if name not in servers:
            raise AdministrationError(f"there is no server {name}, only {', '.join(servers)}")
        if servers[name].version is not None:
            raise AdministrationError(f"{name} is running; stop it first")
        if servers[name].role is not None and not any(
            server.role is None and server.version is not None for server in servers.values()
        ):
            raise AdministrationError(
                f"no other server could take the place of {name}: start one with a new name first"
            )
        await _remove(client, name)


@contextlib.asynccontextmanager
async def _connected(options: StreamOptions) -> AsyncIterator[Client]:
    try:
        client = await connect_within(options, "administration", _CONNECT_TIMEOUT)
    except ConnectionError as error:
        raise AdministrationError(str(error)) from error
    try:
        yield client
    finally:
        await client.close()


async def _look(client: Client) -> list[Server]:
    answers = await _answers(client)
    meta = _led([(answer, answer.data.meta_cluster) for answer in answers])
    if meta is None:
        raise AdministrationError(
            "the servers have no leader: too few of them run, or the user is not one of the system "
            "account"
        )
    groups = [
        (answer, stream.cluster)
        for answer in answers
        for account in answer.data.account_details
        for stream in account.stream_detail
        if stream.name == STREAM
    ]
    stream = _led(groups)
    roles: dict[str, Role] = {}
    if stream is not None:
        roles = {
            each.name: Role(False, each.current and not each.offline) for each in stream.replicas
        }
        roles[stream.leader] = Role(True, True)
    names = {meta.leader, *(each.name for each in meta.replicas), *roles}
    servers = {name: Server(name, role=roles.get(name)) for name in names}
    for answer in answers:
        name, data = answer.server.name, answer.data
        servers[name] = Server(
            name, answer.server.ver, roles.get(name), data.storage, data.config.max_storage
        )
    return [servers[name] for name in sorted(servers)]


async def _answers(client: Client) -> list[_Answer]:
    """Return what the servers that run say of themselves."""
    reply = client.new_inbox()
    subscription = await client.subscribe(reply)
    request = msgspec.json.encode({"accounts": True, "streams": True})
    await client.publish(_LOOK, request, reply=reply)
    answers = []
    try:
        while True:
            answers.append(_decode_answer((await subscription.next_msg(_ANSWER_TIMEOUT)).data))
    except nats.errors.TimeoutError:
        return answers
    finally:
        await subscription.unsubscribe()


def _led(groups: list[tuple[_Answer, _Group]]) -> _Group | None:
    """Return a group as its leader sees it; None if none of them leads."""
    return next((group for answer, group in groups if group.leader == answer.server.name), None)


async def _remove(client: Client, name: str) -> None:
    request = msgspec.json.encode({"peer": name})
    deadline = monotonic() + _PATIENCE
    while True:
        try:
            answer = await client.request(_REMOVE, request, timeout=2)
        except nats.errors.Error as error:
            if monotonic() > deadline:
                raise AdministrationError(f"the servers don't answer: {error!r}") from error
            continue  # while there is no leader
        removed = _decode_removed(answer.data)
        if removed.error is not None:
            raise AdministrationError(f"{name} can't be removed: {removed.error.description}")
        return
