"""The steps of a check, from the URL to a confirmed event.

Each does what a game does, with the SDK's own code where possible. So the results hold for
games on this machine: the proxies of the environment, the certificates that the system trusts,
and the operator's kill switch all count.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

from ..._compression import supported
from ..._network.contract import ConnectionLost, Endpoint, LostKind, os_error_text
from ..._network.dial import default_ssl_context
from ..._network.proxy import Proxy, ProxyError, find_proxy
from ..._network.websocket import WebSocketConnection, open_websocket
from ..._shared import CHECK_TYPE, is_loopback, monotonic
from ...errors import SettingsError
from ...settings import TelemetrySettings, is_killed
from .._terminal import printable
from . import advice, probes
from .event import CHECK_HEADERS, send_event
from .result import CheckResult, Status, failed, ok, skipped, warning

__all__ = ["Checkup"]

_PINGS = 5
_RENEWAL_DAYS = 14
_CLOSE_REASON_LENGTH = 150  # characters shown
_UNAUTHORIZED = (401, 403)


class Checkup:
    """Checks one server, once.

    Args:
        url: the URL that games send to.
        token: the token that games present. Never shown.
        timeout: seconds for each step.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        self._url = url
        self._token = token
        self._timeout = timeout
        self._proxy: Proxy | None = None
        self._addresses: list[tuple[Any, ...]] = []
        self._connection: WebSocketConnection | None = None
        self._is_forgotten = False  # the event, by a server that promises it
        self._refused_with: int | None = None
        """The HTTP status that refused the handshake because the token is missing or wrong."""
        with contextlib.suppress(ValueError):  # the first step reports it
            parts = urlsplit(url)
            self._is_secure = parts.scheme == "wss"
            self._host = parts.hostname or ""
            self._port = parts.port or (443 if self._is_secure else 80)
            self._path = parts.path or "/"
            self._target = (self._host, self._port, timeout)

    def results(self) -> Generator[tuple[str, CheckResult], None, None]:
        """Take the steps in their order. Those after one that failed are skipped."""
        steps: dict[str, Callable[[], CheckResult]] = {
            "url": self._check_url,
            "proxy": self._find_proxy,
            "name": self._resolve_name,
            "connect": self._connect,
            "tls": self._open_tls,
            "handshake": self._shake_hands,
            "auth": self._check_auth,
            "confirmation": self._check_confirmation,
            "compression": self._check_compression,
            "round trip": self._measure_round_trip,
            "event": self._send_event,
        }
        culprit = ""
        try:
            for name, take in steps.items():
                if culprit:
                    yield name, skipped(f"because {culprit} failed")
                    continue
                result = take()
                if result.state is Status.FAILED:
                    culprit = name
                yield name, result
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # The steps.

    def _check_url(self) -> CheckResult:
        try:
            TelemetrySettings(url=self._url)
        except SettingsError as error:
            scheme = self._url.partition(":")[0].lower()
            other = {"http": "ws", "https": "wss"}.get(scheme)
            hint = (
                f"begin it with {other}:// instead of {scheme}://"
                if other
                else "write it like ws://localhost:3000/telemetry"
            )
            return failed(str(error), hint)
        scheme = "wss" if self._is_secure else "ws"
        detail = f"{scheme}, {self._host}, port {self._port}, path {printable(self._path)}"
        if self._token and not self._is_secure and not is_loopback(self._host):
            hint = "without TLS, the network can read the token and the events: use wss://"
            return warning(detail, hint)
        return ok(detail)

    def _find_proxy(self) -> CheckResult:
        try:
            self._proxy = find_proxy(self._host, self._port, is_secure=self._is_secure)
        except ProxyError as error:
            variable = "HTTPS_PROXY" if self._is_secure else "HTTP_PROXY"
            hint = f"check {variable} and ALL_PROXY; NO_PROXY lists hosts that need no proxy"
            return failed(str(error), hint)
        if self._proxy is None:
            return ok("none; connecting directly")
        shown = printable(f"{self._proxy.host}:{self._proxy.port}")
        return ok(f"tunnel through {shown}, set in the environment")

    @property
    def _next_hop(self) -> tuple[str, int]:
        if self._proxy is not None:
            return self._proxy.host, self._proxy.port
        return self._host, self._port

    def _resolve_name(self) -> CheckResult:
        host, port = self._next_hop
        began = monotonic()
        try:
            self._addresses = probes.resolve(host, port, self._timeout)
        except (OSError, UnicodeError) as error:
            fault = "was not resolved in time" if _timed_out(error) else "can't be resolved"
            subject = "the proxy's name" if self._proxy else "the name"
            hint = "is it spelled correctly, and is this machine online? Try the IP address"
            return failed(f"{subject} {printable(host)} {fault}", hint)
        listed = ", ".join(str(address[4][0]) for address in self._addresses)
        return ok(f"{printable(host)} is {listed} ({_since(began)})")

    def _connect(self) -> CheckResult:
        seen, errors = [], []
        for family, kind, proto, _, address in self._addresses:
            began = monotonic()
            with socket.socket(family, kind, proto) as sock:
                sock.settimeout(self._timeout)
                try:
                    sock.connect(address)
                except OSError as error:
                    errors.append(error)
                    fault = "no answer" if _timed_out(error) else os_error_text(error)
                    seen.append(f"{address[0]}: {fault}")
                else:
                    seen.append(f"{address[0]} in {_since(began)}")
        detail = "; ".join(seen)
        if len(errors) == len(self._addresses):
            is_proxy = self._proxy is not None
            hint = advice.about_tcp(errors[-1], self._next_hop[1], is_proxy=is_proxy)
            return failed(detail, hint)
        if any(map(_timed_out, errors)):
            hint = "games try the addresses in turn and lose time on those that don't answer"
            return warning(detail, hint)
        return ok(detail)

    def _open_tls(self) -> CheckResult:
        if not self._is_secure:
            return skipped("ws:// is not encrypted")
        try:
            sock = probes.open_tls(self._host, self._port, default_ssl_context(), self._timeout)
        except ConnectionLost as lost:
            if lost.kind in (LostKind.TLS, LostKind.TIMEOUT) and probes.speaks_http(*self._target):
                hint = "the server does not speak TLS: begin the URL with ws:// instead of wss://"
                return failed(str(lost), hint)
            return self._failure(lost)
        with contextlib.closing(sock):
            certificate = sock.tls.getpeercert() or {}
            version = sock.tls.version()
        days = probes.days_left(certificate)
        detail = (
            f"{version}, certificate issued by {probes.issuer(certificate)}, valid for {days} "
            f"more day{'' if days == 1 else 's'}"
        )
        if days < _RENEWAL_DAYS:
            return warning(detail, "renew the certificate")
        return ok(detail)

    def _shake_hands(self) -> CheckResult:
        began = monotonic()
        try:
            self._connection = self._open(self._token)
            self._is_forgotten = self._connection.forgets_checks
        except ConnectionLost as lost:
            if lost.status not in _UNAUTHORIZED:
                return self._failure(lost)
            self._refused_with = lost.status
            return ok(f"the server answers ({_since(began)})")
        return ok(f"WebSocket opened ({_since(began)})")

    def _open(self, token: str | None) -> WebSocketConnection:
        deadline = monotonic() + self._timeout
        endpoint = Endpoint(self._url, token=token, encodings=supported(), headers=CHECK_HEADERS)
        return open_websocket(endpoint, probes.wait, deadline)

    def _check_auth(self) -> CheckResult:
        if self._refused_with is not None:
            status = f"HTTP status {self._refused_with}"
            if self._token:
                hint = (
                    "is it the complete token that the server was started with, without spaces? "
                    "A collector with two wants that of games here, not its --read-token"
                )
                return failed(f"the server rejected the token ({status})", hint)
            hint = "set it with --token or REDVSBLUE_TELEMETRY_TOKEN"
            return failed(f"the server requires a token ({status})", hint)
        if not self._token:
            return ok("the server requires no token")
        try:
            self._open(None).close()
        except ConnectionLost as lost:
            is_required = " and requires one" if lost.status in _UNAUTHORIZED else ""
            return ok(f"the server accepts the token{is_required}")
        return warning(
            "the server accepts the token, but also clients without one",
            "start it with a token, unless anyone may send",
        )

    def _check_confirmation(self) -> CheckResult:
        assert self._connection is not None
        if self._connection.has_acks:
            return ok("by acks: events are confirmed once they are stored")
        return ok("by pongs: events are confirmed on receipt, maybe before they are stored")

    def _check_compression(self) -> CheckResult:
        assert self._connection is not None
        if self._connection.encoding is not None:
            return ok(f"by {self._connection.encoding}")
        return ok(f"none; the server picked none of {', '.join(supported())}")

    def _measure_round_trip(self) -> CheckResult:
        assert self._connection is not None
        times = []
        for number in range(_PINGS):
            try:
                times.append(probes.ping(self._connection, b"check %d" % number, self._timeout))
            except TimeoutError:
                return failed(
                    f"no pong within {self._timeout:g} s",
                    "WebSocket servers must answer pings (RFC 6455, section 5.5.2): does a proxy "
                    "hold them back, or has the server stopped reading?",
                )
            except ConnectionLost as lost:
                return self._failure(lost)
        self._disconnect()
        median = _milliseconds(statistics.median(times))
        return ok(f"{median} (median of {_PINGS} pings)")

    def _send_event(self) -> CheckResult:
        if is_killed(os.environ):
            return failed(
                "games on this machine send nothing: telemetry is disabled in the environment",
                "unset DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY, whichever disables it",
            )
        try:
            seconds = send_event(self._url, self._token, self._timeout)
        except ConnectionLost as lost:
            return self._failure(lost, "the event was not confirmed: ")
        fate = "; the server does not keep it" if self._is_forgotten else "; the server keeps it"
        return ok(f"{CHECK_TYPE} sent and confirmed ({_milliseconds(seconds)}){fate}")

    # Failures.

    def _failure(self, lost: ConnectionLost, prefix: str = "") -> CheckResult:
        detail = f"{prefix}{lost}"
        if lost.close_reason:
            reason = lost.close_reason
            if self._token:  # the server may repeat it
                reason = reason.replace(self._token, "…")
            detail = f'{detail}, reason "{printable(reason, _CLOSE_REASON_LENGTH)}"'
        return failed(detail, self._advice(lost))

    def _advice(self, lost: ConnectionLost) -> str:
        """Return advice, after probing for likely mistakes."""
        if lost.kind is LostKind.REDIRECT:
            target = "" if self._proxy else probes.redirect_target(self._url, self._timeout)
            shown = f", {printable(target)} (with ws for http)" if target else ""
            return (
                "games don't follow redirects, which could send the token to another server: give "
                f"them the final URL{shown}"
            )
        unclear = lost.kind in (LostKind.HANDSHAKE, LostKind.TIMEOUT)
        if unclear and not self._is_secure and probes.speaks_tls(*self._target):
            return "the server speaks TLS: begin the URL with wss:// instead of ws://"
        hint = advice.about(
            lost, host=self._host, is_secure=self._is_secure, health_url=self._health_url
        )
        if lost.verify_code in advice.WRONG_NAME:
            names = probes.certificate_names(*self._target)
            return f"{hint} (it is for {names})" if names else hint
        return hint

    @property
    def _health_url(self) -> str:
        parts = urlsplit(self._url)
        scheme = "https" if self._is_secure else "http"
        return printable(f"{scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}/healthz")


def _timed_out(error: Exception) -> bool:
    return isinstance(error, TimeoutError)


def _since(began: float) -> str:
    return _milliseconds(monotonic() - began)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.{2 if seconds < 0.001 else 1}f} ms"
