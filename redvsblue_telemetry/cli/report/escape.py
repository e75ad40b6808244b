"""Text from strangers, made fit to be shown: no longer than is of use, and harmless."""

from __future__ import annotations

import html

from ..._shared import escape

__all__ = ["in_html", "plain"]


def plain(text: str, limit: int = 200) -> str:
    """The text in one line, with what can't be seen written out.

    Args:
        text: from anywhere.
        limit: characters of it that are kept.
    """
    return escape(text) if len(text) <= limit else f"{escape(text[:limit])}…"


def in_html(text: str, limit: int = 200) -> str:
    """The text for a page: none of it is taken for HTML, nor turns what is around it."""
    return f"<bdi>{html.escape(plain(text, limit))}</bdi>"
