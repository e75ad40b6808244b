"""A lake in an object store is read like one in a directory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support.command import invoke_command
from tests.support.lake import STREAM, append, event, message
from tests.support.objects import object_store, settings


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a lake that is not there yet, on a new server."""
    with object_store("bucket") as port:
        for name, value in settings(port).items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/lake"


def test_commands_read_a_lake_in_an_object_store(bucket: str) -> None:
    lake = Lake.open(bucket)
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, message(event("s", 1, "hit"), event("s", 2, "shot")))
    append(lake, claim, 0, 2, message(event("s", 3, "hit")))
    done = invoke_command("export", "--lake", bucket, "--type", "hit")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["seq"] for line in done.output.splitlines()] == [1, 3]
    sql = "SELECT session, events, missing FROM sessions"
    done = invoke_command("query", "--lake", bucket, "--format", "csv", sql)
    assert done.stdout.splitlines() == ["session,events,missing", "s,3,0"]
    done = invoke_command("prove", "--lake", bucket)
    assert "1 session: 0 proved, 0 failed, 1 open" in done.output
    done = invoke_command("query", "--lake", bucket, "SELECT * FROM 's3://bucket/lake/x.parquet'")
    assert "can't be read; there are events" in done.stderr
    done = invoke_command("query", "--lake", "s3://bucket/nothing", "SELECT 1")
    assert "is not a lake" in done.stderr
