"""The exceptions that the library raises in its caller's code."""

from __future__ import annotations

from ._shared import PicklableError, keep_on_reload

__all__ = ["InvalidEventError", "SettingsError", "TelemetryError"]


@keep_on_reload
class TelemetryError(PicklableError):
    """Base class of all exceptions that this library raises."""


@keep_on_reload
class SettingsError(TelemetryError):
    """A setting has a value that is not allowed, or does not exist.

    Attributes:
        field: the name of the setting, as in :class:`TelemetrySettings`.
        variable: the environment variable that set it; None for a keyword argument.
        allowed: the rule for its value, such as "must be True or False".
    """

    def __init__(
        self, message: str, *, field: str, variable: str | None = None, allowed: str = ""
    ) -> None:
        super().__init__(message)
        self.field = field
        self.variable = variable
        self.allowed = allowed


@keep_on_reload
class InvalidEventError(TelemetryError):
    """An event can't be sent: it has no type, can't be encoded or is too large.

    Raised only if ``strict`` is set. Otherwise the event is counted in ``rejected``.

    Attributes:
        event_type: the event's type, as far as it is known.
        path: the place of the fault in the event, such as ``data.ships[3].target``.
        reason: the fault.
    """

    def __init__(self, event_type: str, path: str, reason: str) -> None:
        super().__init__(f"event {event_type!r}: {path}: {reason}")
        self.event_type = event_type
        self.path = path
        self.reason = reason
