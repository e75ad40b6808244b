"""Posts alerts to URLs, away from everything else: a webhook never delays an event.

Each URL has its own queue and task, so one that hangs doesn't delay the others. An attempt has a
deadline for all of its steps, which a client with a timeout for each read would not have. The
address of a webhook is a secret, since anyone who knows it can post: so only its host is logged,
and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import h11
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from .._shared import VERSION, is_loopback

__all__ = ["Webhook", "WebhookError", "url_fault"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_ATTEMPTS = 6
_FIRST_DELAY, _LONGEST_DELAY = 2.0, 60.0  # seconds between attempts, at most
_TIMEOUT = 10.0  # seconds for one attempt
_MAX_WAITING = 32  # alerts
_TEMPORARY = (408, 425, 429)  # besides all from 500 on: another attempt may succeed


class WebhookError(Exception):
    """An alert was not taken; the message says why, without the secret parts of the address."""

    def __init__(self, message: str, *, is_temporary: bool) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


def url_fault(url: str) -> str | None:
    """Return why a URL can't be posted to, without quoting it; None if it can be."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "it is not a valid URL"
    if parts.scheme not in ("http", "https") or not host:
        return "it must start with https:// or http:// and name a host"
    if port == 0:
        return "its port is 0"
    if parts.username is not None or parts.password is not None:
        return "it has a user name or a password before its host, which is not supported"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "it has characters that a URL must escape"
    return None


class Webhook:
    """One URL that alerts are posted to. Used on the event loop's thread.

    Args:
        url: where :func:`url_fault` finds nothing.
        on_outcome: called with whether an alert was taken, once that is known.
        timeout: seconds for one attempt.
        delay: the most seconds before the second attempt; it doubles with each.
    """

    def __init__(
        self,
        url: str,
        on_outcome: Callable[[bool], None] = lambda _: None,
        *,
        timeout: float = _TIMEOUT,
        delay: float = _FIRST_DELAY,
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        """For logs: the only part of the URL that is not a secret."""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._host_header = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._on_outcome = on_outcome
        self._timeout = timeout
        self._delay = delay
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)
        self._sender: asyncio.Task[None] | None = None
        if self._tls is None and not is_loopback(self.host):
            logger.warning(
                "alerts to %s are not encrypted; use https:// if it is offered", self.host
            )

    def put(self, message: bytes) -> None:
        """Post a message soon; drop it if too many wait already."""
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._note(WebhookError("too many alerts wait for it", is_temporary=False))

    async def close(self, timeout: float) -> None:
        """Post the waiting messages if that takes no longer than the timeout, in seconds."""
        if self._sender is None:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._waiting.join(), timeout)
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            message = await self._waiting.get()
            try:
                await self._send(message)
                self._on_outcome(True)
            except WebhookError as error:
                self._note(error)
            except Exception as error:  # the next alert must not be lost for it
                # Not its message or traceback, which may hold the address.
                self._note(
                    WebhookError(f"internal error: {type(error).__name__}", is_temporary=False)
                )
            finally:
                self._waiting.task_done()

    def _note(self, error: WebhookError) -> None:
        logger.warning("an alert was not delivered to %s: %s", self.host, error)
        self._on_outcome(False)

    async def _send(self, message: bytes) -> None:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=self._delay, max=_LONGEST_DELAY),
            retry=retry_if_exception(lambda e: isinstance(e, WebhookError) and e.is_temporary),
            reraise=True,
        ):
            with attempt:
                await self.post(message)

    async def post(self, message: bytes) -> None:
        """Make one attempt to post a message.

        Raises:
            WebhookError: it was not taken.
        """
        try:
            status = await asyncio.wait_for(self._exchange(message), self._timeout)
        except asyncio.TimeoutError:
            reason = f"no answer within {self._timeout:g} s"
            raise WebhookError(reason, is_temporary=True) from None
        except ssl.SSLCertVerificationError as error:
            reason = f"its certificate was rejected: {error.verify_message}"
            raise WebhookError(reason, is_temporary=True) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise WebhookError(reason, is_temporary=True) from None
        except h11.ProtocolError:
            raise WebhookError("its answer is not valid HTTP", is_temporary=True) from None
        if 300 <= status < 400:
            reason = f"it redirects (status {status}), which is not followed"
            raise WebhookError(reason, is_temporary=False)
        if not 200 <= status < 300:
            is_temporary = status >= 500 or status in _TEMPORARY
            raise WebhookError(f"it answered with status {status}", is_temporary=is_temporary)

    async def _exchange(self, message: bytes) -> int:
        """Post a message on a new connection; return the status of the answer."""
        reader, writer = await asyncio.open_connection(self.host, self._port, ssl=self._tls)
        try:
            http = h11.Connection(h11.CLIENT)
            head = h11.Request(
                method="POST",
                target=self._target,
                headers=[
                    ("Host", self._host_header),
                    ("User-Agent", f"redvsblue-telemetry/{VERSION}"),
                    ("Content-Type", "application/json"),
                    ("Content-Length", str(len(message))),
                    ("Connection", "close"),
                ],
            )
            for part in (head, h11.Data(message), h11.EndOfMessage()):
                writer.write(http.send(part) or b"")
            # Not drained: a server may answer, and close, before it has read all of it.
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Response):
                    return event.status_code
                elif not isinstance(event, h11.InformationalResponse):
                    raise h11.RemoteProtocolError("no response")
        finally:
            writer.transport.abort()
