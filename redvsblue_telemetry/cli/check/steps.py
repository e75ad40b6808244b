"""The steps of a check: from the URL to an event that is confirmed.

Each does what a game does, by the SDK's own means where it has them, so what is found here holds
for games on this machine: the proxies of the environment, the certificates that the system trusts,
and the operator's kill switch.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

from ..._network.contract import ConnectionLost, Endpoint, FrameKind, os_error_text
from ..._network.dial import default_ssl_context
from ..._network.proxy import Proxy, ProxyError, find_proxy
from ...errors import SettingsError
from ...settings import TelemetrySettings, is_killed
from ..report.escape import plain
from . import advice
from .event import send_event
from .probes import (
    WatchedConnection,
    answers_plainly,
    answers_tls,
    looked_up,
    milliseconds,
    names_in_certificate,
    open_tls,
    open_watched,
    redirect_of,
    since,
    wait,
)
from .result import Finding, Problem, State

__all__ = ["Checkup"]

_PINGS = 5
_SOON = 14  # days before its end at which a certificate is worth a word
_REASON = 150  # characters of what a server says as it closes; by the protocol it can't say more
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Checkup:
    """Looks at one server, once.

    Args:
        url: as a game would be given it.
        token: likewise. It is shown nowhere.
        timeout: seconds for each step.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        self._url = url
        self._token = token
        self._timeout = timeout
        self._proxy: Proxy | None = None
        self._addresses: list[tuple[Any, ...]] = []
        self._connection: WatchedConnection | None = None
        self._refused_with: int | None = None  # 401 or 403
        self._has_acks = False
        with contextlib.suppress(ValueError):  # the first step tells of it
            parts = urlsplit(url)
            self._is_secure = parts.scheme == "wss"
            self._host = parts.hostname or ""
            self._port = parts.port or (443 if self._is_secure else 80)
            self._path = parts.path or "/"

    def findings(self) -> Generator[Finding, None, None]:
        """Take the steps in their order; those after one that failed are skipped."""
        steps: dict[str, Callable[[], Finding]] = {
            "url": self._look_at_url,
            "proxy": self._look_for_proxy,
            "name": self._look_up_name,
            "connect": self._connect,
            "tls": self._speak_tls,
            "handshake": self._shake_hands,
            "auth": self._look_at_auth,
            "confirmation": self._look_at_confirmation,
            "round trip": self._measure_round_trip,
            "event": self._send_event,
        }
        failed = ""
        try:
            for name, take in steps.items():
                if failed:
                    yield Finding(name, State.SKIPPED, f"since {failed} failed")
                    continue
                try:
                    finding = take()
                except Problem as problem:
                    failed = name
                    finding = Finding(name, State.FAILED, problem.detail, problem.advice)
                yield finding
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    # The steps.

    def _look_at_url(self) -> Finding:
        try:
            TelemetrySettings(url=self._url)
        except SettingsError as error:
            scheme = self._url.partition(":")[0].lower()
            other = {"http": "ws", "https": "wss"}.get(scheme)
            hint = (
                f"begin it with {other}:// instead of {scheme}://"
                if other
                else "it has to read like ws://localhost:3000/telemetry"
            )
            raise Problem(str(error), hint) from None
        shown = f"{'wss' if self._is_secure else 'ws'}, {self._host}, port {self._port}"
        shown = f"{shown}, path {plain(self._path)}"
        if self._token and not self._is_secure and self._host not in _LOCAL:
            return Finding(
                "url",
                State.WARNING,
                shown,
                "without TLS everybody on the way can read the token and the events: use wss://",
            )
        return Finding("url", State.OK, shown)

    def _look_for_proxy(self) -> Finding:
        try:
            self._proxy = find_proxy(self._host, self._port, is_secure=self._is_secure)
        except ProxyError as error:
            variable = "HTTPS_PROXY" if self._is_secure else "HTTP_PROXY"
            raise Problem(
                str(error), f"look at {variable} and ALL_PROXY; NO_PROXY names who needs none"
            ) from None
        if self._proxy is None:
            return Finding("proxy", State.OK, "none: the way is direct")
        shown = plain(f"{self._proxy.host}:{self._proxy.port}")
        return Finding(
            "proxy", State.OK, f"by a tunnel through {shown}, which the environment names"
        )

    @property
    def _next_hop(self) -> tuple[str, int]:
        if self._proxy is not None:
            return self._proxy.host, self._proxy.port
        return self._host, self._port

    def _look_up_name(self) -> Finding:
        host, port = self._next_hop
        began = time.monotonic()
        outcome = looked_up(host, port, self._timeout)
        if not isinstance(outcome, list):
            who = "the proxy's name" if self._proxy else "the name"
            reason = "takes too long to look up" if outcome is None else "can't be resolved"
            raise Problem(
                f"{who} {plain(host)} {reason}",
                "is it written right, and is this machine online? Try it by the address",
            )
        self._addresses = outcome
        listed = ", ".join(str(address[4][0]) for address in outcome)
        return Finding("name", State.OK, f"{plain(host)} is {listed} ({since(began)})")

    def _connect(self) -> Finding:
        told, faults = [], []
        for family, kind, proto, _, address in self._addresses:
            began = time.monotonic()
            with socket.socket(family, kind, proto) as sock:
                sock.settimeout(self._timeout)
                try:
                    sock.connect(address)
                except OSError as error:
                    faults.append(error)
                    reason = (
                        "no answer" if isinstance(error, TimeoutError) else os_error_text(error)
                    )
                    told.append(f"{address[0]}: {reason}")
                else:
                    told.append(f"{address[0]} in {since(began)}")
        detail = "; ".join(told)
        if len(faults) == len(self._addresses):
            host, port = self._next_hop
            hint = advice.about_connecting(
                faults[-1], plain(host), port, is_proxy=self._proxy is not None
            )
            raise Problem(detail, hint)
        if any(isinstance(error, TimeoutError) for error in faults):
            return Finding(
                "connect",
                State.WARNING,
                detail,
                "games try the addresses in turn, and lose time with those that don't answer",
            )
        return Finding("connect", State.OK, detail)

    def _speak_tls(self) -> Finding:
        if not self._is_secure:
            return Finding("tls", State.SKIPPED, "ws:// is not encrypted")
        context = default_ssl_context()
        try:
            sock = open_tls(self._host, self._port, context, self._timeout)
        except ConnectionLost as lost:
            if self._is_of_proxy(lost):
                raise Problem(str(lost), advice.about_proxy(str(lost))) from None
            cause = lost.__context__  # what it was made of
            hint = advice.about_tls(cause, self._host)
            code = getattr(cause, "verify_code", 0)
            if code and (others := names_in_certificate(self._host, self._port, self._timeout)):
                hint = f"{hint} (it is for {others})"
            if not code and answers_plainly(self._host, self._port, self._timeout):
                hint = "the server speaks no TLS: begin the URL with ws:// instead of wss://"
            raise Problem(str(lost), hint) from None
        with contextlib.closing(sock):
            certificate = sock.getpeercert() or {}
            version = sock.version()
        left = advice.days_left(certificate, time.time())
        detail = (
            f"{version}, a certificate by {advice.issuer(certificate)}, valid for {left} "
            f"more day{'' if left == 1 else 's'}"
        )
        if left < _SOON:
            return Finding("tls", State.WARNING, detail, "renew the certificate")
        return Finding("tls", State.OK, detail)

    def _shake_hands(self) -> Finding:
        began = time.monotonic()
        try:
            self._connection = self._open(self._token)
        except ConnectionLost as lost:
            if lost.status in (401, 403):
                self._refused_with = lost.status
                return Finding("handshake", State.OK, f"the server answers ({since(began)})")
            raise Problem(str(lost), self._advice_about(lost)) from None
        return Finding("handshake", State.OK, f"a WebSocket ({since(began)})")

    def _open(self, token: str | None) -> WatchedConnection:
        return open_watched(Endpoint(self._url, token=token), wait, self._deadline)

    def _advice_about(self, lost: ConnectionLost) -> str:
        if lost.status is not None and 300 <= lost.status < 400:
            return (
                "games follow no redirect, so that the token goes nowhere else: give them the URL "
                f"where it ends{self._redirect_told()}"
            )
        if lost.status is not None:
            return advice.about_status(lost.status)
        if self._is_of_proxy(lost):
            return advice.about_proxy(str(lost))
        if not self._is_secure and answers_tls(self._host, self._port, self._timeout):
            return "the server speaks TLS: begin the URL with wss:// instead of ws://"
        return advice.about_handshake(str(lost), is_secure=self._is_secure)

    def _is_of_proxy(self, lost: ConnectionLost) -> bool:
        return self._proxy is not None and str(lost).startswith("the proxy")

    def _redirect_told(self) -> str:
        place = None if self._proxy else redirect_of(self._url, self._timeout)
        return f", {plain(place)} (with ws for http)" if place else ""

    def _look_at_auth(self) -> Finding:
        if self._refused_with is not None:
            said = f"HTTP status {self._refused_with}"
            if self._token:
                raise Problem(
                    f"the server refuses the token ({said})",
                    "is it the one that the server was started with, whole and without blanks?",
                )
            raise Problem(
                f"the server wants a token ({said})",
                "give it by --token, or by REDVSBLUE_TELEMETRY_TOKEN",
            )
        if not self._token:
            return Finding("auth", State.OK, "the server asks for no token")
        try:
            self._open(None).close()
        except ConnectionLost as lost:
            if lost.status in (401, 403):
                return Finding("auth", State.OK, "the server takes the token, and wants one")
            return Finding("auth", State.OK, "the server takes the token")
        return Finding(
            "auth",
            State.WARNING,
            "the server takes the token, and takes clients without one as well",
            "start it with a token if not everybody may send",
        )

    @property
    def _open_connection(self) -> WatchedConnection:
        assert self._connection is not None
        return self._connection

    def _look_at_confirmation(self) -> Finding:
        self._has_acks = self._open_connection.has_acks
        if self._has_acks:
            return Finding("confirmation", State.OK, "by acks: the server says what is stored")
        return Finding(
            "confirmation",
            State.OK,
            "by pongs: they prove that events are received, not that they are stored",
        )

    def _measure_round_trip(self) -> Finding:
        times = []
        for number in range(_PINGS):
            began = time.monotonic()
            try:
                self._ping(b"check %d" % number)
            except TimeoutError:
                raise Problem(
                    f"no pong in {self._timeout:g} s",
                    "a WebSocket server has to answer pings (RFC 6455, section 5.5.2): does "
                    "something on the way hold them back, or does the server not read?",
                ) from None
            except ConnectionLost as lost:
                raise self._ended(
                    str(lost), lost.close_code, self._open_connection.reason
                ) from None
            times.append(time.monotonic() - began)
        self._hang_up()
        return Finding(
            "round trip",
            State.OK,
            f"{milliseconds(statistics.median(times))} (median of {_PINGS} pings)",
        )

    def _ping(self, payload: bytes) -> None:
        connection, deadline = self._open_connection, self._deadline
        connection.ping(payload)
        while True:
            connection.flush()
            for received in connection.receive():
                if received.kind is FrameKind.PONG and received.payload == payload:
                    return
            if time.monotonic() > deadline:  # however much else is said
                raise TimeoutError
            if not connection.has_more:
                events = selectors.EVENT_READ
                if connection.unwritten:
                    events |= selectors.EVENT_WRITE
                wait(connection.fileno(), events, deadline)

    def _send_event(self) -> Finding:
        if is_killed(os.environ):
            raise Problem(
                "games on this machine send nothing: the environment forbids telemetry",
                "DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY says so: unset it to check",
            )
        outcome = send_event(self._url, self._token, self._timeout)
        if outcome.is_confirmed:
            took = milliseconds(outcome.seconds)
            return Finding("event", State.OK, f"a telemetry_check was sent and confirmed ({took})")
        if outcome.error is None or outcome.error.startswith("nothing confirmed"):
            raise Problem(
                **advice.about_unconfirmed(has_acks=self._has_acks, seconds=self._timeout)
            )
        fault = f"the event was not confirmed: {outcome.error}"
        if outcome.refusal is not None:
            raise Problem(fault, self._advice_about(outcome.refusal))
        raise self._ended(fault, outcome.close_code, outcome.close_reason)

    def _ended(self, fault: str, code: int | None, reason: str) -> Problem:
        """The server took the handshake, and then ended the connection."""
        if reason:
            if self._token:  # a server may repeat what it was told
                reason = reason.replace(self._token, "…")
            fault = f'{fault}, and says "{plain(reason, _REASON)}"'
        return Problem(fault, advice.about_close(code, self._health_page))

    @property
    def _health_page(self) -> str:
        parts = urlsplit(self._url)
        scheme = "https" if self._is_secure else "http"
        return plain(f"{scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}/healthz")
