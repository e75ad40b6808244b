"""When alerts begin and end. Time is passed in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry.collector.alerts import (
    ALERTS,
    FIRING,
    HOLDS_FOR,
    IS_OVER_FOR,
    RESOLVED,
    WINDOW,
    Alert,
    Conditions,
    Watch,
    as_message,
)
from redvsblue_telemetry.collector.messages import Event, read_message
from redvsblue_telemetry.collector.models import Outcome
from redvsblue_telemetry.collector.storage.reports import End
from redvsblue_telemetry.collector.storage.writer import Stored

EPOCH = 1_795_000_000_000  # milliseconds, at the monotonic second 0
STEP = 15.0  # seconds
WELL, CRASHED = End(Outcome.WELL, has_gaps=False), End(Outcome.CRASHED, has_gaps=False)
GAPPED = End(Outcome.WELL, has_gaps=True)
SWITCHED_OFF = End(Outcome.SWITCHED_OFF, has_gaps=False)
KILLED = End(Outcome.KILLED, has_gaps=False)
(EVENT,) = read_message(
    b'[{"type":"x","data":{"player":"p-17"},"sessionId":"secret","id":"i","seq":1,"timestamp":0}]'
).events


def stored(
    events: int = 0,
    *,
    repeats: int = 0,
    rejected: int = 0,
    faulty: int = 0,
    reports: int = 0,
    ends: list[End] | None = None,
) -> Stored:
    group: list[Event] = [EVENT] * events
    faults = dict.fromkeys(range(faulty), "data: wrong")
    return Stored(group, 1, repeats, rejected, {"x": events}, 0, reports, faults, ends or [])


class Watched:
    """A watch with a clock that moves on by looking every few seconds."""

    def __init__(self, conditions: Conditions | None = None, start: float = 1e6) -> None:
        self.watch = Watch(conditions or Conditions(), "https://t.example/")
        self.now = start
        self.disk_is_low = False
        self.is_storing = True
        self.alerts: list[Alert] = []

    @property
    def at(self) -> int:
        return EPOCH + int(self.now * 1000)

    def store(self, group: Stored) -> None:
        self.watch.record(group, self.now)

    def wait(self, seconds: float) -> list[Alert]:
        """Return the alerts of that time."""
        found: list[Alert] = []
        until = self.now + seconds
        while True:
            found += self.watch.look(
                self.now, self.at, disk_is_low=self.disk_is_low, is_storing=self.is_storing
            )
            if self.now >= until:
                break
            self.now = min(until, self.now + STEP)
        self.alerts += found
        return found


def test_a_crash_free_share_below_the_limit_fires_once_and_resolves_once() -> None:
    watched = Watched()
    watched.store(stored(ends=[WELL] * 95 + [SWITCHED_OFF, CRASHED, CRASHED, CRASHED, KILLED]))
    began = watched.at
    (alert,) = watched.wait(WINDOW / 2)
    assert alert.name == "crash-free"
    assert alert.state == FIRING
    assert alert.since == began
    assert alert.at == began + HOLDS_FOR * 1000
    assert alert.value == pytest.approx(0.96)
    assert alert.limit == 0.99
    assert alert.counts == {"sessions": 100, "crashed": 3, "killed": 1}
    assert alert.page == "https://t.example/"
    (end,) = watched.wait(WINDOW)
    assert (end.name, end.state, end.since) == ("crash-free", RESOLVED, began)
    assert end.counts["sessions"] == 0
    hour = end.at - IS_OVER_FOR * 1000 - began
    assert WINDOW * 1000 - 60_000 <= hour <= WINDOW * 1000 + 60_000
    assert watched.wait(3 * WINDOW) == []


def test_two_crashes_of_two_sessions_are_no_alert_and_three_are() -> None:
    watched = Watched()
    watched.store(stored(ends=[CRASHED, KILLED]))
    assert watched.wait(600) == []
    watched.store(stored(ends=[KILLED]))
    (alert,) = watched.wait(600)
    assert alert.value == 0.0


def test_three_crashes_among_many_sessions_are_no_alert() -> None:
    watched = Watched()
    watched.store(stored(ends=[WELL] * 297 + [CRASHED] * 3))
    assert watched.wait(600) == [], "exactly 99 % is not below 99 %"
    watched.store(stored(ends=[CRASHED]))
    assert [alert.name for alert in watched.wait(600)] == ["crash-free"]


def test_sessions_with_unexplained_gaps_are_counted_not_their_numbers() -> None:
    watched = Watched()
    watched.store(stored(ends=[WELL] * 97 + [GAPPED] * 2))
    assert watched.wait(600) == []
    watched.store(stored(ends=[GAPPED]))
    (alert,) = watched.wait(600)
    assert (alert.name, alert.value, alert.counts) == ("gaps", 0.03, {"sessions": 100, "gaps": 3})


def test_a_share_of_rejected_messages_and_of_faulty_events() -> None:
    watched = Watched()
    watched.store(stored(500, rejected=19, faulty=19))
    assert watched.wait(600) == [], "too few"
    watched.store(stored(480, rejected=1, faulty=1))
    rejected, faulty = watched.wait(600)
    assert (rejected.name, rejected.counts) == ("rejected", {"arrived": 1000, "rejected": 20})
    assert rejected.value == 0.02
    assert (faulty.name, faulty.counts) == ("faulty", {"events": 980, "faulty": 20})
    assert faulty.value == pytest.approx(20 / 980)


@pytest.mark.parametrize(
    "group",
    [stored(1), stored(repeats=1), stored(rejected=1), stored(reports=1)],
    ids=["event", "repeat", "rejected", "report"],
)
def test_silence_fires_after_the_limit_and_ends_when_anything_arrives(group: Stored) -> None:
    watched = Watched(Conditions(silence=900.0))
    watched.store(stored(1))
    assert watched.wait(900) == []
    (alert,) = watched.wait(120)
    assert (alert.name, alert.state, alert.limit) == ("silence", FIRING, 900.0)
    assert alert.value is not None
    assert 900 < alert.value <= 1020
    watched.store(group)
    (end,) = watched.wait(600)
    assert (end.name, end.state) == ("silence", RESOLVED)
    assert end.at >= alert.at + 1000 * IS_OVER_FOR


def test_a_collector_that_never_got_anything_is_not_silent() -> None:
    watched = Watched(Conditions(silence=900.0))
    watched.store(stored())  # a group of nothing
    assert watched.wait(WINDOW) == []


def test_silence_goes_on_over_a_restart() -> None:
    watched = Watched(Conditions(silence=900.0))
    watched.watch.record_arrival(watched.now - 800)
    watched.watch.record_arrival(watched.now - 900)  # older news change nothing
    assert watched.wait(100) == []
    assert [alert.name for alert in watched.wait(120)] == ["silence"]


def test_ends_from_before_a_restart_count_while_they_are_in_the_window() -> None:
    watched = Watched()
    for ago in (WINDOW + 120, WINDOW / 2, WINDOW / 3, WINDOW / 4):
        watched.watch.record_end(Outcome.CRASHED, watched.now - ago, has_gaps=False)
    (alert,) = watched.wait(120)
    assert alert.counts == {"sessions": 3, "crashed": 3, "killed": 0}


@pytest.mark.parametrize("name", ["disk", "storing"])
def test_a_state_that_holds_for_less_than_a_minute_is_no_alert(name: str) -> None:
    watched = Watched()

    def set_state(is_bad: bool) -> None:
        watched.disk_is_low = is_bad and name == "disk"
        watched.is_storing = not (is_bad and name == "storing")

    set_state(True)
    assert watched.wait(HOLDS_FOR - STEP) == []
    set_state(False)
    assert watched.wait(STEP) == []
    set_state(True)
    assert watched.wait(HOLDS_FOR - STEP) == []
    (alert,) = watched.wait(2 * STEP)
    assert (alert.name, alert.state, alert.value, alert.limit) == (name, FIRING, None, None)
    set_state(False)
    assert watched.wait(IS_OVER_FOR - STEP) == []
    set_state(True)
    assert watched.wait(STEP) == [], "it was never over for long"
    set_state(False)
    (end,) = watched.wait(IS_OVER_FOR + 2 * STEP)
    assert (end.name, end.state, end.since) == (name, RESOLVED, alert.since)


def test_conditions_that_are_off_never_alert() -> None:
    off = dict.fromkeys(Conditions.__struct_fields__)
    watched = Watched(Conditions(**off))
    watched.disk_is_low, watched.is_storing = True, False
    watched.store(stored(10, rejected=90, faulty=10, ends=[CRASHED, GAPPED] * 50))
    assert watched.wait(2 * 86_400) == []
    assert watched.watch.firing == dict.fromkeys(ALERTS, False)


def test_what_is_firing_is_known_by_name() -> None:
    watched = Watched()
    watched.disk_is_low = True
    watched.wait(120)
    assert watched.watch.firing == {**dict.fromkeys(ALERTS, False), "disk": True}


def test_a_million_ends_take_no_more_memory_than_a_hundred() -> None:
    watched = Watched()
    for _ in range(1000):
        watched.store(stored(ends=[WELL] * 1000))
        watched.now += 30
    assert len(watched.watch._parts) <= 61
    watched.store(stored(ends=[CRASHED] * 3000))
    (alert,) = watched.wait(120)
    assert 118_000 <= alert.counts["sessions"] <= 123_000


GROUPS = st.builds(
    stored,
    st.integers(0, 50),
    rejected=st.integers(0, 30),
    faulty=st.just(0),
    ends=st.lists(st.sampled_from([WELL, CRASHED, KILLED, GAPPED]), max_size=8),
)
STEPS = st.tuples(GROUPS, st.booleans(), st.booleans(), st.floats(0, 2000))


@given(st.lists(STEPS, max_size=30))
def test_firing_and_resolved_alternate_for_each_alert(
    steps: list[tuple[Stored, bool, bool, float]],
) -> None:
    watched = Watched(Conditions(silence=600.0))
    for group, disk_is_low, is_storing, seconds in steps:
        watched.store(group)
        watched.disk_is_low, watched.is_storing = disk_is_low, is_storing
        watched.wait(seconds)
    watched.disk_is_low, watched.is_storing = False, True
    watched.watch.record(stored(1), watched.now)
    for _ in range(10):  # keeps coming
        watched.wait(WINDOW / 6)
        watched.watch.record(stored(1), watched.now)
    assert not any(watched.watch.firing.values())
    for name in ALERTS:
        own = [alert for alert in watched.alerts if alert.name == name]
        states = [alert.state for alert in own]
        assert states == [FIRING, RESOLVED] * (len(states) // 2)
        for begin, end in zip(own[::2], own[1::2], strict=True):
            assert begin.since == end.since
            assert begin.since <= begin.at - HOLDS_FOR * 1000 + 1
            assert end.at >= begin.at + IS_OVER_FOR * 1000 - 1


@pytest.mark.parametrize("state", [FIRING, RESOLVED])
@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_line_and_the_numbers(name: str, state: str) -> None:
    conditions = Conditions(silence=900.0)
    watched = Watched(conditions)
    watched.store(stored(1000, rejected=50, faulty=50, ends=[CRASHED, GAPPED, WELL] * 9))
    watched.disk_is_low, watched.is_storing = True, False
    watched.wait(1100)
    watched.disk_is_low, watched.is_storing = False, True
    for _ in range(30):
        watched.store(stored(1))
        watched.wait(WINDOW / 20)
    (alert,) = (one for one in watched.alerts if (one.name, one.state) == (name, state))
    message = json.loads(as_message(alert))
    assert list(message) == ["text", "content", "alert"]
    text = message["text"]
    assert text == message["content"]
    assert text.startswith("Alert: " if state == FIRING else "Resolved: ")
    assert text.endswith((". https://t.example/", "). https://t.example/"))
    assert not set("<>&\n@") & set(text)
    assert message["alert"]["name"] == name
    assert message["alert"]["state"] == state
    assert message["alert"]["page"] == "https://t.example/"
    for secret in ("p-17", "secret", "wrong"):
        assert secret not in as_message(alert).decode()


def test_the_line_of_a_crash_free_share() -> None:
    watched = Watched()
    watched.store(stored(ends=[WELL] * 197 + [CRASHED] * 2 + [KILLED]))
    (alert,) = watched.wait(120)
    text = json.loads(as_message(alert))["text"]
    assert text == (
        "Alert: 98.5% of 200 sessions that ended in the last hour were crash-free (limit 99%; "
        "crashed: 2, killed: 1). https://t.example/"
    )


def test_the_line_of_a_test() -> None:
    text = json.loads(as_message(Alert("test", FIRING, 1, 1)))["text"]
    assert text == "This is a test: alerts of the telemetry collector arrive here."
