"""The page of a report: one file, which loads nothing and runs no script.

The sections on how the sessions ended are in :mod:`.health`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

from ... import __version__, collector
from ...collector.models import FrameSummary, Outcome, RejectedMessage, SessionDetail
from .._outcomes import harmless
from . import charts, health
from .answers import answer_section, moments_section
from .data import Report, ReportRange
from .format import amount, amount_of, duration, milliseconds, moment, share, span
from .markup import card, cards, in_html, note, section, table
from .stats import COLORED_TYPES, FrameTimeSummary

__all__ = ["page"]

_MAX_TYPES = 50
_MAX_FRAME_CHARTS = 4  # of the newest versions
_FRAMES = "Frame times in milliseconds over time"
_LASTING = (Outcome.RUNNING, Outcome.NO_WORD)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> Iterator[str]:
    """Yield the page in parts."""
    title = "Telemetry report"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1>\n"
    )
    yield f'<p class="quiet">{_subtitle(report)}</p></header>\n'
    yield _summary(report)
    yield from map(answer_section, report.answers)
    if report.events:
        yield _timeline(report)
    if report.versions:
        yield health.versions(report.versions)
    if report.crashes:
        yield health.crashes(report.crashes)
    if report.faults:
        yield health.faults(report.faults, report.fault_count)
    if report.types or report.sampled:
        yield _types(report)
    if report.frames:
        yield _frames(report.frames)
    if report.events and (report.frame_times or not report.frames):
        yield _frame_times(report.frame_times)
    if report.session:
        yield health.missing_numbers(report.session)
        if report.moments is not None:
            yield moments_section(report.moments)
    elif report.session_count:
        yield health.losses(report.lost, report.waiting)
        yield health.sessions(report.sessions, report.session_count, report.outcomes)
    if report.rejected_count:
        yield _rejected(report.rejected, report.rejected_count)
    yield (
        f"<footer>Made {moment(report.made)} UTC by redvsblue-telemetry {__version__}. "
        "All times are UTC.</footer>\n</main>\n</body>\n</html>\n"
    )


def _style() -> str:
    palette = resources.files(collector) / "static" / "palette.css"
    layout = resources.files(__package__) / "report.css"
    return palette.read_text("utf-8") + layout.read_text("utf-8")


def _subtitle(report: Report) -> str:
    session = report.session
    parts = ["All sessions"]
    if session is not None:
        parts = [f'Session <span class="id">{in_html(session.session_id)}</span>']
        if session.version is not None:
            parts.append(f"version {in_html(session.version)}")
    if report.range is not None:
        parts = [_range(report.range)]
    elif report.first is not None and report.last is not None:
        parts.append(f"{moment(report.first)} to {moment(report.last)} UTC")
    return " · ".join(parts)


def _range(found: ReportRange) -> str:
    limits = [
        f"{word} {moment(limit)}"
        for word, limit in (("from", found.start), ("to", found.end))
        if limit is not None
    ]
    dates = f", {' '.join(limits)} UTC" if limits else ""
    return f"Sessions last heard of and events received: {in_html(found.words)}{dates}"


def _summary(report: Report) -> str:
    session = report.session
    parts = [
        card("Events", amount(report.events)),
        card("Median session" if session is None else "Duration", duration(report.duration)),
        card(
            _missing_label(report),
            share(report.missing, report.events + report.deleted + report.missing),
            "bad" if report.missing > harmless(report.lost, report.waiting) else "good",
        ),
        card("Repeats, counted once", amount(report.repeats)),
    ]
    if report.deleted:
        parts.append(card("Deleted since", amount(report.deleted)))
    if report.fault_count:
        parts.append(card("Do not fit the schema", amount(report.fault_count), "warn"))
    if session is not None:
        parts.insert(0, card(_outcome_label(session), health.outcome(session)))
        parts.append(card("Rejected, of all sessions", amount(report.rejected_count)))
        return cards(parts)
    good, ended = health.crash_free(report.outcomes)
    parts.insert(0, card("Sessions", amount(report.session_count)))
    if ended:
        label = f"Crash-free, of {amount(ended)} that ended"
        parts.insert(1, card(label, share(good, ended), "bad" if good < ended else "good"))
    parts.append(card("Rejected", amount(report.rejected_count)))
    return cards(parts)


def _missing_label(report: Report) -> str:
    label = f"Missing: {amount_of(report.missing, 'event')}"
    count = report.implausible_sessions
    if count:
        claim = "claims" if count == 1 else "claim"
        numbers = amount(report.implausible_missing)
        label += f". Not counted: {amount_of(count, 'session')} that {claim} {numbers} numbers"
    return label


def _outcome_label(session: SessionDetail) -> str:
    when = moment(session.since)
    return f"since {when}" if session.outcome in _LASTING else when


def _timeline(report: Report) -> str:
    names = [*list(report.types)[:COLORED_TYPES], "other types"]
    remark = ""
    if report.displaced:
        remark = note(
            "Events with a timestamp more than a day off are shown at the time when they were "
            f"received: {amount(report.displaced)}."
        )
    chart = charts.timeline(report.timeline, names)
    clock = ", by the time when they were received" if report.by_received else ""
    about = f"Events per {span(report.timeline.width)}{clock}."
    return section("Timeline", about, chart + remark)


def _types(report: Report) -> str:
    sampled = report.sampled
    stored = {**report.types, **{name: 0 for name in sampled if name not in report.types}}
    highest = max(1, *stored.values())
    shown = list(stored.items())[:_MAX_TYPES]
    rows = []
    for index, (name, count) in enumerate(shown):
        color, width = charts.series_class(index), 100 * count / highest
        left_out = sampled.get(name, 0)
        rows.append(
            [
                f'<span class="swatch {color}"></span>{in_html(name, 120)}',
                amount(count),
                share(count, report.events),
                *([f"about {amount(count + left_out)}" if left_out else ""] if sampled else []),
                f'<span class="bar {color}" style="width:{width:.2f}%"></span>',
            ]
        )
    headings = {"Type": "type", "Stored" if sampled else "Events": "number", "Share": "number"}
    headings |= {"Emitted": "number"} if sampled else {}
    headings |= {"": "wide"}
    rest = report.events - sum(count for _, count in shown)
    remark = note(f"Less frequent types: {amount_of(rest, 'event')}.") if rest else ""
    is_complete = sum(report.types.values()) == report.events
    types = amount_of(len(report.types), "type")
    about = f"{types} of events." if is_complete else f"More than {types} of events."
    if sampled:
        about += (
            " Sampling and rate limits left out some events. The number of those that were emitted "
            "is estimated from the games' reports."
        )
    return section("Events by type", about, table(headings, rows) + remark)


def _frames(frames: Sequence[FrameSummary]) -> str:
    rows = [
        [
            _version(each.version),
            amount(each.frames),
            duration(each.seconds * 1000),
            *map(milliseconds, (each.p50, each.p95, each.p99, each.max)),
            amount(each.hitches),
            share(each.hitches, each.frames),
        ]
        for each in frames
    ]
    headings = {"Version": "", "Frames": "number", "Time": "number", "p50": "number"}
    headings |= {"p95": "number", "p99": "number", "Slowest": "number", "Hitches": "number"}
    headings |= {"Share": "number"}
    plots = [
        f"<h3>{_version(each.version)}</h3>{charts.percentile_lines(_FRAMES, each.over_time)}"
        for each in frames[:_MAX_FRAME_CHARTS]
        if len(each.over_time) > 1
    ]
    about = (
        "As the SDK measured them, the newest version first. A percentile is the median of those "
        "of the intervals, weighted by their frames. A hitch is a frame that took more than twice "
        "the median of its interval."
    )
    charted = f"{charts.LINES_KEY}{''.join(plots)}" if plots else ""
    return section("Frames by version", about, table(headings, rows) + charted)


def _version(version: str | None) -> str:
    return "no version" if version is None else in_html(version, 64)


def _frame_times(frames: FrameTimeSummary | None) -> str:
    if frames is None:
        about = (
            "No frame times recorded. To see them here, call <code>telemetry.frame()</code> once "
            "in every frame, or add a field <code>frame_time_ms</code>, in milliseconds, to any "
            "event."
        )
        return section("Frame times", about, "")
    parts = [
        card("Median", milliseconds(frames.median)),
        card("99th percentile", milliseconds(frames.percentile_99)),
        card("Slowest", milliseconds(frames.slowest)),
        card("Below 60 frames per second", share(frames.below_60_fps, frames.count)),
        card("Below 30 frames per second", share(frames.below_30_fps, frames.count)),
    ]
    about = f"{amount_of(frames.count, 'frame time')} recorded. The chart is in milliseconds."
    return section("Frame times", about, cards(parts) + charts.histogram(frames.bins))


def _rejected(messages: Sequence[RejectedMessage], count: int) -> str:
    rows = [
        [
            moment(message.received),
            in_html(message.reason),
            f"<code>{in_html(message.text)}</code>",
        ]
        for message in messages
    ]
    more = count - len(messages)
    remark = note(f"And {amount_of(more, 'earlier message')}.") if more else ""
    about = (
        "Messages, or parts of them, that were not valid events, from all sessions. Newest first."
    )
    headings = {"Received": "nowrap", "Reason": "", "Excerpt": ""}
    return section("Rejected", about, table(headings, rows) + remark)
