"""The exceptions that the library raises into its caller's code, all of them on purpose."""

from __future__ import annotations

__all__ = ["InvalidEventError", "SettingsError", "TelemetryError"]


class TelemetryError(Exception):
    """Base class of everything that this library raises."""


class SettingsError(TelemetryError):
    """A setting has a value that isn't allowed.

    Attributes:
        field: the name of the setting, as in :class:`TelemetrySettings`.
        variable: the environment variable that the value came from; None for a keyword argument.
    """

    def __init__(self, message: str, *, field: str, variable: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.variable = variable


class InvalidEventError(TelemetryError):
    """An event can't be sent: it has no type, can't be encoded, or is too large.

    Raised only where ``strict`` is set; otherwise the event is counted in ``rejected``.

    Attributes:
        event_type: the event's type as far as it is known.
        path: where in the event the fault is, such as ``data.ships[3].target``.
        reason: what is wrong there.
    """

    def __init__(self, event_type: str, path: str, reason: str) -> None:
        super().__init__(f"event {event_type!r}: {path}: {reason}")
        self.event_type = event_type
        self.path = path
        self.reason = reason
