"""Fixtures: a certificate authority, a context that trusts it, and servers."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from redvsblue_telemetry.testing import RecordingServer
from tests.support.sockets import HOST, server_context


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


@pytest.fixture
def secure_server(authority: trustme.CA) -> Iterator[RecordingServer]:
    certificate = authority.issue_cert("127.0.0.1", "localhost", HOST)
    with RecordingServer(ssl_context=server_context(certificate)) as server:
        yield server
