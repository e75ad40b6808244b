"""The alert rules for Prometheus: about metrics that exist, documented, and right."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.gateways import gateway_running
from tests.cluster.loader.loaders import PATIENCE, loader_running
from tests.support import REPOSITORY
from tests.support.systems import needs_posix
from tests.support.view import view_running
from tests.support.wait import wait_until
from tests.test_docs import DOCS, plain, table_of

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

RULES = REPOSITORY / "deploy" / "prometheus-cluster-alerts.yml"
UNIT_TESTS = Path(__file__).with_name("alert_rules.test.yml")
PROMTOOL = shutil.which("promtool")


def expressions() -> dict[str, str]:
    """The expression of each alert, on one line."""
    found = {}
    for rule in RULES.read_text("utf-8").split("- alert: ")[1:]:
        name, _, rest = rule.partition("\n")
        expression = re.split(r"\n\s+(?:for|annotations):", rest.partition("expr:")[2])[0]
        found[name] = " ".join(expression.replace(">-", "").split())
    return found


def used(part: str) -> set[str]:
    """The metrics of a job that rules are about."""
    text = " ".join(expressions().values())
    return set(re.findall(rf'(telemetry_\w+)\{{job="telemetry-{part}"\}}', text))


def names(exposition: str) -> set[str]:
    return {
        sample.name
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


@needs_posix
def test_each_metric_of_a_rule_and_of_the_docs_is_there(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, urls = tmp_path / "lake", stream_servers.urls
    with gateway_running(urls) as gateway, loader_running(urls, lake) as loader:
        assert wait_until(lambda: "telemetry_stream_copies" in loader.ask("/metrics")[1], PATIENCE)
        assert wait_until(lambda: loader.metric("telemetry_lag_seconds") == 0, PATIENCE)
        assert loader.metric("telemetry_stream_copies") == 1
        assert loader.metric("telemetry_stream_replicas") == 1
        found = {
            "gateway": names(gateway.get("metrics")[1]),
            "loader": names(loader.ask("/metrics")[1]),
        }
    with view_running(lake) as view:
        connection = http.client.HTTPConnection(urlsplit(view.http_url).netloc, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        found["view"] = names(connection.getresponse().read().decode())
        connection.close()
    for part, metrics in found.items():
        assert used(part), part
        assert used(part) <= metrics, part
    everything = set().union(*found.values())
    page = (DOCS / "cluster.md").read_text("utf-8")
    documented = set(re.findall(r"`(telemetry_\w+)", page))
    assert {name for name in documented if not {name, f"{name}_count"} & everything} == set()


def test_no_rule_is_about_a_metric_without_its_job() -> None:
    for name, expression in expressions().items():
        bare = re.sub(r'\w+\{job=~?"[^"]+"\}', "", expression)
        assert not re.search(r"telemetry_|\bup\b", bare), name


def test_each_rule_is_a_row_of_what_to_watch() -> None:
    rows = table_of(DOCS / "cluster.md", "alert")
    rules = expressions()
    assert [plain(row[0]) for row in rows] == [*rules]
    for name, shown, *_ in rows:
        for metric in re.findall(r"`(\w+)`", shown):
            assert metric in rules[plain(name)], name


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", UNIT_TESTS)])
def test_rules_fire_when_they_should(arguments: tuple[str, str, Path]) -> None:
    done = subprocess.run(
        [PROMTOOL or "", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
