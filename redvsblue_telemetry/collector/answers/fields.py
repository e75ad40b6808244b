"""The fields that there are: of the data of a type's events, and of contexts."""

from __future__ import annotations

from collections import Counter

import msgspec

from ..models import context_fields
from .backend import Backend
from .questions import FieldPage, Fields, KnownField
from .sql import as_shown, check_type

__all__ = ["fields"]

_SAMPLE = 1000  # of the newest events, whose contexts are looked at
_EXAMPLES = 5
_MAX_LENGTH = 200  # characters of an example


def fields(backend: Backend, question: Fields) -> FieldPage:
    """Return the fields of a type, the most frequent first, and then those of contexts."""
    found: list[KnownField] = []
    if question.type is not None:
        check_type(backend, question.type)
        found = [
            KnownField(each.name, each.kind, each.share, [*map(as_shown, each.examples)])
            for each in backend.fields(question.type)
        ]
    return FieldPage(found + _of_contexts(backend, question.type))


def _of_contexts(backend: Backend, type_name: str | None) -> list[KnownField]:
    """Return the fields of contexts; their shares are those of the newest events."""
    sample = backend.newest_contexts(type_name, _SAMPLE)
    sample.sort(key=lambda each: (-each[1], each[0] or ""))  # the same order with any engine
    counts: Counter[str] = Counter()
    examples: dict[str, dict[str, None]] = {}
    for text, count in sample:
        context = msgspec.UNSET if text is None else msgspec.Raw(text.encode())
        for name, value in context_fields(context).items():
            counts[name] += count
            examples.setdefault(name, {})[value[:_MAX_LENGTH]] = None
    total = sum(count for _, count in sample) or 1
    names = dict.fromkeys(name for name, _ in counts.most_common())
    if type_name is None:
        names |= dict.fromkeys(backend.context_names())
    return [
        KnownField(
            f"context.{name}", "text", counts[name] / total, [*examples.get(name, {})][:_EXAMPLES]
        )
        for name in names
    ]
