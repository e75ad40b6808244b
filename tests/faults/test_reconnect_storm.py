"""The simulation of a reconnect storm: it is sound, and its page shows its results."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from benchmarks.reconnect_storm import (
    POLICIES,
    RESETS_ON_OPEN,
    RESULTS,
    SCENARIOS,
    Gate,
    Herd,
    Outcome,
    Policy,
    Scenario,
    Storm,
    additive_jitter,
    bounds,
    full_jitter,
    main,
    measures,
    most_within,
    seconds_until,
    simulate,
    table,
)
from redvsblue_telemetry import TelemetrySettings
from redvsblue_telemetry._delivery.backoff import Backoff
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "reconnect-storm.md"
STORM = Storm(clients=2000, capacity=400, backlog=50, long_down=40.0, give_up_after=400.0, seed=7)
REFUSES, DROPS_SILENTLY, SLAMS, STAYS_DOWN = SCENARIOS
SDK, ORIGINAL, NO_JITTER, EVERY_SECOND = POLICIES
EACH = [(scenario, policy) for scenario in SCENARIOS for policy in scenario.policies]


def figure(outcome: Outcome, measure: str) -> float:
    value = measures(outcome)[measure]
    assert value is not None
    return value


# The policies, compared with the code that they stand for.


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_policy_of_the_sdk_has_the_delays_of_its_backoff(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SameShare(np.random.Generator):
        def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
            return low + share * (high - low)

    # Both draw from a range: with the same place in it, they must agree on the range.
    monkeypatch.setattr(
        random.SystemRandom, "uniform", lambda self, low, high: low + share * (high - low)
    )
    settings = TelemetrySettings()
    backoff = Backoff(settings.backoff_base, settings.backoff_max)
    of_the_sdk = [backoff.next_delay() for _ in range(50)]
    simulated = full_jitter(SameShare(np.random.PCG64(1)), np.arange(1, 51))
    assert simulated.tolist() == of_the_sdk


def test_delays_of_the_sdk_and_of_its_policy_are_spread_alike() -> None:
    backoffs = [Backoff(1.0, 30.0) for _ in range(2000)]
    rng = np.random.default_rng(1)
    for attempt in range(1, 8):
        of_the_sdk = np.array([backoff.next_delay() for backoff in backoffs])
        simulated = full_jitter(rng, np.full(2000, attempt))
        bound = bounds(1.0, 30.0, np.array([attempt]))[0]
        shares = np.linspace(0.1, 0.9, 9)
        apart = np.quantile(of_the_sdk, shares) - np.quantile(simulated, shares)
        assert np.abs(apart).max() < 0.08 * bound


def test_policy_of_the_original_doubles_up_to_30_s_and_adds_up_to_1_s() -> None:
    rng = np.random.default_rng(1)
    for attempt, bound in enumerate([1, 2, 4, 8, 16, 30, 30], start=1):
        delays = additive_jitter(rng, np.full(2000, attempt))
        assert bound <= delays.min() < bound + 0.01
        assert bound + 0.99 < delays.max() <= bound + 1


def test_bounds_of_very_many_attempts_do_not_overflow() -> None:
    assert bounds(1.0, 30.0, np.array([10_000])).tolist() == [30.0]


# The simulation.


@pytest.mark.parametrize(("scenario", "policy"), EACH, ids=lambda value: value.name)
def test_every_client_ends_connected_and_capacity_is_never_exceeded(
    scenario: Scenario, policy: Policy
) -> None:
    outcome = simulate(STORM, scenario, policy)

    done = outcome.connected_at
    assert done.size == STORM.clients
    assert outcome.down == (40 if scenario is STAYS_DOWN else 20)
    works_since = outcome.down + (STORM.slam if scenario is SLAMS else 0)
    assert done[0] > works_since
    # The handshake that comes a second's worth later is done more than that second later, or just.
    assert (done[STORM.capacity :] - done[: -STORM.capacity]).min() > 1 - 1e-6
    assert figure(outcome, "seconds_until_all") >= works_since + STORM.clients / STORM.capacity

    # Each attempt has one end.
    while_down = outcome.arrivals[: round(outcome.down * 100)].sum()
    ends = while_down + outcome.slammed + outcome.rejected + done.size
    assert ends == outcome.arrivals.sum()
    assert (outcome.slammed > 0) == (scenario is SLAMS)


def test_same_seed_gives_the_same_storm_and_another_seed_another() -> None:
    first, again = (simulate(STORM, SLAMS, SDK) for _ in range(2))
    assert first.arrivals.tolist() == again.arrivals.tolist()
    assert first.connected_at.tolist() == again.connected_at.tolist()
    other = simulate(attrs.evolve(STORM, seed=8), SLAMS, SDK)
    assert first.arrivals.tolist() != other.arrivals.tolist()


def test_every_policy_learns_of_the_cut_at_the_same_time() -> None:
    arrivals = simulate(STORM, REFUSES, NO_JITTER).arrivals
    assert arrivals[:102].sum() == 0  # 1 s, and twice the least latency
    assert arrivals[102:121].sum() == STORM.clients


def test_a_silently_dropped_client_comes_back_after_its_timeout() -> None:
    storm = attrs.evolve(STORM, down=0.0, backlog=0, connect_timeout=25.0)
    refused, dropped = (simulate(storm, s, EVERY_SECOND) for s in (REFUSES, DROPS_SILENTLY))
    assert refused.arrivals[121:2600].sum() > 0
    assert dropped.arrivals[121:2600].sum() == 0
    assert dropped.arrivals[2600:].sum() > 0


def test_a_slammed_connection_is_held_first() -> None:
    storm = attrs.evolve(STORM, down=0.0, hold=0.7, nearest=0.01, farthest=0.01)
    arrivals = simulate(storm, SLAMS, EVERY_SECOND).arrivals
    first, second = np.flatnonzero(arrivals)[:2] / 100
    assert first == pytest.approx(1 + 0.02, abs=0.011)
    assert second - first == pytest.approx(0.7 + 1 + 0.02, abs=0.011)


def test_backlog_lets_that_many_more_wait() -> None:
    gate = Gate(attrs.evolve(STORM, capacity=200, backlog=50), opens_in=1000)
    assert gate.admit(1000, 500).size == 2 + 50
    assert gate.admit(1001, 500).size == 2  # whose turns have come up meanwhile
    late = gate.admit(1100, 500)
    assert late.size == 2 + 50  # all who waited are done, and idle time can't be made up for
    assert late[0] == pytest.approx(11 + 1 / 200)


def test_first_come_is_first_served() -> None:
    herd = Herd(STORM, NO_JITTER)
    _, who = herd.next_arrivals()
    arrives = herd.arrives[who].tolist()
    assert len(arrives) > 10
    assert arrives == sorted(arrives)


def test_full_jitter_peaks_below_no_jitter_and_below_the_original() -> None:
    full, original, none = (simulate(STORM, REFUSES, p) for p in (SDK, ORIGINAL, NO_JITTER))
    for peak in ("peak_100ms", "peak_1s_once_up", "peak_100ms_once_up"):
        assert figure(full, peak) < 0.5 * figure(none, peak)
    assert figure(full, "peak_1s_once_up") < 0.5 * figure(original, "peak_1s_once_up")


def test_reset_on_open_makes_a_difference_only_to_a_server_that_slams() -> None:
    calm, reset = (simulate(STORM, REFUSES, policy) for policy in (SDK, RESETS_ON_OPEN))
    assert calm.arrivals.tolist() == reset.arrivals.tolist()
    calm, reset = (simulate(STORM, SLAMS, policy) for policy in (SDK, RESETS_ON_OPEN))
    assert reset.slammed > 2 * calm.slammed


# The figures.


def test_peak_is_that_of_any_stretch_not_only_of_whole_seconds() -> None:
    arrivals = np.zeros(400, np.int64)
    arrivals[[5, 195, 205]] = 10, 2, 3
    assert most_within(arrivals, 1.0) == 10
    assert most_within(arrivals, 1.0, since=1.0) == 5
    assert most_within(arrivals, 0.1, since=1.0) == 3
    assert most_within(arrivals, 1.0, since=2.1) == 0


def test_figures_are_those_of_the_outcome() -> None:
    arrivals = np.zeros(1000, np.int64)
    arrivals[[10, 150, 155, 190, 700]] = 40, 7, 6, 5, 9
    outcome = Outcome(3, 5.0, arrivals, np.array([7.04, 7.06, 9.0]), rejected=12, slammed=34)
    assert measures(outcome) == {
        "attempts": 67,
        "peak_1s": 40,
        "peak_1s_after_first_second": 18,
        "peak_1s_once_up": 9,
        "peak_100ms": 40,
        "peak_100ms_once_up": 9,
        "rejected": 12,
        "slammed": 34,
        "seconds_until_50_percent": 7.1,
        "seconds_until_99_percent": 9.0,
        "seconds_until_all": 9.0,
    }


def test_share_that_never_comes_back_is_shown_as_never() -> None:
    outcome = Outcome(4, 0.0, np.ones(200, np.int64), np.array([1.0, 2.0]), 0, 0)
    assert seconds_until(outcome, 0.5) == 2.0
    assert seconds_until(outcome, 0.99) is None
    assert table("s", {"p": measures(outcome)}).splitlines()[-1].endswith("| never |")


@pytest.mark.parametrize(
    "wrong", [["--nearest", "0"], ["--backlog", "100000"], ["--give-up-after", "60"]]
)
def test_parameters_beyond_the_model_are_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error:" in capsys.readouterr().err


def test_command_prints_the_figures_that_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    main(["--clients", "300", "--long-down", "25", "--json", str(path)])
    written = json.loads(path.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert written["parameters"]["clients"] == 300
    assert list(written["scenarios"]) == [scenario.name for scenario in SCENARIOS]
    for scenario, policies in written["scenarios"].items():
        assert table(scenario, policies) in printed


# The page.


def test_page_has_the_tables_of_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert list(results["scenarios"]) == [scenario.name for scenario in SCENARIOS]
    for scenario, policies in results["scenarios"].items():
        assert table(scenario, policies) in page


def test_results_and_page_are_of_the_default_parameters() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert results["parameters"] == attrs.asdict(Storm())
    page = PAGE.read_text(encoding="utf-8")
    for name, default in attrs.asdict(Storm()).items():
        assert f"| `{name}` | {default:,} |" in page
