"""Right and wrong calls of the public API, for type checkers. Never run.

A checker has to complain about each line that ends with ``# wrong``, and about no other.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from redvsblue_telemetry import (
    ConnectionState,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    TelemetryStats,
    emit,
    event_type,
    get_telemetry,
    start_telemetry,
    stop_telemetry,
    user_journal_dir,
)
from redvsblue_telemetry.testing import RecordedEvents
from redvsblue_telemetry.testing.collector import CollectedEvents, RunningCollector

if TYPE_CHECKING:
    from typing_extensions import assert_type


def scrub(event: TelemetryEvent) -> TelemetryEvent | None:
    return None if event.type == "secret" else event


def watch(state: ConnectionState) -> None:
    assert state.value


def fresh_token() -> str | None:
    return "token"


def starting() -> None:
    assert_type(start_telemetry(), Telemetry)
    start_telemetry(enabled=True, url="wss://example.com/telemetry", token="secret")
    start_telemetry(token=fresh_token, headers={"X-Game": "red"}, session_id=None)
    start_telemetry(drain_interval=1, batch_size=50, confirm="none", wire_format="ndjson")
    start_telemetry(ssl_context=ssl.create_default_context(), version="1.4.2")
    start_telemetry(before_send=scrub, on_state_change=watch)

    start_telemetry(batchsize=50)  # wrong
    start_telemetry(batch_size="50")  # wrong
    start_telemetry(drain_interval=None)  # wrong
    start_telemetry(enabled="yes")  # wrong
    start_telemetry(confirm="archived", journal="here")
    start_telemetry(journal=user_journal_dir("Red vs Blue", "Example Studio"))
    assert_type(user_journal_dir("Red vs Blue"), Path | None)
    user_journal_dir()  # wrong
    start_telemetry(confirm="acks")  # wrong
    start_telemetry(wire_format="xml")  # wrong
    start_telemetry(token=5)  # wrong
    start_telemetry(headers={"X-Game": 5})  # wrong
    start_telemetry(before_send=watch)  # wrong
    start_telemetry("ws://localhost:3000")  # wrong
    start_telemetry().emitt("hit")  # wrong


def settings() -> None:
    TelemetrySettings(enabled=True, capacity=10, confirm="auto")
    assert_type(TelemetrySettings.from_environment({"A": "b"}, capacity=10), TelemetrySettings)
    assert_type(TelemetrySettings().capacity, int)

    TelemetrySettings(capacity="10")  # wrong
    TelemetrySettings(confirm="acks")  # wrong
    TelemetrySettings.from_environment({}, wire_format="xml")  # wrong
    TelemetrySettings().capacity = 3  # wrong


def emitting(telemetry: Telemetry) -> None:
    telemetry.emit("hit")
    telemetry.emit("hit", {"ship": "red-3"}, damage=12)
    telemetry.emit("hit", type="laser", data=5)  # fields may have any name
    emit("hit", damage=12)
    telemetry.push(TelemetryEvent("hit", {"damage": 12}, seq=3))
    telemetry.push({"type": "hit"})
    telemetry.context(player="p-17", level=3, self="me", squad=None)
    assert_type(TelemetryEvent("hit", context={"level": 3}).context, Mapping[str, Any] | None)

    telemetry.emit()  # wrong
    telemetry.emit(5)  # wrong
    telemetry.emit("hit", 5)  # wrong
    emit("hit", ["damage"])  # wrong
    telemetry.push("hit")  # wrong
    telemetry.context({"level": 3})  # wrong
    TelemetryEvent("hit", context="level 3")  # wrong
    TelemetryEvent()  # wrong
    TelemetryEvent("hit", seq="3")  # wrong


@event_type
@attrs.frozen
class ByAttrs:
    ship: str
    damage: int = 1


@event_type("dataclass")
@dataclasses.dataclass(slots=True)
class ByDataclass:
    ship: str
    damage: int = 1


@event_type
class ByStruct(msgspec.Struct, frozen=True):
    ship: str
    damage: int = 1


class NoEvent:
    ship: str


def emitting_instances(telemetry: Telemetry) -> None:
    telemetry.emit(ByAttrs(ship="red-3", damage=12))
    telemetry.emit(ByDataclass("red-3"))
    telemetry.emit(ByStruct(ship="red-3"))
    telemetry.push(ByAttrs("red-3"))
    telemetry.push(ByStruct("red-3"))
    emit(ByAttrs("red-3"))
    emit(ByDataclass("red-3"))
    assert_type(ByAttrs("red-3").damage, int)

    telemetry.emit(ByAttrs(shp="x"))  # wrong
    telemetry.emit(ByAttrs(ship=5))  # wrong
    telemetry.emit(ByDataclass())  # wrong
    telemetry.emit(ByStruct(ship="red-3", damge=12))  # wrong
    telemetry.emit(ByStruct)  # wrong
    telemetry.emit(object())  # wrong
    telemetry.emit(NoEvent())  # wrong
    telemetry.emit({"type": "hit"})  # wrong
    telemetry.emit(ByAttrs("red-3"), {"damage": 12})  # wrong
    telemetry.emit(ByAttrs("red-3"), damage=12)  # wrong
    telemetry.push(NoEvent())  # wrong
    emit(5)  # wrong
    emit(ByStruct("red-3"), {})  # wrong
    event_type(5)  # wrong
    event_type()  # wrong


def living(engine: object) -> None:
    telemetry = get_telemetry()
    assert_type(telemetry.flush(timeout=0.5), bool)
    assert_type(telemetry.stop(1), bool)
    assert_type(stop_telemetry(), bool)
    assert_type(telemetry.stats(), TelemetryStats)
    assert_type(telemetry.stats().last_error, str | None)
    telemetry.enabled = False
    telemetry.set_online(True)
    with telemetry.attach(engine), telemetry:
        pass

    telemetry.flush("soon")  # wrong
    telemetry.enabled = "no"  # wrong
    telemetry.settings = TelemetrySettings()  # wrong
    telemetry.set_online()  # wrong


@event_type
@attrs.frozen
class ShipHit:
    ship: str


def testing(events: RecordedEvents) -> None:
    assert_type(events.of(ShipHit), list[ShipHit])
    assert_type(RunningCollector().events.of(ShipHit)[0].ship, str)
    assert events == [ShipHit(ship="red-3"), "round_end"]
    assert ShipHit(ship="red-3") in events
    assert "round_end" in events
    assert events[0] == ShipHit(ship="red-3")
    assert events[-1] == "round_end"

    events.of("ship_hit")  # wrong
    events.of(ShipHit(ship="red-3"))  # wrong
    assert events.of(ShipHit)[0].shp  # wrong

    RunningCollector(db="events.sqlite3", token="secret")
    RunningCollector(db=None, hosts=("telemetry.example.com",))
    assert_type(RunningCollector().wait_for("hit"), CollectedEvents)

    RunningCollector(tokn="secret")  # wrong
    RunningCollector(port="3000")  # wrong
