"""Deletes the data of a person from a cluster: from the lake, and from the stream before it.

The lake alone is not enough: loaders would add what the stream still has. So all that the stream
has at the beginning is awaited in the lake. After it was deleted there, these messages go from the
stream, too, where they would otherwise stay for a while.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.js import JetStreamContext

from ...collector.models import Forgotten
from ..lake.lake import Lake
from ..stream import STREAM, StreamOptions, connect_within, state_of
from ..tasks import end
from .upkeep import first_unloaded

__all__ = ["ErasureError", "forget"]

_CONNECT_TIMEOUT = 10.0  # seconds
_REQUEST_TIMEOUT = 5.0
_LOOK_INTERVAL = 0.5
_FAILURES = (nats.errors.Error, OSError, asyncio.TimeoutError)


class ErasureError(Exception):
    """It could not be done; the message says how far it came."""


async def forget(
    url: str,
    stream: StreamOptions | None,
    session: str | None,
    context: tuple[str, str] | None,
    *,
    patience: float,
) -> Forgotten:
    """Delete a session, or all events with a field in their context, from a lake and its stream.

    The stream loses all messages that it has now. Loaders go on meanwhile; events that a gateway
    receives later are not looked for.

    Args:
        url: the lake of the loaders.
        stream: its servers, and a user with the rights of a loader; None leaves the stream alone.
        session: the id of the session.
        context: the name and the value of the field.
        patience: seconds to wait until the loaders have put all messages into the lake.

    Raises:
        ErasureError: the stream can't be used, or it takes longer.
        LakeError: the lake can't be read or written. Some may have been deleted; do it again.
    """
    lake = Lake.open(url, create=False)
    if stream is None:
        return lake.forget(session, context)
    try:
        client = await connect_within(stream, "forget", _CONNECT_TIMEOUT, role="loader")
    except ConnectionError as error:
        raise ErasureError(f"nothing was deleted: {error}") from error
    try:
        jetstream = client.jetstream(timeout=_REQUEST_TIMEOUT)
        last = await _last_of_all_loaded(jetstream, lake, patience)
        receipt = await asyncio.to_thread(lake.forget, session, context)
        try:
            await jetstream.purge_stream(STREAM, seq=last + 1)
        except _FAILURES as error:
            raise ErasureError(
                f"it is deleted from {url}, but the stream may still have it: {error!r}"
            ) from error
        return receipt
    finally:
        await client.close()


async def _last_of_all_loaded(jetstream: JetStreamContext, lake: Lake, patience: float) -> int:
    """Wait until the lake has all messages of the stream; return the number of the last one."""
    loading = asyncio.create_task(_all_loaded(jetstream, lake))
    try:
        done, _ = await asyncio.wait([loading], timeout=patience)
        if done:
            return loading.result()
        reason = f"after {patience:g} s, loaders had not put all of the stream into {lake.url}"
    except (nats.errors.Error, ValueError) as error:
        reason = f"the stream can't be read: {error!r}"
    finally:
        await end(loading)
    raise ErasureError(f"nothing was deleted: {reason}")


async def _all_loaded(jetstream: JetStreamContext, lake: Lake) -> int:
    """Wait until the lake has all messages of the stream; return the number of the last one."""
    info = await jetstream.stream_info(STREAM)
    state, last = state_of(info), info.state.last_seq
    while True:
        partitions = range(state.partitions)
        offsets = await asyncio.to_thread(lake.offsets, state.identity, partitions)
        first = await first_unloaded(jetstream, offsets)
        if first is None or first > last:
            return last
        await asyncio.sleep(_LOOK_INTERVAL)
