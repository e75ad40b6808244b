"""The result of a step of a check."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["CheckResult", "Status", "failed", "ok", "skipped", "warning"]


class Status(str, enum.Enum):
    """How a step went."""

    OK = "ok"
    WARNING = "warning"
    """It works, but needs attention."""
    FAILED = "failed"
    SKIPPED = "skipped"


class CheckResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a step went, with the observations and, if anything is wrong, advice."""

    state: Status
    detail: str
    advice: str = ""


def ok(detail: str) -> CheckResult:
    """Return the result of a step that went well."""
    return CheckResult(Status.OK, detail)


def warning(detail: str, advice: str) -> CheckResult:
    """Return the result of a step that went well enough."""
    return CheckResult(Status.WARNING, detail, advice)


def failed(detail: str, advice: str) -> CheckResult:
    """Return the result of a step that failed."""
    return CheckResult(Status.FAILED, detail, advice)


def skipped(detail: str) -> CheckResult:
    """Return the result of a step that was not taken."""
    return CheckResult(Status.SKIPPED, detail)
