"""Wires the parts of the collector together."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from .alerting import Alerting
from .alerts import Conditions
from .http import static
from .http.access import Access, AccessControl
from .http.api import Api
from .http.live import Live
from .http.metrics import Metrics
from .http.responses import ERROR_HANDLERS
from .ingest import Ingest, Limits, require_upgrade
from .storage.building import Building
from .storage.counting import Backfill, RollUp
from .storage.database import Database
from .storage.retention import Retention
from .storage.space import Space
from .storage.textindex import TextIndex
from .storage.thread import WriterThread
from .storage.upkeep import Keep
from .storage.writer import Check, Stored

__all__ = ["Collector"]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # HEAD comes with GET


_DEFAULT_CONDITIONS = Conditions()


class Collector:
    """A collector without its port. Created, used and closed on the event loop's thread.

    Args:
        database: where events are stored.
        access: the rules for requests.
        limits: the limits on clients.
        allow_reset: whether the API may delete everything.
        check: finds the faults of new events; see :data:`.storage.writer.Check`.
        keep: for how long events are kept.
        max_bytes: the most that the database may take up.
        alerts: the URLs to post alerts to.
        conditions: when to post them.
    """

    def __init__(
        self,
        database: Database,
        *,
        access: Access,
        limits: Limits,
        allow_reset: bool = False,
        check: Check | None = None,
        keep: Keep | None = None,
        max_bytes: int | None = None,
        alerts: Sequence[str] = (),
        conditions: Conditions = _DEFAULT_CONDITIONS,
    ) -> None:
        self.live = Live(self._connections)
        self.metrics = Metrics(
            self._connections, lambda: self.live.viewers, lambda: self.alerting.firing
        )
        space = Space(database, keep, max_bytes)
        self.storage = WriterThread(
            database,
            self._on_stored,
            self.metrics.record_failure,
            check,
            upkeep=[
                Retention(database, keep, max_bytes),
                Backfill(),
                RollUp(),
                TextIndex(),
                Building(),
                space,
            ],
        )
        self.alerting = Alerting(
            alerts,
            conditions,
            disk_is_low=lambda: space.is_low,
            is_storing=lambda: self.storage.last_error is None,
            on_outcome=self.metrics.record_alert,
        )
        self.ingest = Ingest(self.storage, limits, self.metrics.record_message)
        self._api = api = Api(
            database,
            self.storage,
            self.ingest,
            self.live,
            self.metrics,
            space,
            allow_reset=allow_reset,
        )
        routes = [
            WebSocketRoute("/telemetry", self.ingest.serve),
            Route("/telemetry", require_upgrade, methods=_METHODS),
            *api.routes,
            *static.routes,
        ]
        starlette = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        # A redirect's target would be built from the Host and path that the client sent.
        starlette.router.redirect_slashes = False
        self._access = AccessControl(starlette, access, self.metrics.record_refusal)
        self.app: ASGIApp = self._access

    def _connections(self) -> int:
        return self.ingest.connections

    def _on_stored(self, stored: Stored) -> None:
        self.metrics.record(stored)
        self.live.record(stored)
        self.alerting.record(stored)

    async def close(self) -> None:
        """Store and acknowledge what was received, and close all clients and viewers."""
        self._access.close()
        self.live.close()
        self._api.close()
        await self.ingest.close()
