"""Compression of the worker's messages: the encodings to offer, and the fallback to text."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .. import _compression
from .log import log_safely

__all__ = ["Packing"]

_FAILED = "can't compress messages with %s; they are sent as text: %s: %s"


class Packing:
    """Compresses messages, for one connection after another. Used by the worker thread only.

    An encoding that fails is not used again, because a package that is broken stays broken, and
    without it a message is delivered all the same.

    Args:
        is_allowed: whether to compress at all.
    """

    def __init__(self, *, is_allowed: bool) -> None:
        self._is_allowed = is_allowed
        self.offers: tuple[str, ...] = ()
        """The encodings to offer in the next handshake, the best one first."""

    def prepare(self) -> None:
        """Look for encodings on the caller's thread, before the worker runs.

        It imports zstd. On the worker, that would keep the interpreter for milliseconds while
        frames are drawn, and a module that one thread is importing while another forks stays
        half-imported in the child.
        """
        if self._is_allowed:
            self.offers = _compression.supported()

    def begin(self, encoding: str | None) -> Callable[[bytes], bytes | None]:
        """Return a function that compresses the messages of a new connection.

        It returns None for a message to be sent as text, and never raises.

        Args:
            encoding: the one that the server picked; None if it picked none.
        """
        pack: Callable[[bytes], bytes | None] | None = None

        def packed(text: bytes) -> bytes | None:
            nonlocal pack
            if encoding is None or encoding not in self.offers:
                return None
            try:
                if pack is None:
                    pack = _compression.pack(encoding)
                return pack(text)
            except Exception as error:
                self._give_up(encoding, error)
                return None

        return packed

    def _give_up(self, encoding: str, error: Exception) -> None:
        self.offers = tuple(other for other in self.offers if other != encoding)
        log_safely(logging.WARNING, _FAILED, encoding, type(error).__name__, error)
