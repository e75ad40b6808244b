"""Runs a collector: one event loop, one port, and an orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from starlette.types import ASGIApp

from .._schema import SchemaError
from .._shared import is_loopback
from ..settings import is_token
from .alerting import Alerting, try_webhooks
from .alerts import WINDOW, Conditions
from .app import Collector
from .checking import Checker, read_checker
from .connections import GOODBYE_TIMEOUT, Config, Server
from .http.access import Access
from .ingest import Limits
from .storage.database import Database, DatabaseError
from .storage.queries import newest_ends
from .storage.reports import End
from .storage.retention import LEAST_MAX_BYTES
from .storage.upkeep import Keep
from .tls import Certificate, CertificateError
from .webhook import url_fault

__all__ = [
    "IN_MEMORY",
    "Options",
    "OptionsError",
    "Service",
    "collector_running",
    "serve",
    "telemetry_url",
    "test_alerts",
]

logger = logging.getLogger("redvsblue_telemetry.collector")

IN_MEMORY = ":memory:"
"""The name of a temporary database on the command line and in tests, after SQLite's."""
_DEFAULT_MAX_MESSAGE_BYTES = 1024 * 1024
_CLOSE_TIMEOUT = 10.0  # seconds for all clients to get their acks and their close
_MAX_AGE = 1e11  # seconds, three thousand years
_OTHER_CONNECTIONS = 1000  # besides those of games: browsers, and those without a request yet
_OTHER_FILES = 256  # that are not connections


class OptionsError(Exception):
    """The collector can't start with these options; the message says why and what to do."""


class Options(msgspec.Struct, kw_only=True):
    """How a collector runs."""

    host: str = "127.0.0.1"
    port: int = 3000
    """0 picks a free port."""
    db: Path | None = Path("telemetry.sqlite3")
    """The database file; None keeps the data in a temporary file until the collector ends."""
    token: str | None = None
    insecure: bool = False
    """Whether other machines may connect without a token."""
    hosts: tuple[str, ...] = ()
    """Names that a request may use for this server, besides addresses and ``localhost``."""
    allow_reset: bool = False
    max_connections: int = 2000
    max_rate: float = 50_000.0
    """Events per second that one connection may send."""
    max_message_bytes: int = _DEFAULT_MAX_MESSAGE_BYTES
    """Of one message, and of the text that a compressed one unpacks to."""
    busy_timeout: float = 5.0
    """Seconds to wait while another program has the database locked. A client waits for an ack
    for its ``confirm_timeout``, 10 seconds by default."""
    schema: Path | None = None
    """The file of ``redvsblue-telemetry schema`` that events are checked against."""
    read_token: str | None = None
    """What people present, for the page and the API. Games present ``token``, and with this one
    set, ``token`` opens nothing but ``/telemetry``: games are in players' hands."""
    trust_proxy: bool = False
    """Whether to believe the ``X-Forwarded-*`` headers of a request."""
    tls_cert: Path | None = None
    """The certificate chain to serve TLS with, in PEM."""
    tls_key: Path | None = None
    """The private key of the certificate, in PEM; None if it is in the same file."""
    keep: Keep = Keep()
    max_bytes: int | None = None
    """The most bytes that the database may use; the oldest events are deleted beyond it."""
    alerts: tuple[str, ...] = ()
    """URLs to post alerts to. They are secrets: anyone who knows one can post."""
    alert_when: Conditions = Conditions()
    """When to post alerts."""
    public_url: str | None = None
    """The address of the page for people, which alerts name; None for that of the machine."""

    def check(self) -> None:
        """Check that a collector can run with these options.

        Raises:
            OptionsError: it can't.
        """
        if self.token is not None:
            self._check_token("token", self.token)
        if self.read_token is not None:
            self._check_token("read token", self.read_token)
            if self.token is None:
                raise OptionsError("--read-token needs --token, too: without it, anybody can write")
            if self.token == self.read_token:
                raise OptionsError(
                    "the token and the read token are the same; set two, or only one"
                )
        self.check_reach(self.host)
        if not 0 <= self.port <= 65_535:
            raise OptionsError(f"port is {self.port}; it must be 0 to 65535")
        for name in ("max_connections", "max_rate", "max_message_bytes"):
            if not getattr(self, name) > 0:  # catches NaN, too
                raise OptionsError(f"{name} is {getattr(self, name)}; it must be more than 0")
        for number, url in enumerate(self.alerts, 1):
            if (fault := url_fault(url)) is not None:  # it is a secret, so it is not quoted
                which = f" number {number}" if len(self.alerts) > 1 else ""
                raise OptionsError(f"the URL{which} for alerts can't be used: {fault}")
        if self.public_url is not None and (fault := url_fault(self.public_url)) is not None:
            raise OptionsError(f"public_url is {self.public_url!r}; {fault}")
        if self.tls_key is not None and self.tls_cert is None:
            raise OptionsError("--tls-key needs --tls-cert, the certificate that the key is for")
        ages = [] if self.keep.age is None else [self.keep.age]
        if not all(0 < age < _MAX_AGE for age in (*ages, *self.keep.by_type.values())):
            raise OptionsError(
                "events must be kept for more than 0 seconds; without --keep, they are kept forever"
            )
        if self.max_bytes is not None and self.max_bytes < LEAST_MAX_BYTES:
            raise OptionsError(
                f"max_bytes is {self.max_bytes:,}; it must be at least {LEAST_MAX_BYTES:,}, since "
                "a part of it is for the log of the database"
            )

    def access(self) -> Access:
        """Return the rules for requests."""
        return Access(
            self.token,
            (*self.hosts, self.host),
            read_token=self.read_token,
            trust_proxy=self.trust_proxy,
        )

    def limits(self) -> Limits:
        """Return the limits on clients."""
        return Limits(
            connections=self.max_connections,
            rate=self.max_rate,
            message_bytes=self.max_message_bytes,
        )

    def certificate(self) -> Certificate | None:
        """Return the certificate to serve TLS with; None without TLS.

        Raises:
            OptionsError: its files can't be used.
        """
        if self.tls_cert is None:
            return None
        try:
            return Certificate(self.tls_cert, self.tls_key)
        except CertificateError as error:
            raise OptionsError(str(error)) from error

    def _check_token(self, name: str, token: str) -> None:
        if not token.strip():
            raise OptionsError(f"the {name} is empty; set one, or don't pass it at all")
        if token != token.strip():
            raise OptionsError(
                f"the {name} starts or ends with whitespace, which no client can send"
            )
        if not is_token(token):
            raise OptionsError(f"the {name} must be printable ASCII, as HTTP headers require")

    def check_reach(self, host: str) -> None:
        """Check that other machines can't connect at a host or address, unless that is allowed.

        Raises:
            OptionsError: they could.
        """
        if self.token or self.insecure:
            return
        if not is_loopback(host):
            raise OptionsError(
                f"other machines can reach {host}; pass --token, "
                "or --insecure to let anyone read and write"
            )
        if self.trust_proxy:
            raise OptionsError(
                "with --trust-proxy, others reach the collector through the proxy; pass --token, "
                "or --insecure to let anyone read and write"
            )

    def __repr__(self) -> str:
        """Omits the token."""
        return f"{type(self).__name__}(host={self.host!r}, port={self.port}, db={self.db!r}, ...)"


class Service(Protocol):
    """The service on the port: a collector, or another one in its place."""

    @property
    def app(self) -> ASGIApp:
        """The application that answers."""

    def start(self, url: str) -> None:
        """Called once connections are accepted, with the URL of the page."""

    async def close(self) -> None:
        """Store and acknowledge all received messages, and close all connections."""


@contextlib.asynccontextmanager
async def collector_running(options: Options) -> AsyncIterator[Collector]:
    """A collector with its database.

    Raises:
        OptionsError: it can't run with these options.
        DatabaseError: the database can't be used.
    """
    check = None if options.schema is None else _read_checker(options.schema).fault
    database = Database(options.db, busy_timeout=options.busy_timeout)
    try:
        collector = Collector(
            database,
            access=options.access(),
            limits=options.limits(),
            allow_reset=options.allow_reset,
            check=check,
            keep=options.keep,
            max_bytes=options.max_bytes,
            alerts=options.alerts,
            conditions=options.alert_when,
            public_url=options.public_url,
        )
        try:
            if options.alerts:
                await _resume_alerts(database, collector.alerting)
            yield collector
        finally:
            await collector.alerting.close()
            await collector.storage.close()
    finally:
        database.close()


async def serve(
    options: Options,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] = lambda _: None,
    certificate: Certificate | None = None,
    running: Callable[[Options], AbstractAsyncContextManager[Service]] = collector_running,
) -> None:
    """Run a collector until it is stopped.

    Everything received by then is stored and acknowledged, and the clients are closed with 1001.

    Args:
        options: how it runs.
        stop: set to stop it.
        on_ready: called with the URL of its page once it accepts connections.
        certificate: that of the options, for a caller who wants to reload it.
        running: sets up the service.

    Raises:
        OptionsError: it can't run with these options, or the port is taken.
        DatabaseError: the database can't be used.
    """
    options.check()
    certificate = certificate or options.certificate()
    listener = _listen(options)
    with contextlib.closing(listener):
        async with running(options) as service:
            server = _server(options, service, listener, certificate)
            serving = asyncio.create_task(server.serve())
            starting = asyncio.create_task(server.ready.wait())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([serving, starting], return_when=asyncio.FIRST_COMPLETED)
                if not serving.done():
                    url = _url(options, listener)
                    service.start(url)
                    on_ready(url)
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                starting.cancel()
                stopping.cancel()
                await _close(service, server)
                await serving


def _server(
    options: Options,
    service: Service,
    listener: socket.socket,
    certificate: Certificate | None,
) -> Server:
    config = Config(
        service.app,
        ws_max_size=options.max_message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # see http/forwarded.py
        timeout_graceful_shutdown=math.ceil(GOODBYE_TIMEOUT),
    )
    context = None if certificate is None else lambda: certificate.context
    return Server(config, listener, options.max_connections + _OTHER_CONNECTIONS, context)


async def _close(service: Service, server: Server) -> None:
    try:
        await asyncio.wait_for(service.close(), _CLOSE_TIMEOUT)
    except asyncio.TimeoutError:
        logger.warning("clients still connected after %g s; closing them", _CLOSE_TIMEOUT)
    await server.wait_for_goodbyes()
    server.should_exit = True


async def test_alerts(options: Options) -> list[tuple[str, str | None]]:
    """Post a test to each URL for alerts; return their hosts, and why one did not take it.

    Raises:
        OptionsError: a collector can't run with these options.
    """
    options.check()
    return await try_webhooks(options.alerts, options.public_url or "")


async def _resume_alerts(database: Database, alerting: Alerting) -> None:
    """Give alerts the sessions that ended in their time before this process."""
    since = time.time_ns() // 1_000_000 - int(WINDOW * 1000)

    def read() -> tuple[list[tuple[int, End]], int | None]:
        with database.reading() as connection:
            return newest_ends(connection, since)

    with contextlib.suppress(DatabaseError, sqlite3.Error):  # alerts can do without
        alerting.resume(*await asyncio.to_thread(read))


def _read_checker(path: Path) -> Checker:
    try:
        return read_checker(path)
    except SchemaError as error:
        raise OptionsError(str(error)) from error


def _listen(options: Options) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        other = "--host" if isinstance(error, socket.gaierror) else "--port"
        raise OptionsError(
            f"cannot listen on {options.host}:{options.port}: {reason}; choose another {other}"
        ) from error
    try:
        options.check_reach(listener.getsockname()[0])  # a name can resolve to any address
    except OptionsError:
        listener.close()
        raise
    _allow_files(options.max_connections + _OTHER_CONNECTIONS + _OTHER_FILES)
    return listener


def _allow_files(count: int) -> None:
    """Raise the limit on open files to the count, if it is lower and may be raised."""
    try:
        import resource  # noqa: PLC0415  # not on Windows, which has no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft not in (resource.RLIM_INFINITY, allowed) and soft < allowed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def telemetry_url(page: str) -> str:
    """Return the URL that games send to, given that of the collector's page."""
    parts = urlsplit(page)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return f"{scheme}://{parts.netloc}/telemetry"


def _url(options: Options, listener: socket.socket) -> str:
    scheme = "http" if options.tls_cert is None else "https"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}/"
