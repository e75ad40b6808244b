"""Answers the gateways which events are in the lake.

A client may ask to be acknowledged only then. The numbers of the sessions prove it: the stream may
have lost a message that a gateway has stored, and given its place to another one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..stream import INBOX, Answer, Inquiry, archive_subject

__all__ = ["Answering"]

logger = logging.getLogger("redvsblue_telemetry.loader")

_MOST_WAITING = 100  # inquiries; a gateway whose inquiry is dropped asks again

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Inquiry).decode

_Find = Callable[[Mapping[str, int]], Awaitable["Answer | None"]]


class Answering:
    """Answers on one connection. Used on the event loop's thread.

    Args:
        client: the connection.
        identity: of the stream. Inquiries about another one are not answered.
    """

    def __init__(self, client: Client, identity: str) -> None:
        self._client = client
        self._identity = identity

    @contextlib.asynccontextmanager
    async def answering(self, partition: int, find: _Find) -> AsyncIterator[None]:
        """Answer about a partition while the block runs.

        Args:
            partition: it.
            find: awaited with the sessions of an inquiry; returns the answer, or None if there is
                none now.
        """

        async def answer(message: Msg) -> None:
            if not message.reply.startswith(f"{INBOX}."):
                return  # the servers would take an answer elsewhere for a command of this loader
            try:
                inquiry = _decode(message.data)
                if inquiry.identity != self._identity:
                    return
                found = await find(inquiry.sessions)
                if found is not None:
                    await message.respond(_encode(found))
            except (msgspec.MsgspecError, nats.errors.Error, OSError) as error:
                logger.debug("an inquiry of a gateway can't be answered: %r", error)
            except Exception:
                logger.exception("internal error in the loader")

        subscription = await self._client.subscribe(
            archive_subject(partition), cb=answer, pending_msgs_limit=_MOST_WAITING
        )
        try:
            yield
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()
