"""Servers behind a reverse proxy: the offers, the answers and all messages pass through."""

from __future__ import annotations

from pathlib import Path

import pytest

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry._compression import supported
from redvsblue_telemetry.testing import RecordingServer
from tests.support.proxies import CONFIGS, PATIENCE, reverse_proxy


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("encoding", [*supported(), None])
def test_messages_pass_through_a_reverse_proxy(
    name: str, encoding: str | None, tmp_path: Path
) -> None:
    encodings = [encoding] if encoding else []
    with (
        RecordingServer(encodings=encodings) as server,
        reverse_proxy(name, CONFIGS[name], tmp_path, server.port) as port,
    ):
        telemetry = start_telemetry(
            enabled=True,
            url=f"ws://127.0.0.1:{port}/telemetry",
            batch_size=1000,
            backoff_base=0.05,
            backoff_max=0.2,
        )
        for number in range(1500):
            telemetry.emit("bullet_fired", ship=f"red-{number % 8}", x=number * 7.3 % 1280)
        assert telemetry.flush(PATIENCE)
        telemetry.emit("one")
        assert telemetry.flush(PATIENCE)
        offered = server.requests[-1].headers["Telemetry-Encoding"]
        assert offered == ", ".join(supported())
        assert [event["seq"] for event in server.events] == list(range(1, 1502))
        assert set(server.message_encodings) == {encoding, None}
        assert max(map(len, server.messages)) > 65_536
        assert telemetry.stop(5)
        assert server.reports[-1]["state"] == "ended"
