"""Pieces of HTML. Only :func:`in_html` writes texts from events."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from .._terminal import printable

__all__ = ["card", "cards", "cut", "in_html", "note", "section", "table"]


def in_html(text: str, limit: int = 200) -> str:
    """Return the text, shortened, as HTML that can't affect the text around it."""
    return f"<bdi>{html.escape(printable(text, limit))}</bdi>"


def cut(text: str) -> str:
    """Return a text that a style cuts off if it is long, with all of it as the tooltip."""
    return f'<span class="cut" title="{html.escape(text)}">{html.escape(text)}</span>'


def section(heading: str, about: str, body: str) -> str:
    """Return a section with a heading and a note below it."""
    # On a phone, a wide table scrolls in it; without a tab stop, the keyboard could not.
    return f'<section tabindex="0"><h2>{heading}</h2>{note(about)}{body}</section>\n'


def note(text: str) -> str:
    """Return a paragraph of small print."""
    return f'<p class="note">{text}</p>'


def cards(parts: Sequence[str]) -> str:
    """Return a row of cards."""
    return f'<div class="cards">{"".join(parts)}</div>\n'


def card(label: str, value: str, kind: str = "") -> str:
    """Return a value with its label; the kind is a CSS class."""
    return f'<div class="card {kind}"><b>{value}</b><span>{label}</span></div>'


def table(headings: Mapping[str, str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table with these headings; the value of each is the CSS class of its column."""
    head = "".join(
        f'<th class="{column}">{text}</th>' if text else f'<td class="{column}"></td>'
        for text, column in headings.items()
    )
    body = "".join(f"<tr>{''.join(map(_cell, headings.values(), row))}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(column: str, content: str) -> str:
    return f'<td class="{column}">{content}</td>'
