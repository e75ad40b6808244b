"""Wires the parts of a view together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

from ...collector.http import static
from ...collector.http.access import Access
from ...collector.http.answers import Answers
from ...collector.http.api import Api
from ...collector.http.application import application
from ...collector.http.live import Live
from ...collector.http.metrics import Metrics
from ...collector.http.query import Queries
from ...collector.server import Options, OptionsError
from ..lake.errors import LakeError
from ..lake.reading import MEMORY, private_database
from .answers import CatalogVectors
from .following import Following, News
from .source import LakeRunner, lake_sources

__all__ = ["View", "view_running"]


class View:
    """A view without its port. Created, used and closed on the event loop's thread.

    Args:
        following: the lake, which is not followed yet.
        live: the live stream.
        access: the rules for requests.
    """

    def __init__(self, following: Following, live: Live, access: Access) -> None:
        self.live = live
        self.metrics = Metrics(lambda: 0, lambda: live.viewers, more=[_LakeMetrics(following)])
        sources = lake_sources(following)
        self._answers = Answers(sources, CatalogVectors)
        self._queries = Queries(LakeRunner(following))
        self._api = api = Api(
            sources,
            following,
            live,
            self.metrics,
            more=[*self._answers.routes, *self._queries.routes],
            trouble="the lake can't be read",
        )
        self._access = application(
            [*api.routes, *static.routes], access, self.metrics.record_refusal
        )
        self.app: ASGIApp = self._access

    def start(self, url: str) -> None:
        """Do nothing: a view posts no alerts, which would need its address."""

    async def close(self) -> None:
        """Close all viewers, and end what still reads."""
        self._access.close()
        self.live.close()
        self._api.close()
        self._answers.close()
        self._queries.close()


class _LakeMetrics(Collector):
    """The metrics that only a view has."""

    def __init__(self, following: Following) -> None:
        self._following = following

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry would otherwise read it while the view is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        following = self._following
        for name, about, value in (
            ("telemetry_lake_version", "The version that is shown.", following.snapshot.version),
            ("telemetry_lake_bytes", "The size of its files.", following.snapshot.size),
            ("telemetry_lake_readable", "Whether it can be read.", following.last_error is None),
            ("telemetry_lake_look_seconds", "Seconds since the last look at it.", following.age),
        ):
            yield GaugeMetricFamily(name, about, value=float(value))


@contextlib.asynccontextmanager
async def view_running(lake: str, options: Options) -> AsyncIterator[View]:
    """A view of a lake.

    Args:
        lake: a path, or the URL of an object store, such as ``s3://bucket/lake``.
        options: those of a collector; the ones about its database and about games have no effect.

    Raises:
        OptionsError: it can't run with these options.
    """
    live = Live(lambda: 0)

    def show(news: News) -> None:
        live.add(news.sample, news.by_type, news.repeats, news.rejected)

    with private_database(MEMORY) as connection:
        following = Following(lake, connection, show)
        try:
            await following.start()
            yield View(following, live, options.access())
        except LakeError as error:
            raise OptionsError(str(error)) from error
        finally:
            await asyncio.shield(following.close())
