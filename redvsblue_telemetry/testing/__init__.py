"""For the tests of your game: record its events without a network, or receive them for real.

::

    from redvsblue_telemetry.testing import RecordingServer, record_events

    def test_a_hit_is_recorded():
        with record_events() as events:
            play_one_round()
        assert events.types() == ["round_start", "ship_hit", "round_end"]

:class:`RecordingServer` needs the extra ``redvsblue-telemetry[testing]``.
"""

from __future__ import annotations

from ._recording import Events, RecordedEvents, record_events
from ._server import RecordingServer

__all__ = ["Events", "RecordedEvents", "RecordingServer", "record_events"]
