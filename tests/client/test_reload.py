"""Hot reload: the running client goes on."""

from __future__ import annotations

import pytest

from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_fork import FORK, needs_fork, seqs
from tests.client.test_process import IMPORT, run

RELOAD = """
import atexit, importlib, logging, pickle, threading
import redvsblue_telemetry as package

settings = {"enabled": True, "url": sys.argv[1], "drain_interval": 0.05, "strict": True}
logging.getLogger("redvsblue_telemetry").setLevel(logging.ERROR)  # the event that is invalid
telemetry = start_telemetry(**settings)
telemetry.emit("x")
assert telemetry.flush(20)

def names():
    return [name for name in sys.modules if name.split(".")[0] == "redvsblue_telemetry"]

def reload_all(order):
    for name in {"package": names()[:1], "as imported": names(), "reversed": names()[::-1]}[order]:
        importlib.reload(sys.modules[name])

def workers():
    return [thread for thread in threading.enumerate() if thread.name == "redvsblue-telemetry"]

hooks = atexit._ncallbacks()
for _ in range(3):
    telemetry.emit("x")  # waits in the store
    reload_all(sys.argv[2])
"""


@pytest.mark.parametrize("order", ["package", "as imported", "reversed"])
def test_a_client_goes_on_when_its_modules_are_reloaded(order: str) -> None:
    script = """
assert package.get_telemetry() is package.start_telemetry(**settings) is telemetry
assert isinstance(telemetry, package.Telemetry)
assert pickle.loads(pickle.dumps(telemetry)) is telemetry
assert atexit._ncallbacks() == hooks
assert len(workers()) == 1
package.emit("x")
emit("x")  # the game's name for the function from before
telemetry.push(TelemetryEvent("x"))
assert telemetry.flush(20)
assert telemetry.stats().state is ConnectionState.CONNECTED is package.ConnectionState.CONNECTED
try:
    package.emit("x", {"y": object()})
except InvalidEventError:
    pass
telemetry.enabled = False
assert not telemetry.enabled
telemetry.enabled = True
telemetry.emit("x")
stats = telemetry.stats()
assert (stats.emitted, stats.rejected, stats.dropped) == (8, 1, 0), stats
"""
    with RecordingServer() as server:
        done = run(IMPORT + RELOAD + script, server.url, order)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert seqs(server, "x") == list(range(1, 9))


@needs_fork
def test_a_child_that_is_forked_after_a_reload_is_on_its_own() -> None:
    script = """
assert telemetry.flush(20)
def child():
    emit("child")
    return 0 if package.stop_telemetry(20) and telemetry.stats().delivered == 1 else 4
assert ended(forked(child)) == 0
telemetry.emit("x")
"""
    with RecordingServer() as server:
        done = run(IMPORT + FORK + RELOAD + script, server.url, "as imported")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert seqs(server, "x") == [1, 2, 3, 4, 5]
        assert seqs(server, "child") == [1]


def test_a_second_copy_of_the_package_is_on_its_own_and_both_flush_at_the_exit() -> None:
    script = """
for name in names():
    del sys.modules[name]
import redvsblue_telemetry as second
assert second.get_telemetry() is not telemetry
second.start_telemetry(**settings).emit("second")
assert len(workers()) == 2
telemetry.emit("x")
"""
    with RecordingServer() as server:
        done = run(IMPORT + RELOAD + script, server.url, "package")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert seqs(server, "x") == [1, 2, 3, 4, 5]
        assert seqs(server, "second") == [1]
