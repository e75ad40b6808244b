from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cluster.local import cluster as module
from redvsblue_telemetry.cluster.local.cluster import ClusterError, LocalCluster
from redvsblue_telemetry.cluster.local.ledgers import Stored, stored_sessions
from redvsblue_telemetry.cluster.local.servers import ServersError, find_program
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

PATIENCE = 40.0  # seconds for what takes a few, unless the machine is loaded


@pytest.fixture(autouse=True)
def _needs_servers() -> None:
    try:
        find_program()
    except ServersError as error:
        pytest.skip(f"needs nats-server: {error}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path, servers=1, gateways=1, loaders=1) as cluster:
        yield cluster


@pytest.mark.slow
def test_events_go_through_all_parts_into_the_lake(small: LocalCluster) -> None:
    settings = TelemetrySettings(enabled=True, url=small.url, drain_interval=0.05)
    with Telemetry(settings) as telemetry:
        for number in range(100):
            telemetry.emit("hit", damage=number)
        assert telemetry.flush(PATIENCE)
    expected = {telemetry.session_id: Stored(100, 100, 1, 100)}
    assert wait_until(lambda: stored_sessions(small.lake) == expected, PATIENCE)
    small.stop_programs()
    assert not any(program.child.is_running for program in small.programs)
    assert stored_sessions(small.lake) == expected


@pytest.mark.slow
def test_a_program_answers_on_the_same_port_after_a_kill(small: LocalCluster) -> None:
    (gateway,) = small.gateways
    port = gateway.port
    assert gateway.is_healthy
    gateway.child.kill()
    assert gateway.get("/healthz") == (0, "")
    gateway.child.start()
    gateway.wait_healthy()
    assert gateway.port == port


@pytest.mark.slow
def test_a_loader_can_be_added(small: LocalCluster) -> None:
    loader = small.add_loader()
    loader.wait_healthy()
    assert "telemetry_loaders" in loader.get("/metrics")[1]
    assert len({each.port for each in small.programs}) == 3


def test_a_part_that_ends_at_its_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    cluster = LocalCluster(
        tmp_path, servers=1, gateways=0, loaders=1, loader_options=["--no-such-option"]
    )
    with pytest.raises(ClusterError, match=r"(?s)loader 1 ended:\n.*no-such-option"):
        cluster.__enter__()
    assert not any(child.is_running for child in cluster.servers.children)


def test_a_part_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, servers=1, gateways=1, loaders=0) as cluster:
        gateway = cluster.gateways[0]
        gateway.child.kill()
        gateway.child.start()
        with pytest.raises(ClusterError, match="gateway 1 isn't ready after 0 s; it says nothing"):
            gateway.wait_healthy(0)


@needs_posix
def test_a_part_that_does_not_end_is_killed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LAST_PART_TIMEOUT", 0.2)
    cluster = LocalCluster(tmp_path, servers=1, gateways=1, loaders=0).start()
    gateway = cluster.gateways[0]
    gateway.child.suspend()
    with pytest.raises(ClusterError, match=r"gateway 1 did not end in 0\.2 s"):
        cluster.close()
    assert not gateway.child.is_running
    assert not any(child.is_running for child in cluster.servers.children)
