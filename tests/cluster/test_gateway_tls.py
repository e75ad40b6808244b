"""A gateway whose stream needs TLS and credentials: it gets in with them, and only with them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats", reason="needs nats-py")

import nkeys

from redvsblue_telemetry.cluster.local.children import Child, Guard
from redvsblue_telemetry.cluster.local.ports import ReservedPort
from redvsblue_telemetry.cluster.local.servers import ServersError, find_program
from tests.cluster.gateways import PATIENCE, gateway_running
from tests.collector.clients import array, client_of, next_ack, read_to_the_end
from tests.collector.test_tls import Files
from tests.support.wait import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

UNLIMITED = (
    "subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage",
    "streams", "consumer",
)  # fmt: skip


class Key:
    """A key of the servers' kind, which signs what others may do."""

    def __init__(self, prefix: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.name = self._pair.public_key.decode()

    def sign(self, subject: str, rights: dict[str, Any]) -> str:
        """Return a token by which a server knows the rights of a subject."""
        claims = {
            "jti": base64.b32encode(os.urandom(32)).decode().rstrip("="),
            "iat": int(time.time()),
            "iss": self.name,
            "name": "test",
            "sub": subject,
            "nats": {"version": 2, **rights},
        }
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, claims]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class SecureServer:
    """A server that lets in who has the credentials, by TLS."""

    def __init__(self, folder: Path, port: int) -> None:
        self.files = Files(folder)
        self.url = f"tls://127.0.0.1:{port}"
        self.configuration = folder / "server.conf"
        operator, self._account, system = Key(14 << 3), Key(0), Key(0)
        rights = {"type": "account", "limits": dict.fromkeys(UNLIMITED, -1) | {"wildcards": True}}
        # The account of the system may not store.
        stores = ("mem_storage", "disk_storage", "streams", "consumer")
        no_store = {
            "type": "account",
            "limits": {
                name: value for name, value in rights["limits"].items() if name not in stores
            },
        }
        accounts = {
            self._account.name: operator.sign(self._account.name, rights),
            system.name: operator.sign(system.name, no_store),
        }
        lines = "\n".join(f"  {name}: {token}" for name, token in accounts.items())
        self.configuration.write_text(f"""\
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: {json.dumps(str(folder / "store"))} }}
tls {{ cert_file: "{self.files.cert}", key_file: "{self.files.key}" }}
operator: {operator.sign(operator.name, {"type": "operator"})}
system_account: {system.name}
resolver: MEMORY
resolver_preload: {{
{lines}
}}
""")

    def credentials(self, path: Path, account: Key | None = None) -> Path:
        """Write the credentials of a new user; of a foreign account if one is given."""
        user = Key(20 << 3)
        rights = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        token = (account or self._account).sign(user.name, rights)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            "-----BEGIN USER NKEY SEED-----\n"
            f"{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


@pytest.fixture
def secure_server(tmp_path: Path) -> Iterator[SecureServer]:
    try:
        program = find_program()
    except ServersError as error:
        pytest.skip(f"needs nats-server: {error}")
    with contextlib.ExitStack() as stack:
        port = ReservedPort()
        stack.callback(port.release)
        server = SecureServer(tmp_path, port.number)
        arguments = [program, "--config", str(server.configuration)]
        log = tmp_path / "server.log"
        child = Child("stream server", arguments, log, stack.enter_context(Guard()))
        child.start()
        stack.callback(child.stop)
        assert wait_until(lambda: "Server is ready" in log.read_text(), PATIENCE), log.read_text()
        yield server


def test_it_gets_in_with_credentials_and_the_authority(
    secure_server: SecureServer, tmp_path: Path
) -> None:
    credentials = secure_server.credentials(tmp_path / "gateway.creds")
    options = ("--stream-credentials", credentials, "--stream-ca", secure_server.files.trust)
    with (
        gateway_running([secure_server.url], *options) as gateway,
        client_of(gateway) as client,
    ):
        client.send(array(1))
        assert next_ack(client) == 1
        assert gateway.is_healthy


def test_it_says_why_it_does_not_get_in(secure_server: SecureServer, tmp_path: Path) -> None:
    foreign = secure_server.credentials(tmp_path / "foreign.creds", Key(0))
    trust = ("--stream-ca", secure_server.files.trust)
    for options, reason in (
        ((), "certificate verify failed"),
        (trust, "Authorization Violation"),
        ((*trust, "--stream-credentials", foreign), "Authorization Violation"),
    ):
        with (
            gateway_running([secure_server.url], *options, waits=False) as gateway,
            client_of(gateway) as client,
        ):
            gateway.running.wait_for(reason)
            assert not gateway.is_healthy
            client.send(array(1))
            assert read_to_the_end(client) == ([], 1013)


def test_it_gets_in_as_soon_as_the_credentials_are_right(
    secure_server: SecureServer, tmp_path: Path
) -> None:
    path = secure_server.credentials(tmp_path / "gateway.creds", Key(0))
    options = ("--stream-credentials", path, "--stream-ca", secure_server.files.trust)
    with gateway_running([secure_server.url], *options, waits=False) as gateway:
        assert not gateway.is_healthy
        secure_server.credentials(path)
        assert wait_until(lambda: gateway.is_healthy, PATIENCE), gateway.running.said
