"""The model of a large cluster: it computes what it says, from what was measured."""

from __future__ import annotations

import json
from typing import Any

import attrs
import numpy as np
import pytest

from tests.support.systems import IS_WINDOWS

if IS_WINDOWS:
    pytest.skip("Linux only: the servers of a cluster", allow_module_level=True)

from benchmarks.cluster_costs import split_costs
from benchmarks.cluster_model import (
    Assumptions,
    Costs,
    RealDelays,
    check_storm,
    demand,
    limits,
    needs,
    storms,
)
from tests.support import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
ASSUMED = Assumptions()


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs(result("cluster-costs"), result("cluster"))


def test_a_cost_is_split_into_that_of_a_message_and_that_of_an_event() -> None:
    measured = [{"events each": size, "cost": 300 + 2 * size} for size in (2, 25, 250)]
    split = split_costs(measured, lambda each: float(each["cost"]))
    assert split == pytest.approx({"message": 300, "event": 2})


def test_no_part_of_a_cost_is_negative() -> None:
    measured = [{"events each": size, "cost": 4 * size - 1} for size in (2, 25, 250)]
    assert split_costs(measured, lambda each: float(each["cost"]))["message"] == 0
    falling = [{"events each": size, "cost": 300 - size} for size in (2, 25, 250)]
    assert split_costs(falling, lambda each: float(each["cost"]))["event"] == 0


@pytest.mark.parametrize(("rate", "messages"), [(0.1, 0.1), (6.0, 1.0), (100.0, 2.0)])
def test_a_client_sends_what_it_drains(rate: float, messages: float) -> None:
    asked = demand(ASSUMED, 1000, rate)
    assert (asked.events, asked.messages) == pytest.approx((1000 * rate, 1000 * messages))


def test_one_stream_is_enough_up_to_its_limit(costs: Costs) -> None:
    found = limits(costs, ASSUMED, costs.ship_rate)
    assert list(found.values()) == sorted(found.values())
    most = int(found["messages a second of the one stream"])
    for players, streams in ((most, 1), (most + 1, 2)):
        needed = needs(costs, ASSUMED, demand(ASSUMED, players, costs.ship_rate))
        assert needed["streams, each with its own gateways, loaders and lake"] == streams


def test_fewer_messages_need_fewer_streams_and_cores(costs: Costs) -> None:
    slow = attrs.evolve(ASSUMED, drain_interval=10.0, batch_size=250)
    often, seldom = (
        needs(costs, each, demand(each, 100_000, costs.ship_rate)) for each in (ASSUMED, slow)
    )
    assert often["events a second"] == seldom["events a second"]
    for name in ("messages a second", "gateways: cores", "loaders: cores", "machines: stream"):
        assert seldom[name] < often[name]


def test_the_delays_are_those_of_the_sdk() -> None:
    delays, rng = RealDelays(), np.random.default_rng(1)
    for attempt, bound in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (9, 30.0)):
        drawn = delays(rng, np.full(500, attempt))
        assert 0.9 * bound < drawn.max() <= bound
        assert 0 <= drawn.min() < 0.1 * bound


def test_the_storm_is_that_of_the_page_about_it() -> None:
    report = {
        "parameters": {"clients": 2000, "capacity": 400, "down": 20.0, "backlog": 50},
        "scenarios": result("reconnect-storm")["scenarios"],
    }
    half, _, every = check_storm(report)["with the real class"]
    assert 22.0 < half < 30.0
    assert half < every < 90.0


def test_a_gateway_that_dies_costs_less_than_a_balancer(costs: Costs) -> None:
    needed = needs(costs, ASSUMED, demand(ASSUMED, 10_000, costs.ship_rate))
    gateway, balancer = storms(costs, ASSUMED, needed)
    assert gateway["all are back after, s"] < ASSUMED.down < balancer["all are back after, s"]
    assert balancer["attempts"] > balancer["clients"]
