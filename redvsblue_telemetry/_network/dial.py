"""Dialing: opens a socket to a server, directly or through a proxy, with or without TLS.

The caller passes in the function that waits, so a stop can interrupt a connect at any byte. One
deadline spans name look-up, TCP, TLS and the handshake that follows. websocket-client could open
the socket itself, but it blocks meanwhile, with a timeout for each read instead of a deadline: a
peer that sends a byte now and then would hold the worker for good.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import os
import re
import socket
import ssl
import sys
import weakref

from .._shared import is_loopback, monotonic
from . import proxy, sigpipe
from .contract import TIMED_OUT, ConnectionLost, LostKind, Wait, lost_by_os_error
from .names import look_up
from .owned import OwnedSocket
from .sockets import READ, WRITE, PlainSocket, SecureSocket

__all__ = ["default_ssl_context", "open_socket", "prepare"]

_READ_BYTES = 65536
_MAX_PROXY_HEAD_BYTES = 16384
_LOCAL_PATIENCE = 0.25  # seconds; a server on this machine is there at once, or not at all
_PROXY_AUTHENTICATION_REQUIRED = 407
_HASHED_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_HOW_TO_TRUST = "set ssl_context, for example to truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)"
_NO_AUTHORITIES = (
    "the server's certificate can't be checked, because this Python has no CA certificates; "
    + _HOW_TO_TRUST
)
_UNKNOWN_ISSUER = 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
_NO_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)

_is_reloaded = "_open_sockets" in globals()
if not _is_reloaded:
    _open_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_in_child() -> None:
    """Close the parent's sockets in a forked child.

    While a connect is under way, only its thread knows the socket, and the child lacks that thread.
    """
    for sock in tuple(_open_sockets):
        sock.close()


if not _is_reloaded and hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_in_child)


@functools.lru_cache(maxsize=1)
def default_ssl_context() -> ssl.SSLContext:
    """Return the context that trusts the system's authorities. Building it takes long."""
    try:
        return ssl.create_default_context()
    except ssl.SSLError:
        if sys.platform != "win32":
            raise
        return _without_broken_authorities()


def _without_broken_authorities() -> ssl.SSLContext:
    """Return the same context with the certificates of Windows that OpenSSL can read.

    Before Python 3.13.3, a single one that it can't read is an error, such as that of the Serbian
    interior ministry, which citizens of Serbia install (CPython issue 79846).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.platform == "win32":
        for store in ("CA", "ROOT"):
            for certificate, encoding, trust in ssl.enum_certificates(store):
                is_trusted = trust is True or (trust and ssl.Purpose.SERVER_AUTH.oid in trust)
                if encoding == "x509_asn" and is_trusted:
                    with contextlib.suppress(ssl.SSLError):
                        context.load_verify_locations(cadata=certificate)
        context.set_default_verify_paths()
    return context


def _lacks_authorities(context: ssl.SSLContext | None) -> bool:
    """Return whether this is the default context, and trusts nobody.

    In a bundled game that is common: OpenSSL has the path of the CA certificates compiled in, and
    the player's machine need not have them there.
    """
    # A context of truststore, which a game can make the default, can't count its certificates.
    with contextlib.suppress(NotImplementedError, OSError):
        if context is default_ssl_context() and not context.cert_store_stats()["x509_ca"]:
            # Certificates in a directory are read when they are needed, so they aren't counted.
            folder = ssl.get_default_verify_paths().capath
            return not any(map(_HASHED_CERTIFICATE.fullmatch, os.listdir(folder) if folder else ()))
    return False


def _may_lack_authority(context: ssl.SSLContext, lost: ConnectionLost) -> bool:
    """Return whether the server's authority may be one that Windows trusts and doesn't have yet.

    It downloads most of them when its own functions first meet a server that needs them, which
    OpenSSL never asks for (CPython issue 101738).
    """
    is_unknown = sys.platform == "win32" and lost.verify_code == _UNKNOWN_ISSUER
    return is_unknown and context is default_ssl_context()


def prepare(*, is_secure: bool) -> None:
    """Do the slow initialization, so that no connect does it while frames are drawn.

    Args:
        is_secure: there will be TLS connections with the default context.
    """
    # Imported here, on the caller's thread: a module that one thread is importing while another
    # forks stays half-imported in the child.
    codecs.lookup("idna")
    proxy.prepare()
    if is_secure:
        default_ssl_context()


def open_socket(
    host: str, port: int, tls: ssl.SSLContext | None, wait: Wait, deadline: float
) -> PlainSocket:
    """Open a non-blocking connection, through a proxy if the environment names one.

    Args:
        host: the server's name or address.
        port: the server's port.
        tls: the context of an encrypted connection; None for a plain one.
        wait: waits for the socket; see :data:`Wait`.
        deadline: the time limit, on the clock of ``monotonic`` in ``_shared.py``.

    Raises:
        ConnectionLost: it failed.
    """
    found: proxy.Proxy | None = None
    try:
        found = proxy.find_proxy(host, port, is_secure=tls is not None)
        if found is None:
            sock = _open_tcp(host, port, wait, deadline)
        else:
            request = found.request(host, port)  # the proxy resolves the server's name
            sock = _open_tunnel(found, request, wait, deadline)
    except proxy.ProxyError as error:
        needs_credentials = error.status == _PROXY_AUTHENTICATION_REQUIRED
        kind = LostKind.PROXY_AUTH if needs_credentials else LostKind.PROXY
        raise ConnectionLost(kind, str(error)) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: IDNA can't encode the name
        raise _failure(error, LostKind.TCP, host) from None
    if tls is None:
        return PlainSocket(sock)
    try:
        return _open_tls(sock, host, tls, wait, deadline)
    except (OSError, ValueError) as error:  # ValueError: no certificate can be for such a name
        lost = _failure(error, LostKind.TLS, host)
        if lost.kind is LostKind.CERTIFICATE and _lacks_authorities(tls):
            lost = _reworded(lost, _NO_AUTHORITIES)
        elif _may_lack_authority(tls, lost):
            lost = _reworded(lost, f"{lost}; if browsers accept it, {_HOW_TO_TRUST}")
        if found is not None:
            # One that reads what it passes on has a certificate that only its own clients trust.
            lost = _reworded(lost, f"{lost} (through the proxy {found.name})")
        raise lost from None


def _open_tcp(host: str, port: int, wait: Wait, deadline: float) -> socket.socket:
    addresses = look_up(host, port, wait, deadline, _open_sockets)
    for index, (family, kind, proto, _, address) in enumerate(addresses):
        sock = OwnedSocket(family, kind, proto)
        _open_sockets.add(sock)
        try:
            sigpipe.spare(sock).setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if (code := sock.connect_ex(address)) in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                # An address that doesn't answer leaves time for the others. Happy Eyeballs
                # (RFC 8305) would be faster then, at the price of several sockets at a time.
                others = len(addresses) - index - 1
                share = (deadline - monotonic()) / (others + 1)
                if others and is_loopback(address[0]):
                    # Windows takes two seconds to refuse, and `localhost` is ::1 before 127.0.0.1,
                    # where the collector listens.
                    share = min(share, _LOCAL_PATIENCE)
                wait(sock.fileno(), WRITE, min(deadline, monotonic() + share))
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise _error_of(code)
        except BaseException as error:
            sock.close()
            is_last = index + 1 == len(addresses)
            if is_last or not isinstance(error, OSError):
                raise
        else:
            return sock
    raise OSError(errno.EHOSTUNREACH, f"{host} has no address")


def _error_of(code: int) -> OSError:
    """Return the error for a code that a socket gave."""
    if sys.platform == "win32":  # its `strerror` calls all of them "Unknown error"
        import ctypes  # noqa: PLC0415

        return OSError(0, ctypes.FormatError(code).rstrip(". "), None, code)
    return OSError(code, os.strerror(code))


def _open_tunnel(via: proxy.Proxy, request: bytes, wait: Wait, deadline: float) -> socket.socket:
    try:
        sock = _open_tcp(via.host, via.port, wait, deadline)
    except (OSError, UnicodeError) as error:
        lost = _failure(error, LostKind.TCP, via.host)
        raise _reworded(lost, f"the proxy {via.name} can't be reached: {lost}") from None
    try:
        _ask_for_tunnel(sock, via, request, wait, deadline)
    except OSError as error:
        sock.close()
        lost = _failure(error, LostKind.PROXY, via.host)
        raise _reworded(lost, f"the proxy {via.name} opened no tunnel: {lost}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _ask_for_tunnel(
    sock: socket.socket, via: proxy.Proxy, request: bytes, wait: Wait, deadline: float
) -> None:
    while request:
        wait(sock.fileno(), WRITE, deadline)
        request = request[sigpipe.send(sock, request) :]
    answer = b""
    while b"\r\n\r\n" not in answer:
        wait(sock.fileno(), READ, deadline)
        chunk = sock.recv(_READ_BYTES)
        answer += chunk
        if not chunk:
            raise via.error("closed the connection")
        if len(answer) > _MAX_PROXY_HEAD_BYTES:
            raise via.error("sent too much data")
    via.check_answer(answer)
    # A server sends nothing before the client does, so further bytes are not the server's.
    if not answer.endswith(b"\r\n\r\n"):
        raise via.error("sent too much data")


def _open_tls(
    sock: socket.socket, host: str, context: ssl.SSLContext, wait: Wait, deadline: float
) -> SecureSocket:
    try:
        secure = SecureSocket(sock, context, host)
        while events := secure.shake_hands():
            wait(sock.fileno(), events, deadline)
    except BaseException:
        sock.close()
        raise
    return secure


def _failure(error: OSError | ValueError, kind: LostKind, host: str) -> ConnectionLost:
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError):
        return ConnectionLost(LostKind.NAME, f"the host name {host} can't be resolved")
    if isinstance(error, TimeoutError):
        return ConnectionLost(LostKind.TIMEOUT, TIMED_OUT)
    is_offline = error.errno in _NO_NETWORK and not isinstance(error, ssl.SSLError)
    return lost_by_os_error(error, LostKind.UNREACHABLE if is_offline else kind)


def _reworded(lost: ConnectionLost, message: str) -> ConnectionLost:
    lost.args = (message,)
    return lost
