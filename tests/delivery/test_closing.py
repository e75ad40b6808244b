"""The last report of an earlier run: each number that did not come has its true reason."""

from __future__ import annotations

from typing import Any

from redvsblue_telemetry._delivery.closing import ClosingReport
from redvsblue_telemetry._recording.codec import EncodedEvent, prefix_of
from redvsblue_telemetry._report import Report, decode_report

NOW = 10_000  # milliseconds, of the clock of these tests


def saved(**fields: Any) -> Report:
    return Report(
        **{"session_id": "s", "number": 4, "state": "running", "started_at": 1000, "at": 2000}
        | fields
    )


def found(report: Report, **fields: Any) -> ClosingReport:
    return ClosingReport(
        report,
        **{"is_lost": False, "confirmed": 0, "first": 1, "last": 0, "most_bytes": 10**6} | fields,
    )


def events(*numbers: int, time: int = 3000) -> list[tuple[EncodedEvent, int]]:
    """Events that happened at a time in milliseconds."""
    return [(EncodedEvent(prefix_of(b'"x"'), time * 1_000_000, b"{}"), n) for n in numbers]


def final(closing: ClosingReport) -> Report:
    closing.see_end()
    return decode_report(closing.final(NOW))


def test_a_run_that_was_killed_ended_at_its_last_event() -> None:
    closing = found(saved(last_seq=1, emitted=1, buffered=1, reconnects=3), last=3)
    closing.see(events(1, 2, 3))
    report = final(closing)
    assert (report.number, report.state, report.reason, report.at) == (5, "ended", "killed", 3000)
    assert (report.last_seq, report.emitted, report.delivered, report.buffered) == (3, 3, 3, 0)
    assert (report.gaps, report.dropped, report.reconnects) == ([], {}, 3)


def test_a_time_that_the_game_gave_is_not_when_it_ended() -> None:
    for time in (5, NOW + 1):
        closing = found(saved(), last=1)
        closing.see(events(1, time=time))
        assert final(closing).at == 2000


def test_a_run_that_ended_well_keeps_its_end() -> None:
    report = saved(state="ended", reason="stopped", last_seq=5, emitted=5, delivered=2, buffered=3)
    closing = found(report, confirmed=2, first=3, last=5)
    closing.see(events(3, 4, 5))
    report = final(closing)
    assert (report.number, report.state, report.reason, report.at) == (5, "ended", "stopped", 2000)
    assert (report.delivered, report.buffered) == (5, 0)


def test_a_killed_run_without_an_event_is_reported() -> None:
    report = final(found(saved()))
    assert (report.reason, report.at, report.last_seq, report.emitted) == ("killed", 2000, 0, 0)


def test_a_report_that_can_not_be_read_is_followed_by_a_higher_number() -> None:
    assert final(found(saved(number=0), is_lost=True)).number == 1_000_000


def test_what_was_dropped_before_the_kill_stays_dropped() -> None:
    gaps = [(2, 3, "overflow"), (5, 5, "filtered"), (6, 6, "rejected"), (7, 7, "forwarded")]
    report = saved(
        last_seq=8, emitted=7, delivered=4, dropped={"overflow": 2, "filtered": 1}, rejected=3
    )
    report.gaps = gaps
    closing = found(report, confirmed=8, first=9, last=10)
    closing.see(events(9, 10))
    report = final(closing)
    assert report.gaps == gaps
    assert report.dropped == {"overflow": 2, "filtered": 1}
    assert (report.rejected, report.emitted, report.delivered) == (3, 9, 6)


def test_an_event_that_comes_after_all_was_not_dropped() -> None:
    # The kill came after the report was saved, and before the files forgot these events.
    gaps = [(2, 3, "overflow"), (5, 5, "filtered"), (6, 6, "rejected"), (7, 7, "forwarded")]
    report = saved(
        last_seq=8, emitted=7, delivered=4, dropped={"overflow": 2, "filtered": 1}, rejected=3
    )
    report.gaps = gaps
    closing = found(report, confirmed=2, first=1, last=8)
    closing.see(events(3, 4, 5, 6, 7, 8))
    closing.drop([5], "filtered")  # again
    closing.drop([7], "forwarded")
    report = final(closing)
    assert report.gaps == [(2, 2, "overflow"), (5, 5, "filtered"), (7, 7, "forwarded")]
    assert report.dropped == {"overflow": 1, "filtered": 1}
    assert (report.rejected, report.emitted, report.delivered) == (2, 8, 6)


def test_a_number_that_no_event_has_is_explained() -> None:
    report = saved(last_seq=30, emitted=30, dropped={"overflow": 2}, gaps=[(4, 5, "overflow")])
    closing = found(report, confirmed=2, first=10, last=28)
    closing.see(events(12, 13, 17))
    closing.see(events(18, 20, 28))
    report = final(closing)
    assert report.gaps == [
        (3, 3, "expired"),
        (4, 5, "overflow"),
        (6, 9, "expired"),
        (10, 11, "damaged"),
        (14, 16, "damaged"),
        (19, 19, "damaged"),
        (21, 27, "damaged"),
        (29, 30, "damaged"),
    ]
    assert report.dropped == {"overflow": 2, "expired": 5, "damaged": 15}
    assert (report.emitted, report.delivered) == (30, 8)


def test_what_the_adopter_drops_is_explained() -> None:
    closing = found(saved(), last=20)
    closing.see(events(*range(1, 11)))
    closing.drop([2, 3], "expired")
    closing.drop([5], "refused")
    closing.drop([6], "rejected")
    closing.skip(15)
    closing.see(events(*range(16, 21)))
    report = final(closing)
    assert report.gaps == [
        (2, 3, "expired"),
        (5, 5, "refused"),
        (6, 6, "rejected"),
        (11, 15, "expired"),
    ]
    assert report.dropped == {"expired": 7, "refused": 1}
    assert (report.rejected, report.emitted, report.delivered) == (1, 19, 11)


def test_a_second_adopter_comes_to_the_same_result() -> None:
    first = found(saved(last_seq=20, emitted=20), last=20)
    first.see(events(1, 2, 3, 5, 6, 7, 8, 9, 10))
    first.drop([7, 10], "filtered")
    assert not first.is_saved
    interim = decode_report(first.interim())
    assert (interim.number, interim.state) == (4, "running")
    # Killed after its files had forgotten the events up to 8.
    second = found(interim, confirmed=8, first=8, last=20)
    assert second.is_saved
    second.see(events(9, 10))
    second.drop([10], "filtered")
    second.see(events(*range(11, 21)))
    second.see_end()
    report = decode_report(second.final(NOW))
    assert report.gaps == [(4, 4, "damaged"), (7, 7, "filtered"), (10, 10, "filtered")]
    assert report.dropped == {"damaged": 1, "filtered": 2}
    assert report.delivered == 17
    # Killed again, after the files had gone and before the report was confirmed.
    third = final(found(report, first=None))
    assert third.number == report.number + 1
    third.number = report.number
    assert third == report


def test_events_on_their_way_that_the_files_forget_count_as_lost_until_they_arrive() -> None:
    closing = found(saved(), last=20)
    closing.see(events(1, 2, 3, 4))
    closing.skip(20)
    interim = decode_report(closing.interim((3, 4)))
    assert (interim.gaps, interim.dropped) == ([(3, 20, "expired")], {"expired": 18})
    report = final(closing)
    assert (report.gaps, report.delivered) == ([(5, 20, "expired")], 4)
    assert final(found(interim, first=None)).gaps == [(3, 20, "expired")]


def test_events_that_were_in_memory_only_are_lost_with_the_process() -> None:
    report = saved(last_seq=10, emitted=10, delivered=6, dropped={"overflow": 1}, buffered=3)
    report.gaps = [(2, 2, "overflow")]
    report = final(found(report, first=None))
    assert report.gaps == [(2, 2, "overflow"), (8, 10, "damaged")]
    assert report.dropped == {"overflow": 1, "damaged": 3}
    assert report.delivered == 6


def test_a_report_is_never_larger_than_a_message_may_be() -> None:
    closing = found(saved(), last=900, most_bytes=4000)
    closing.see(events(*range(1, 901)))
    for number in range(1, 900, 2):
        closing.drop([number], f"reason-{number % 4}")
    closing.see_end()
    message = closing.final(NOW)
    assert len(message) <= 4000
    report = decode_report(message)
    assert report.gaps[-1][:2] == (899, 899)
    assert sum(report.dropped.values()) == 450
