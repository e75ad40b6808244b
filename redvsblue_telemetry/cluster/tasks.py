"""Ends tasks of asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end"]

_PATIENCE = 0.05  # seconds


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: before Python 3.12, ``asyncio.wait_for`` swallows a cancellation that comes
    at the same moment as the result that it waits for (python/cpython issue 86296).
    """
    left = {*tasks}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_PATIENCE)
