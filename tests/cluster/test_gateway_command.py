"""``collect --stream``: its options, and the packages that it needs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.gateways import gateway_running, stream_messages
from tests.collector.clients import array, client_of, next_ack
from tests.support.command import environment, invoke_command

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

URL = "nats://127.0.0.1:1"


def said(output: str) -> str:
    return " ".join(output.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--db", "t.sqlite3"),
        ("--db", "telemetry.sqlite3"),  # the default, but given
        ("--keep", "90d"),
        ("--max-bytes", "1GB"),
        ("--alert", "https://hooks.example/secret"),
        ("--alert-when", "silence=off"),
        ("--alert-test",),
        ("--schema", "schema.json"),
        ("--allow-reset",),
    ],
)
def test_options_of_a_database_and_a_page_are_refused(arguments: tuple[str, ...]) -> None:
    result = invoke_command("collect", "--stream", URL, *arguments)
    assert result.exit_code == 2
    assert f"{arguments[0]} has no meaning with --stream" in said(result.output)


def test_a_variable_of_the_environment_is_refused_as_well() -> None:
    result = invoke_command(
        "collect", "--stream", URL, REDVSBLUE_COLLECTOR_ALERT="https://hooks.example/sesame"
    )
    assert result.exit_code == 2
    assert "--alert, which a variable of the environment sets" in said(result.output)
    assert "sesame" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--stream-credentials", "gateway.creds"),
        ("--stream-ca", "ca.pem"),
        ("--partitions", "16"),
        ("--stream-max-bytes", "1GB"),
    ],
)
def test_options_of_a_stream_need_one(arguments: tuple[str, ...]) -> None:
    result = invoke_command("collect", *arguments)
    assert result.exit_code == 2
    assert f"{arguments[0]} needs --stream" in said(result.output)


@pytest.mark.parametrize(
    ("stream", "options", "reason"),
    [
        (",", (), "no server is named"),
        ("10.0.0.1:4222", (), "is not the URL of a server of the stream"),
        ("http://10.0.0.1", (), "is not the URL of a server of the stream"),
        (URL, ("--stream-credentials", "gone.creds"), "cannot read gone.creds"),
        (URL, ("--stream-ca", "gone.pem"), "cannot read certificates from gone.pem"),
        (URL, ("--partitions", "0"), "0 is not in the range"),
        (URL, ("--stream-max-bytes", "much"), "is not a size"),
    ],
)
def test_a_stream_that_can_not_be_is_refused(
    stream: str, options: tuple[str, ...], reason: str
) -> None:
    result = invoke_command("collect", "--stream", stream, *options)
    assert result.exit_code == 2
    assert reason in said(result.output)


def test_it_says_where_the_stream_is_without_its_password(stream_servers: StreamServers) -> None:
    (url,) = stream_servers.urls
    with gateway_running([url.replace("nats://", "nats://user:secret@")]) as gateway:
        place = url.removeprefix("nats://")
        assert f"stored in the stream at {place}\n" in gateway.running.output
        assert gateway.running.end(signal.SIGINT) == 0
        assert "stopped; everything received is stored" in gateway.running.output
    assert "secret" not in gateway.running.said


def test_the_stream_has_as_many_partitions_as_it_was_made_with(
    stream_servers: StreamServers,
) -> None:
    for partitions in ("3", "20"):  # the first one makes it
        with (
            gateway_running(stream_servers.urls, "--partitions", partitions) as gateway,
            client_of(gateway) as client,
        ):
            for number in range(30):
                client.send(array(1, session=f"{partitions}-{number}"))
            while next_ack(client) < 30:
                pass
    found = {message.partition for message in stream_messages(stream_servers)}
    assert found == {0, 1, 2}


def _run_without_nats(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.modules['nats'] = None\n"
        "from redvsblue_telemetry.__main__ import main\n"
        "sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_a_missing_package_is_named_with_its_extra() -> None:
    done = _run_without_nats("collect", "--stream", URL)
    assert done.returncode == 2
    expected = 'Error: --stream needs nats: pip install "redvsblue-telemetry[cluster]"\n'
    assert done.stderr == expected


def test_a_collector_needs_none_of_the_packages_of_a_stream(tmp_path: Path) -> None:
    done = _run_without_nats("collect", "--db", str(tmp_path / "t"), "--host", "203.0.113.1")
    assert done.returncode == 2
    assert "other machines can reach 203.0.113.1" in done.stderr
