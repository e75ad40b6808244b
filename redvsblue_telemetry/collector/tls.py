"""The certificate that TLS is served with, and how it is exchanged while clients are connected."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

__all__ = ["Certificate", "CertificateError"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_REASONS = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short for today's TLS",
    "CA_KEY_TOO_SMALL": "a key in the chain is too short for today's TLS",
    "CA_MD_TOO_WEAK": "a signature in the chain is too weak for today's TLS",
}


class CertificateError(Exception):
    """The files can't be used; the message names the one at fault and says what to do."""


class Certificate:
    """A certificate and its key, from files that may be replaced meanwhile.

    Args:
        chain: the certificate and those of the authorities between, in PEM.
        key: its private key, in PEM; None if it is in the same file.

    Raises:
        CertificateError: they can't be used.
    """

    def __init__(self, chain: Path, key: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self._context = self._load()

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS context for new connections."""
        return self._context

    def reload(self) -> bool:
        """Read the files again; if they can't be used, log why and keep what was read before.

        Connections that are open keep the certificate that they began with.
        """
        try:
            self._context = self._load()
        except CertificateError as error:
            logger.error("the certificate was not replaced: %s", error)
            return False
        return True

    def _load(self) -> ssl.SSLContext:
        key = self._chain if self._key is None else self._key
        if "CERTIFICATE-----" not in _pem(self._chain):
            raise CertificateError(f"{self._chain} contains no certificate")
        text = _pem(key)
        if "PRIVATE KEY-----" not in text:
            hint = "" if self._key else "; name the file that does with --tls-key"
            raise CertificateError(f"{key} contains no private key{hint}")
        if "ENCRYPTED" in text:
            raise CertificateError(
                f"the private key in {key} is encrypted; write it without a password: "
                "openssl pkey -in FILE -out FILE"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._chain, key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            files = f"{self._chain}" if key == self._chain else f"{self._chain} and {key}"
            raise CertificateError(
                f"cannot serve TLS with {files}: {_REASONS.get(reason, reason)}"
            ) from error
        return context


def _pem(path: Path) -> str:
    """Return the text of a PEM file."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error
    if "-----BEGIN " not in text:
        raise CertificateError(f"{path} is not in PEM: it has no line that begins with -----BEGIN")
    return text
