"""``forget``: deletes what it was asked to, after a question, and prints a receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector.clients import acks_up_to, client_of, event
from tests.support.collector import REFUSING_PORT, RunningCollector, collector_running
from tests.support.command import invoke_command


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    with collector_running(db=tmp_path / "telemetry.sqlite3", token="t0k") as running:
        with client_of(running, token="t0k") as client:
            person = {"player": "p-17", "team": "a=b"}
            client.send(json.dumps([event(1, context=person), event(2), event(1, "t")]))
            assert acks_up_to(client, 1) == [1]
        yield running


def test_data_of_a_person_is_deleted(collector: RunningCollector) -> None:
    asked = ("forget", "--url", collector.http_url, "--token", "t0k", "--yes")
    done = invoke_command(*asked, "--context", "team=a=b")
    assert done.exit_code == 0
    receipt = json.loads(done.stdout)
    assert receipt.pop("at") > 1_700_000_000_000
    assert receipt == {"events": 1, "sessions": 0, "context": {"team": "a=b"}}

    again = invoke_command(*asked, "--context", "team=a=b")
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == "nothing found: all events of team=a=b\n"


def test_session_is_deleted_only_after_a_yes(collector: RunningCollector) -> None:
    asked = ("forget", "--url", collector.http_url, "--token", "t0k", "--session", "t")
    refused = invoke_command(*asked, answer="n\n")
    assert refused.exit_code == 1
    assert "Delete session t for good?" in refused.stderr
    assert json.loads(invoke_command(*asked, answer="y\n").stdout)["sessions"] == 1
    assert invoke_command(*asked, "--yes").exit_code == 1


@pytest.mark.parametrize(
    "wanted", [[], ["--session", "t", "--context", "a=1"], ["--context", "a=1", "--context", "b=2"]]
)
def test_unclear_command_is_refused(wanted: list[str]) -> None:
    done = invoke_command("forget", "--yes", *wanted)
    assert done.exit_code == 2
    assert "give either --session, or --context once" in done.stderr


def test_failures_are_explained(tmp_path: Path, collector: RunningCollector) -> None:
    wanted = ("--yes", "--session", "t")
    unreachable = invoke_command("forget", "--url", f"http://127.0.0.1:{REFUSING_PORT}", *wanted)
    assert (unreachable.exit_code, "does not respond" in unreachable.stderr) == (2, True)
    wrong = invoke_command("forget", "--url", collector.http_url, "--token", "x", *wanted)
    assert (wrong.exit_code, "token" in wrong.stderr) == (2, True)
    with collector_running(db=tmp_path / "open.sqlite3") as opened:
        refused = invoke_command("forget", "--url", opened.http_url, *wanted)
        assert (refused.exit_code, "--allow-reset" in refused.stderr) == (2, True)
