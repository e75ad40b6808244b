"""Silences the SDK's log for commands that use its worker and report in their own words."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["sdk_log_disabled"]

_SDK_LOG = logging.getLogger("redvsblue_telemetry")


@contextlib.contextmanager
def sdk_log_disabled() -> Iterator[None]:
    """Log nothing within the block."""
    level = _SDK_LOG.level
    _SDK_LOG.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _SDK_LOG.setLevel(level)
