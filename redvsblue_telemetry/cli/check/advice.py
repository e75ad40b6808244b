"""What to do about what went wrong: from errors to sentences. Nothing here touches a network."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from ..._network.contract import os_error_text
from ..report.escape import plain

__all__ = [
    "about_close",
    "about_connecting",
    "about_handshake",
    "about_proxy",
    "about_status",
    "about_tls",
    "about_unconfirmed",
    "days_left",
    "issuer",
    "names",
]

_A_DAY = 86400.0  # seconds
_NAMES = 8  # of a certificate, that are told

# OpenSSL's X509_V_ERR_…, which Python gives as `verify_code`
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _NAME, _ADDRESS = 9, 10, 18, 62, 64
_UNKNOWN_AUTHORITY = frozenset({2, 19, 20, 21, 27})

_BUSY = "the server is busy, or limits its clients: try again later, or ask whoever runs it"
_BEHIND = (
    "a proxy in front of the server can't reach it: is the server running, and does the proxy "
    "point at it?"
)
_STATUS = {
    400: "the server takes this for a bad request: a proxy in front of it may not pass the headers "
    "Connection and Upgrade on (nginx: proxy_http_version 1.1 and proxy_set_header)",
    404: "is the path of the URL right? The collector's is /telemetry",
    405: "is the path of the URL right? The collector's is /telemetry",
    421: "the server doesn't go by this name: start the collector with --allow-host NAME",
    426: "the server wants an upgrade that it didn't see: a proxy in front of it may not pass the "
    "headers Connection and Upgrade on",
    429: _BUSY,
    500: "the server failed: its log says why",
    502: _BEHIND,
    503: _BUSY,
    504: _BEHIND,
}
_SENT_AWAY = "the server lets clients in and then sends them away: is the token right?"
_CLOSE = {
    1001: "the server is being stopped or restarted: try again in a moment",
    1002: "the server finds fault with the protocol: does a proxy change what is sent?",
    1003: "the server takes no text messages: are port and path those of a telemetry server?",
    1007: "the server can't read the message: the SDK sends text, an array of events as JSON",
    1008: f"{_SENT_AWAY} Or it limits how much a client may send (the collector: --max-rate)",
    1009: "the server takes no message as large as one event: raise its limit (the collector: "
    "--max-message-bytes)",
    1011: "the server failed over what it was sent: its log says why",
    1012: "the server is restarting: try again in a moment",
    1014: _BEHIND,
    3000: _SENT_AWAY,
    3003: _SENT_AWAY,
}
_CLIENT_CERTIFICATE = (
    "the server wants a certificate of its clients, which check has none of: give games one by the "
    "setting ssl_context"
)


def about_connecting(error: OSError, host: str, port: int, *, is_proxy: bool) -> str:
    """What to do when TCP gives no connection."""
    who = "the proxy" if is_proxy else "the server"
    if isinstance(error, TimeoutError):
        return (
            f"nothing answers: a firewall may drop what is sent to port {port}, or {who} is at "
            "another address"
        )
    if error.errno == errno.ECONNREFUSED:
        start = "" if is_proxy else " (the collector: redvsblue-telemetry collect)"
        return f"nothing listens at port {port}: is {who} running{start}, is the port right?"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"there is no way to {host} from here: is this machine online, or behind a VPN?"
    if isinstance(error, socket.gaierror):
        return f"is the name of {who} right, and is this machine online?"
    return f"see what this machine and {host} say about it"


def about_proxy(fault: str) -> str:
    """What to do when the proxy makes no tunnel."""
    if "407" in fault:
        return "the proxy wants credentials: http://user:password@host:port in the environment"
    return "ask whoever runs the proxy whether it may reach the server, or name it in NO_PROXY"


def about_status(status: int) -> str:
    """What to do when a handshake is answered with this status."""
    if status in _STATUS:
        return _STATUS[status]
    if 200 <= status < 300:
        return (
            "a web server answers, and no WebSocket: are port and path right? The collector's path "
            "is /telemetry"
        )
    return "ask whoever runs the server what it means there"


def about_handshake(fault: str, *, is_secure: bool) -> str:
    """What to do when there is no answer to a handshake that has a status.

    Args:
        fault: what was seen instead.
        is_secure: it was sent encrypted.
    """
    # By TLS 1.3 a client takes itself for connected before the server has looked for a certificate.
    if is_secure and _is_about_certificate(fault):
        return _CLIENT_CERTIFICATE
    advice = (
        "something takes the connection and is no WebSocket server: is the port right, and does "
        "the server run?"
    )
    return f"{advice} Or {_CLIENT_CERTIFICATE}" if is_secure else advice


def _is_about_certificate(fault: str) -> bool:
    return "CERTIFICATE_REQUIRED" in fault or "ALERT_BAD_CERTIFICATE" in fault


def about_close(code: int | None, health_page: str) -> str:
    """What to do when a server takes the handshake, and then ends the connection.

    Args:
        code: what it closed with; None if it didn't.
        health_page: where a collector says whether it can store events.
    """
    if code == 1013:
        return (
            "the server can take no events now: it has too many clients, or can't store them. A "
            f"collector says at {health_page} whether it can, and in its log why it can't"
        )
    if code in _CLOSE:
        return _CLOSE[code]
    if 4000 <= (code or 0) < 5000:
        return _SENT_AWAY
    return "the server takes the handshake and then ends the connection: its log may say why"


def about_tls(error: BaseException | None, host: str) -> str:
    """What to do when there is no encrypted connection.

    Args:
        error: what Python's ``ssl`` raised; None if that is not known.
        host: the name of the URL.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _about_certificate(error.verify_code, host)
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"):
            return "what answers there speaks no TLS: is it a server for ws://, is the port right?"
        if _is_about_certificate(error.reason or ""):
            return _CLIENT_CERTIFICATE
        if "HANDSHAKE_FAILURE" in (error.reason or "") or "PROTOCOL" in (error.reason or ""):
            return (
                "the server and this machine share no version of TLS, or no cipher: update it. Or "
                f"{_CLIENT_CERTIFICATE}"
            )
    if isinstance(error, TimeoutError):
        return "something listens there and says nothing: is it a TLS server, is the port right?"
    if isinstance(error, ConnectionError):
        return "the server ends the connection: is it a TLS server, is the port right?"
    return "is it a TLS server, and is the port right?"


def _about_certificate(code: int, host: str) -> str:
    if code in (_EXPIRED, _NOT_YET_VALID):
        now = time.strftime("%Y-%m-%d", time.gmtime())
        fault = "has expired: renew it" if code == _EXPIRED else "is not valid yet"
        return f"the certificate {fault}; or is the date of this machine wrong? It says {now}"
    if code in (_NAME, _ADDRESS):
        return f"use a name that the certificate is for, or get one for {host}"
    if code == _SELF_SIGNED:
        return (
            "the certificate is signed by nobody but itself: get one of an authority, or make it "
            f"known to the game by the setting ssl_context, and here: {_how_to_trust()}"
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            "who signed the certificate is not known here: does the server send the whole chain? "
            "An authority of your own is made known to the game by the setting ssl_context, and "
            f"here: {_how_to_trust()}"
        )
    return "get the server another certificate"


def _how_to_trust() -> str:
    name = os.environ.get("SSL_CERT_FILE")
    if name is None:
        return "set SSL_CERT_FILE to a file with its certificate"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)
    except OSError as error:
        return f"SSL_CERT_FILE names {plain(name)}, which is of no use ({os_error_text(error)})"
    return f"SSL_CERT_FILE names {plain(name)}, which has to have its certificate, and hasn't"


def about_unconfirmed(*, has_acks: bool, seconds: float) -> Mapping[str, str]:
    """What was seen, and what to do, when an event was sent and nothing confirmed it."""
    if has_acks:
        return {
            "detail": f"the event was sent, but no ack came in {seconds:g} s",
            "advice": 'the server promised acks: it has to send {"ack": n} once the first n '
            "messages of the connection are stored; its log may say why it can't store them",
        }
    return {
        "detail": f"the event was sent, but nothing confirmed it in {seconds:g} s",
        "advice": "the server has to answer pings with pongs while it receives messages",
    }


def days_left(certificate: Mapping[str, Any], now: float) -> int:
    """For how many more days a certificate is valid."""
    return int((ssl.cert_time_to_seconds(certificate["notAfter"]) - now) // _A_DAY)


def issuer(certificate: Mapping[str, Any]) -> str:
    """Who signed a certificate."""
    found = {key: text for part in certificate.get("issuer", ()) for key, text in part}
    return plain(found.get("organizationName") or found.get("commonName") or "nobody named", 80)


def names(certificate: Mapping[str, Any]) -> str:
    """Whom a certificate is for."""
    found = [text for _, text in certificate.get("subjectAltName", ())]
    more = ", …" if len(found) > _NAMES else ""
    return plain(", ".join(found[:_NAMES]) or "nobody", 300) + more
