"""Wires the parts of the collector together."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp

from .alerting import Alerting
from .alerts import Conditions
from .answers.asking import best_backend
from .http import static
from .http.access import Access
from .http.answers import Answers
from .http.api import Api
from .http.application import application
from .http.from_database import database_sources
from .http.live import Live
from .http.metrics import Metrics
from .http.query import DatabaseRunner, Queries
from .ingest import Ingest, Limits
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
        public_url: the address of the page for people, which alerts name; None for that of the
            machine.
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
        public_url: str | None = None,
    ) -> None:
        self._public_url = public_url
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
        sources = database_sources(database, self.ingest, space)
        self._answers = Answers(sources, best_backend())
        self._queries = Queries(DatabaseRunner(database, self.ingest))
        self._api = api = Api(
            sources,
            self.storage,
            self.live,
            self.metrics,
            more=[*self._answers.routes, *self._queries.routes],
            deleter=self.storage,
            allow_reset=allow_reset,
        )
        routes = [*self.ingest.routes, *api.routes, *static.routes]
        self._access = application(routes, access, self.metrics.record_refusal)
        self.app: ASGIApp = self._access

    def _connections(self) -> int:
        return self.ingest.connections

    def _on_stored(self, stored: Stored) -> None:
        self.metrics.record(stored)
        self.live.record(stored)
        self.alerting.record(stored)

    def start(self, url: str) -> None:
        """Begin to watch for alerts, now that the page has an address."""
        self.alerting.start(self._public_url or url)

    async def close(self) -> None:
        """Store and acknowledge what was received, and close all clients and viewers."""
        self._access.close()
        self.live.close()
        self._api.close()
        self._answers.close()
        self._queries.close()
        await self.ingest.close()
