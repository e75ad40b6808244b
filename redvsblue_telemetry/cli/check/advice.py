"""Advice on failures: tables from errors to sentences. Nothing here touches a network."""

from __future__ import annotations

import errno
import os
import ssl
import time

from ..._network.contract import ConnectionLost, LostKind, os_error_text
from .._terminal import printable

__all__ = ["about", "about_tcp"]

# OpenSSL's X509_V_ERR_…, which Python passes on as `verify_code`
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED = 9, 10, 18
_UNKNOWN_AUTHORITY = frozenset({2, 19, 20, 21, 27})
WRONG_NAME = frozenset({62, 64})

_NOTHING_IN_COMMON = ("HANDSHAKE_FAILURE", "PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")

_CLIENT_CERTIFICATE = (
    "the server requires a client certificate, which this check cannot present; give games one "
    "with the setting ssl_context"
)
_NOT_TELEMETRY = "what listens there is not a telemetry server: is the port right?"
_CUT_OFF = "the server accepts the handshake, then ends the connection: its log may say why"
_BY_KIND = {
    LostKind.NAME: "is the host name right, and is this machine online?",
    LostKind.UNREACHABLE: "is this machine online, or does it need a VPN?",
    LostKind.TCP: "is the server running, and is the port right?",
    LostKind.PROXY: (
        "ask the proxy's operator whether it may reach the server, or add the server to NO_PROXY"
    ),
    LostKind.PROXY_AUTH: (
        "give the proxy's credentials in the environment: http://user:password@host:port"
    ),
    LostKind.CLIENT_CERTIFICATE: _CLIENT_CERTIFICATE,
    LostKind.TLS: "is it a TLS server, and is the port right?",
    LostKind.TIMEOUT: f"no answer; perhaps {_NOT_TELEMETRY}",
    LostKind.HANDSHAKE: _NOT_TELEMETRY,
    LostKind.RESET: _CUT_OFF,
    LostKind.PROTOCOL: "is it a telemetry server, or does a proxy alter what it sends?",
    LostKind.UNCONFIRMED: (
        'the server must confirm what it receives: if it offers acks, by {"ack": n} once it has '
        "stored the first n messages of the connection, otherwise by answering pings"
    ),
}

_BUSY = "the server is busy or limits its clients: try again later, or ask its operator"
_BAD_GATEWAY = (
    "a proxy in front of the server can't reach it: is the server running, and does the proxy "
    "point at it?"
)
_NO_UPGRADE = (
    "a proxy in front of the server may not forward the headers Connection and Upgrade (nginx: "
    "proxy_http_version 1.1 and proxy_set_header)"
)
_NEEDS_TLS = "does the port serve TLS? Then the URL must begin with wss://."
_PATH = "is the path of the URL right? The collector's is /telemetry"
_BY_STATUS = {
    200: f"a web server answers, but not with a WebSocket: {_PATH}",
    400: f"the server rejected the handshake as a bad request: {_NO_UPGRADE}",
    404: _PATH,
    405: _PATH,
    421: "the server does not accept this host name: start the collector with --allow-host NAME",
    426: (
        "the handshake arrived without its header Upgrade: a proxy in front of the server drops "
        "it. Configure the proxy to forward it (nginx: proxy_http_version 1.1; proxy_set_header "
        'Upgrade $http_upgrade; proxy_set_header Connection "upgrade";)'
    ),
    429: _BUSY,
    500: "internal error in the server: see its log",
    502: _BAD_GATEWAY,
    503: _BUSY,
    504: _BAD_GATEWAY,
}

_DISMISSED = "the server accepts the handshake, then closes the connection: is the token right?"
_BY_CLOSE_CODE = {
    1001: "the server is being stopped or restarted: try again in a moment",
    1002: "the server found a protocol error: does a proxy alter what is sent?",
    1003: "the server does not accept text messages: is it a telemetry server?",
    1007: "the server can't parse the message: the SDK sends events as a JSON array in text",
    1008: f"{_DISMISSED} Or it limits how much a client may send (the collector: --max-rate)",
    1009: (
        "the server does not accept a message as large as one event: raise its limit (the "
        "collector: --max-message-bytes)"
    ),
    1011: "internal error in the server: see its log",
    1012: "the server is restarting: try again in a moment",
    1014: _BAD_GATEWAY,
    3000: _DISMISSED,
    3003: _DISMISSED,
}


def about_tcp(error: OSError, port: int, *, is_proxy: bool) -> str:
    """Return advice for a host of which no address accepts a TCP connection."""
    peer = "the proxy" if is_proxy else "the server"
    if isinstance(error, TimeoutError):
        return (
            f"no answer: a firewall may drop packets to port {port}, or {peer} has another address"
        )
    if error.errno == errno.ECONNREFUSED:
        start = "" if is_proxy else " (the collector: redvsblue-telemetry collect)"
        return f"nothing listens on port {port}: is {peer} running{start}, and is the port right?"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return _BY_KIND[LostKind.UNREACHABLE]
    return f"is {peer} running, and is the port right?"


def about(lost: ConnectionLost, *, host: str, is_secure: bool, health_url: str) -> str:
    """Return advice about a lost connection.

    Args:
        lost: why it was lost.
        host: the server's name in the URL.
        is_secure: the URL begins with ``wss://``.
        health_url: the URL at which a collector reports whether it can store events.
    """
    if lost.kind is LostKind.REFUSED:
        status = lost.status or 0
        status = 200 if 200 <= status < 300 else status
        if status == 400 and not is_secure:
            return f"{_NEEDS_TLS} Or {_NO_UPGRADE}"
        return _BY_STATUS.get(status, "ask the server's operator what this status means")
    if lost.kind is LostKind.CLOSED:
        return _about_close(lost.close_code or 0, health_url)
    if lost.kind is LostKind.CERTIFICATE:
        return _about_certificate(lost.verify_code or 0, host)
    if lost.kind is LostKind.TLS and lost.tls_reason is not None:
        return _about_tls(lost.tls_reason)
    advice = _BY_KIND.get(lost.kind, "see the server's log")
    if lost.kind is LostKind.HANDSHAKE and is_secure:
        # In TLS 1.3 a server that misses a client certificate may just reset the connection.
        return f"{advice} Or {_CLIENT_CERTIFICATE}"
    return advice


def _about_close(code: int, health_url: str) -> str:
    if code == 1013:
        return (
            "the server can't accept events now: it has too many clients, or can't store events. "
            f"A collector reports at {health_url} whether it can store them; its log says why not"
        )
    private = 4000 <= code < 5000
    return _BY_CLOSE_CODE.get(code, _DISMISSED if private else _CUT_OFF)


def _about_tls(reason: str) -> str:
    if any(name in reason for name in _NOTHING_IN_COMMON):
        return (
            "the server and this machine have no TLS version or cipher in common: update the "
            f"server. Or {_CLIENT_CERTIFICATE}"
        )
    return _BY_KIND[LostKind.TLS]


def _about_certificate(code: int, host: str) -> str:
    if code in (_EXPIRED, _NOT_YET_VALID):
        today = time.strftime("%Y-%m-%d", time.gmtime())
        fault = "has expired: renew it" if code == _EXPIRED else "is not valid yet"
        return f"the certificate {fault}; or is this machine's date wrong? It is {today} here"
    if code in WRONG_NAME:
        return f"use a name that the certificate is for, or get a certificate for {host}"
    if code == _SELF_SIGNED or code in _UNKNOWN_AUTHORITY:
        fault = (
            "the certificate is self-signed: get one from an authority"
            if code == _SELF_SIGNED
            else "the certificate's issuer is not trusted here: does the server send the chain?"
        )
        return (
            f"{fault} To trust your own authority, give games the setting ssl_context, and "
            f"for this check {_how_to_trust()}"
        )
    return "get another certificate for the server"


def _how_to_trust() -> str:
    name = os.environ.get("SSL_CERT_FILE")
    if name is None:
        return "set SSL_CERT_FILE to a file with its certificate"
    shown = printable(name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)
    except OSError as error:
        return f"fix SSL_CERT_FILE: {shown} can't be read ({os_error_text(error)})"
    return f"add its certificate to SSL_CERT_FILE: {shown} lacks it"
