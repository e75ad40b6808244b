"""The page of a report: one file, which asks nobody for anything and runs no script.

What comes from events is written by :func:`.report_text.in_html` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ... import __version__
from ...collector.models import RejectedMessage, SessionDetail
from . import charts
from .data import SHOWN_TYPES, Report
from .escape import in_html
from .format import amount, amount_of, duration, milliseconds, moment, share, span
from .stats import FrameTimes
from .style import STYLE

__all__ = ["page"]

_SHOWN_ROWS = 50  # of types
_SHOWN_GAPS = 8  # of a session among others
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> Iterator[str]:
    """The page, part by part."""
    title = "Telemetry report"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1>\n"
    )
    yield f'<p class="muted">{_subtitle(report)}</p></header>\n'
    yield _cards(report)
    if report.events:
        yield _timeline(report)
        yield _types(report)
        yield _frames(report.frames)
        yield _gaps(report.session) if report.session else _sessions(report)
    if report.rejected_count:
        yield _rejected(report.rejected, report.rejected_count)
    yield (
        f"<footer>Made {moment(report.made)} UTC by redvsblue-telemetry {__version__}. "
        "All times are UTC.</footer>\n</main>\n</body>\n</html>\n"
    )


def _subtitle(report: Report) -> str:
    parts = []
    if report.session is not None:
        parts.append(f'Session <span class="id">{in_html(report.session.session_id)}</span>')
        if report.session.version is not None:
            parts.append(f"version {in_html(report.session.version)}")
    else:
        parts.append("All sessions")
    if report.first is not None and report.last is not None:
        parts.append(f"{moment(report.first)} to {moment(report.last)} UTC")
    return " · ".join(parts)


def _cards(report: Report) -> str:
    durations = report.durations
    cards = [_card("Events", amount(report.events))]
    if report.session is None:
        cards.insert(0, _card("Sessions", amount(report.session_count)))
        cards.append(_card("Median session", duration(durations.quantile(0.5))))
    else:
        cards.append(_card("Duration", duration(durations.largest)))
    sent = report.events + report.missing
    cards.append(
        _card(
            f"Lost: {amount_of(report.missing, 'event')}",
            share(report.missing, sent),
            "poor" if report.missing else "good",
        )
    )
    cards.append(_card("Repeats, counted once", amount(report.repeats)))
    whose = "" if report.session is None else ", of all sessions"
    cards.append(_card(f"Rejected{whose}", amount(report.rejected_count)))
    return f'<div class="cards">{"".join(cards)}</div>\n'


def _card(label: str, value: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><b>{value}</b><span>{label}</span></div>'


def _timeline(report: Report) -> str:
    names = [*list(report.types)[:SHOWN_TYPES], "other types"]
    note = ""
    if report.displaced:
        note = (
            '<p class="note">Events whose time is more than a day from that of their arrival stand '
            f"where they arrived: {amount(report.displaced)}.</p>"
        )
    chart = charts.timeline(report.timeline, names)
    return _section("Timeline", f"Events per {span(report.timeline.width)}.", chart + note)


def _types(report: Report) -> str:
    most = max(report.types.values())
    rows = []
    for index, (name, count) in enumerate(list(report.types.items())[:_SHOWN_ROWS]):
        series = min(index, SHOWN_TYPES)
        rows.append(
            f'<tr><td class="type"><span class="swatch s{series}"></span>{in_html(name, 120)}</td>'
            f'<td class="number">{amount(count)}</td>'
            f'<td class="number">{share(count, report.events)}</td>'
            f'<td class="wide"><span class="bar s{series}" style="width:{100 * count / most:.2f}%">'
            "</span></td></tr>"
        )
    table = _table(["Type", "#Events", "#Share", ""], rows)
    unseen = report.events - sum(list(report.types.values())[:_SHOWN_ROWS])
    note = f'<p class="note">Rarer types: {amount_of(unseen, "event")}.</p>' if unseen else ""
    is_whole = sum(report.types.values()) == report.events
    about = f"{'' if is_whole else 'More than '}{amount_of(len(report.types), 'type')} of events."
    return _section("Events by type", about, table + note)


def _frames(frames: FrameTimes) -> str:
    if not frames.count:
        return _section(
            "Frame times",
            "No event tells one: send a number of milliseconds as <code>frame_time_ms</code> "
            "in any event, and it is shown here.",
            "",
        )
    cards = [
        _card("Median frame", milliseconds(frames.quantile(0.5))),
        _card("99 of 100 frames within", milliseconds(frames.quantile(0.99))),
        _card("Slowest frame", milliseconds(frames.largest)),
        _card("Below 60 frames a second", _percent(frames.slower_than(16.7))),
        _card("Below 30 frames a second", _percent(frames.slower_than(33.4))),
    ]
    return _section(
        "Frame times",
        f"{amount_of(frames.count, 'frame time')}, as events tell them; in milliseconds.",
        f'<div class="cards">{"".join(cards)}</div>{charts.histogram(frames)}',
    )


def _percent(part: float) -> str:
    return share(round(part * 1_000_000), 1_000_000)


def _gaps(session: SessionDetail) -> str:
    if not session.missing:
        return _section(
            "Loss", f"None: all events from 1 to {amount(session.highest)} have come.", ""
        )
    rows = [
        f'<tr><td class="number">{amount(first)}</td><td class="number">{amount(last)}</td>'
        f'<td class="number loss">{amount(last - first + 1)}</td></tr>'
        for first, last in session.gaps
    ]
    told = sum(last - first + 1 for first, last in session.gaps)
    note = "" if told == session.missing else '<p class="note">There are more, further on.</p>'
    return _section(
        "Loss",
        f"Of the events 1 to {amount(session.highest)}, {amount(session.missing)} have not come.",
        charts.gap_strip(session.gaps, session.highest)
        + _table(["#First missing", "#Last missing", "#Events"], rows, "narrow")
        + note,
    )


def _sessions(report: Report) -> str:
    rows = []
    for session in report.sessions:
        lost = "0"
        if session.missing:
            part = share(session.missing, session.events + session.missing)
            lost = f'<span class="loss">{amount(session.missing)}</span> ({part})'
        rows.append(
            f'<tr><td><span class="id">{in_html(session.session_id, 64)}</span></td>'
            f"<td>{in_html(session.version, 32) if session.version is not None else ''}</td>"
            f'<td class="nowrap">{moment(session.first_timestamp)}</td>'
            f'<td class="number">'
            f"{duration(session.last_timestamp - session.first_timestamp)}</td>"
            f'<td class="number">{amount(session.events)}</td>'
            f'<td class="number">{lost}</td><td>{_listed(session.gaps)}</td>'
            f'<td class="number">{amount(session.repeats)}</td></tr>'
        )
    table = _table(
        ["Session", "Version", "Began", "#Duration", "#Events", "#Lost", "Gaps", "#Repeats"], rows
    )
    more = report.session_count - len(report.sessions)
    note = f'<p class="note">And {amount_of(more, "earlier session")}.</p>' if more else ""
    about = "The one heard of last comes first. A gap is a run of numbers that have not come."
    return _section("Sessions and loss", about, table + note)


def _listed(gaps: Sequence[tuple[int, int]]) -> str:
    shown = [
        amount(first) if first == last else f"{amount(first)}\u2013{amount(last)}"
        for first, last in gaps[:_SHOWN_GAPS]
    ]
    return ", ".join(shown) + (", …" if len(gaps) > _SHOWN_GAPS else "")


def _rejected(messages: Sequence[RejectedMessage], count: int) -> str:
    rows = [
        f'<tr><td class="nowrap">{moment(message.received)}</td>'
        f"<td>{in_html(message.reason)}</td><td><code>{in_html(message.text)}</code></td></tr>"
        for message in messages
    ]
    more = count - len(messages)
    note = f'<p class="note">And {amount_of(more, "earlier one")}.</p>' if more else ""
    return _section(
        "Rejected",
        "What came, from whichever session, and was no event; the newest first.",
        _table(["Came", "Reason", "How it begins"], rows) + note,
    )


def _section(heading: str, about: str, body: str) -> str:
    return f'<section><h2>{heading}</h2><p class="note">{about}</p>{body}</section>\n'


def _table(headings: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table; the headings of numbers begin with ``#``."""
    head = "".join(
        f'<th class="number">{text[1:]}</th>' if text.startswith("#") else f"<th>{text}</th>"
        for text in headings
    )
    body = "".join(rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
