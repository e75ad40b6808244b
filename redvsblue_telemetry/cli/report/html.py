"""The page of a report: one file, which loads nothing and runs no script.

Only :func:`_in_html` writes texts from events.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

from ... import __version__, collector
from ...collector.models import RejectedMessage, SessionDetail
from .._terminal import printable
from . import charts
from .data import Report
from .format import amount, amount_of, duration, milliseconds, moment, share, span
from .stats import COLORED_TYPES, FrameSummary

__all__ = ["page"]

_MAX_TYPES = 50
_MAX_GAPS = 8  # in a row of the table of sessions
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
    if report.events:
        yield _timeline(report)
        yield _types(report)
        yield _frames(report.frames)
        yield _loss(report.session) if report.session else _sessions(report)
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


def _in_html(text: str, limit: int = 200) -> str:
    """Return the text, shortened, as HTML that can't affect the text around it."""
    return f"<bdi>{html.escape(printable(text, limit))}</bdi>"


def _subtitle(report: Report) -> str:
    session = report.session
    parts = ["All sessions"]
    if session is not None:
        parts = [f'Session <span class="id">{_in_html(session.session_id)}</span>']
        if session.version is not None:
            parts.append(f"version {_in_html(session.version)}")
    if report.first is not None and report.last is not None:
        parts.append(f"{moment(report.first)} to {moment(report.last)} UTC")
    return " · ".join(parts)


def _summary(report: Report) -> str:
    is_of_all = report.session is None
    rejected = "Rejected" if is_of_all else "Rejected, of all sessions"
    cards = [
        _card("Events", amount(report.events)),
        _card("Median session" if is_of_all else "Duration", duration(report.duration)),
        _card(
            f"Lost: {amount_of(report.missing, 'event')}",
            share(report.missing, report.events + report.missing),
            "bad" if report.missing else "good",
        ),
        _card("Repeats, counted once", amount(report.repeats)),
        _card(rejected, amount(report.rejected_count)),
    ]
    if is_of_all:
        cards.insert(0, _card("Sessions", amount(report.session_count)))
    return _cards(cards)


def _timeline(report: Report) -> str:
    names = [*list(report.types)[:COLORED_TYPES], "other types"]
    note = ""
    if report.displaced:
        note = _note(
            "Events with a timestamp more than a day off are shown at the time when they were "
            f"received: {amount(report.displaced)}."
        )
    chart = charts.timeline(report.timeline, names)
    return _section("Timeline", f"Events per {span(report.timeline.width)}.", chart + note)


def _types(report: Report) -> str:
    highest = max(report.types.values())
    shown = list(report.types.items())[:_MAX_TYPES]
    rows = []
    for index, (name, count) in enumerate(shown):
        color, width = charts.series_class(index), 100 * count / highest
        rows.append(
            [
                f'<span class="swatch {color}"></span>{_in_html(name, 120)}',
                amount(count),
                share(count, report.events),
                f'<span class="bar {color}" style="width:{width:.2f}%"></span>',
            ]
        )
    headings = {"Type": "type", "Events": "number", "Share": "number", "": "wide"}
    rest = report.events - sum(count for _, count in shown)
    note = _note(f"Less frequent types: {amount_of(rest, 'event')}.") if rest else ""
    is_complete = sum(report.types.values()) == report.events
    types = amount_of(len(report.types), "type")
    about = f"{types} of events." if is_complete else f"More than {types} of events."
    return _section("Events by type", about, _table(headings, rows) + note)


def _frames(frames: FrameSummary | None) -> str:
    if frames is None:
        about = (
            "No frame times recorded. To see them here, add a field <code>frame_time_ms</code>, "
            "in milliseconds, to any event."
        )
        return _section("Frame times", about, "")
    cards = [
        _card("Median", milliseconds(frames.median)),
        _card("99th percentile", milliseconds(frames.percentile_99)),
        _card("Slowest", milliseconds(frames.slowest)),
        _card("Below 60 frames per second", share(frames.below_60_fps, frames.count)),
        _card("Below 30 frames per second", share(frames.below_30_fps, frames.count)),
    ]
    about = f"{amount_of(frames.count, 'frame time')} recorded. The chart is in milliseconds."
    return _section("Frame times", about, _cards(cards) + charts.histogram(frames.bins))


def _loss(session: SessionDetail) -> str:
    if not session.missing:
        return _section("Loss", f"None: events 1 to {amount(session.highest)} all arrived.", "")
    rows = [
        [amount(first), amount(last), f'<span class="loss">{amount(last - first + 1)}</span>']
        for first, last in session.gaps
    ]
    headings = {"First missing": "number", "Last missing": "number", "Events": "number"}
    table = _table(headings, rows, "narrow")
    rest = session.missing - sum(last - first + 1 for first, last in session.gaps)
    note = _note(f"And {amount_of(rest, 'event')} in later gaps.") if rest else ""
    missing, highest = amount(session.missing), amount(session.highest)
    about = f"Of events 1 to {highest}, {missing} did not arrive."
    return _section("Loss", about, charts.gap_strip(session.gaps, session.highest) + table + note)


def _sessions(report: Report) -> str:
    rows = [
        [
            f'<span class="id">{_in_html(session.session_id, 64)}</span>',
            _in_html(session.version, 32) if session.version is not None else "",
            moment(session.first_timestamp),
            duration(session.last_timestamp - session.first_timestamp),
            amount(session.events),
            _lost(session),
            _gaps(session),
            amount(session.repeats),
        ]
        for session in report.sessions
    ]
    headings = {"Session": "", "Version": "", "Start": "nowrap", "Duration": "number"}
    headings |= {"Events": "number", "Lost": "number", "Gaps": "", "Repeats": "number"}
    more = report.session_count - len(rows)
    note = _note(f"And {amount_of(more, 'earlier session')}.") if more else ""
    about = (
        "The most recently active session first. A gap is a range of events that did not arrive."
    )
    return _section("Sessions and loss", about, _table(headings, rows) + note)


def _lost(session: SessionDetail) -> str:
    if not session.missing:
        return "0"
    part = share(session.missing, session.events + session.missing)
    return f'<span class="loss">{amount(session.missing)}</span> ({part})'


def _gaps(session: SessionDetail) -> str:
    shown = [
        amount(first) if first == last else f"{amount(first)}\u2013{amount(last)}"
        for first, last in session.gaps[:_MAX_GAPS]
    ]
    return ", ".join(shown) + (", …" if len(session.gaps) > _MAX_GAPS else "")


def _rejected(messages: Sequence[RejectedMessage], count: int) -> str:
    rows = [
        [
            moment(message.received),
            _in_html(message.reason),
            f"<code>{_in_html(message.text)}</code>",
        ]
        for message in messages
    ]
    more = count - len(messages)
    note = _note(f"And {amount_of(more, 'earlier message')}.") if more else ""
    about = (
        "Messages, or parts of them, that were not valid events, from all sessions. Newest first."
    )
    table = _table({"Received": "nowrap", "Reason": "", "Excerpt": ""}, rows)
    return _section("Rejected", about, table + note)


def _section(heading: str, about: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{_note(about)}{body}</section>\n"


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>\n'


def _card(label: str, value: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><b>{value}</b><span>{label}</span></div>'


def _table(headings: Mapping[str, str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table with these headings; the value of each is the CSS class of its column."""
    head = "".join(f'<th class="{column}">{text}</th>' for text, column in headings.items())
    body = "".join(f"<tr>{''.join(map(_cell, headings.values(), row))}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(column: str, content: str) -> str:
    return f'<td class="{column}">{content}</td>'
