"""A host that closes all descriptors of the process, as daemons do at their start."""

from __future__ import annotations

import itertools
import socket
import threading
from pathlib import Path

import pytest
import trustme

from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_fork import needs_fork
from tests.client.test_process import IMPORT, TIMEOUT, end_of, play, run, said
from tests.support.connect_proxy import relay_to
from tests.support.ports import own_port
from tests.support.raw_server import raw_server, read_to_the_end
from tests.support.sockets import server_context
from tests.support.systems import needs_descriptors

pytestmark = needs_descriptors

HOST = (
    IMPORT
    + """
import gc, logging, socket, ssl, tempfile

class Counter(logging.Handler):
    count = 0
    def emit(self, record):
        self.count += 1

errors = Counter(logging.ERROR)
logging.getLogger("redvsblue_telemetry").addHandler(errors)
files, pairs = [], []

import redvsblue_telemetry._delivery.poller as poller

wait_of_poller, waits_since = poller.Poller.wait, None
def noting(*arguments):
    global waits_since
    waits_since = time.monotonic()
    try:
        return wait_of_poller(*arguments)
    finally:
        waits_since = None
poller.Poller.wait = noting

def wait_for_quiet():
    # Between a look at a descriptor and its use, one that is closed and opened again looks the
    # same. So the worker should have nothing to do for a while, as at the start of a daemon.
    since = None
    while since is None or not 0.02 < time.monotonic() - since < 0.1:
        time.sleep(0.001)
        since = waits_since

def close_all(reopens):
    os.closerange(3, 1000)
    files.clear()
    pairs.clear()
    if not reopens:
        return
    # They take the numbers that our sockets had.
    for _ in range(8):
        file, path = tempfile.mkstemp()
        os.unlink(path)
        os.write(file, b"the host's")
        files.append(file)
        pairs.append([end.detach() for end in socket.socketpair()])

def check_host():
    gc.collect()
    for file in files:
        assert os.lseek(file, 0, os.SEEK_CUR) == len(b"the host's")
        assert os.pread(file, 100, 0) == b"the host's"
    for one, other in pairs:
        os.write(one, b"a")
        assert os.read(other, 10) == b"a"
        os.write(other, b"b")
        assert os.read(one, 10) == b"b"

def wait_for(state):
    while telemetry.stats().state is not state:
        time.sleep(0.002)

def start(**settings):
    global telemetry
    telemetry = start_telemetry(enabled=True, url=sys.argv[1], **settings)
    return telemetry

def finish():
    assert telemetry.enabled
    assert start_telemetry() is telemetry
    telemetry.emit("after")
    assert telemetry.flush(20), telemetry.stats()
    check_host()
    assert telemetry.stop(20)
    check_host()
    assert telemetry.stats().dropped == 0
    print(telemetry.stats().delivered, errors.count)
"""
)

either = pytest.mark.parametrize("reopens", [False, True])


@either
@pytest.mark.parametrize("is_secure", [False, True])
def test_an_open_connection_is_replaced_and_all_arrives(
    is_secure: bool, reopens: bool, tmp_path: Path
) -> None:
    script = f"""
context = ssl.create_default_context(cafile=sys.argv[2]) if {is_secure} else None
start(backoff_base=0.05, drain_interval=60, ssl_context=context)
telemetry.emit("before")
assert telemetry.flush(20)
telemetry.emit("kept")
close_all({reopens})
finish()
"""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = server_context(authority.issue_cert("127.0.0.1")) if is_secure else None
    with RecordingServer(ssl_context=context) as server:
        done = run(HOST + script, server.url, str(tmp_path / "ca.pem"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 1\n", "")
        assert [event["type"] for event in server.events] == ["before", "kept", "after"]


@either
def test_descriptors_that_are_closed_again_and_again_lose_nothing(reopens: bool) -> None:
    script = f"""
import threading
start(backoff_base=0.01, backoff_max=0.02, drain_interval=0.3, capacity=1_000_000)
is_over = threading.Event()
def emit():
    while not is_over.wait(0.0005):
        telemetry.emit("x")
emitter = threading.Thread(target=emit)
emitter.start()
for _ in range(10):
    wait_for_quiet()
    close_all({reopens})
    time.sleep(0.03)
    check_host()
is_over.set()
emitter.join()
errors.count = 1
finish()
"""
    with RecordingServer() as server:
        done = run(HOST + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        delivered = int(done.stdout.split()[0])
        assert {event["seq"] for event in server.events} == set(range(1, delivered + 1))


@either
def test_a_worker_in_its_backoff_is_woken_as_ever(reopens: bool) -> None:
    script = f"""
logging.getLogger("redvsblue_telemetry").propagate = False
start(backoff_base=1e6, backoff_max=1e6)
telemetry.emit("before")
wait_for(ConnectionState.BACKING_OFF)
close_all({reopens})
print("closed", flush=True)
sys.stdin.readline()
finish()
"""
    port = own_port()
    game = play(HOST + script, f"ws://127.0.0.1:{port}/")
    assert said(game, "closed")
    with RecordingServer(port=port) as server:
        done = end_of(game)  # closes its standard input, for which it waits
        assert (done.returncode, done.stdout, done.stderr) == (0, "2 1\n", "")
        assert [event["type"] for event in server.events] == ["before", "after"]


@either
def test_an_attempt_under_way_is_given_up(reopens: bool) -> None:
    script = f"""
start(backoff_base=0.05, connect_timeout=600)
telemetry.emit("before")
wait_for(ConnectionState.CONNECTING)
print("connecting", flush=True)
sys.stdin.readline()
close_all({reopens})
finish()
"""
    came, has_request = itertools.count(), threading.Event()
    with RecordingServer() as server:

        def serve(client: socket.socket) -> None:
            if next(came):
                relay_to(server.port)(client)
                return
            client.recv(65536)  # the request, which is not answered
            has_request.set()
            read_to_the_end(client)

        with raw_server(serve) as port:
            game = play(HOST + script, f"ws://127.0.0.1:{port}/")
            assert said(game, "connecting")
            assert has_request.wait(TIMEOUT)
            done = end_of(game)  # closes its standard input, for which it waits
        assert (done.returncode, done.stdout, done.stderr) == (0, "2 1\n", "")
        assert [event["type"] for event in server.events] == ["before", "after"]


@either
def test_a_worker_that_is_switched_off_is_woken_by_the_toggle(reopens: bool) -> None:
    script = f"""
start(backoff_base=0.05)
telemetry.enabled = False
wait_for(ConnectionState.IDLE)
close_all({reopens})
telemetry.enabled = True
finish()
"""
    with RecordingServer() as server:
        done = run(HOST + script, server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 1\n", "")


NO_DESCRIPTORS = """
import resource
logging.getLogger("redvsblue_telemetry").propagate = False
wait, waits = poller.Poller.wait, []
def counting(*arguments):
    waits.append(arguments)
    return wait(*arguments)
poller.Poller.wait = counting
start(backoff_base=0.05, backoff_max=0.2)
telemetry.emit("before")
assert telemetry.flush(20)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # none can be opened
os.closerange(3, 1000)
telemetry.emit("kept")
begun = len(waits)
assert not telemetry.flush(1)
assert len(waits) - begun < 100, len(waits) - begun
"""


def test_without_descriptors_it_waits_until_there_are_some() -> None:
    script = """
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
finish()
"""
    with RecordingServer() as server:
        done = run(HOST + NO_DESCRIPTORS + script, server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 1\n", "")
        assert [event["type"] for event in server.events] == ["before", "kept", "after"]


def test_without_descriptors_a_stop_is_bounded_and_honest() -> None:
    script = """
begun = time.monotonic()
assert not telemetry.stop(0.5)
assert time.monotonic() - begun < 5
assert not telemetry.flush(1)
assert not telemetry.enabled
while telemetry.stats().state is not ConnectionState.STOPPED:
    time.sleep(0.002)
assert telemetry.stats().dropped_by["left_behind"] == 1
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
again = start_telemetry(enabled=True, url=sys.argv[1])
assert again is not telemetry
again.emit("again")
assert again.flush(20)
"""
    with RecordingServer() as server:
        done = run(HOST + NO_DESCRIPTORS + script, server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [event["type"] for event in server.events] == ["before", "again"]


@needs_fork
@either
def test_a_host_that_forks_into_a_daemon_delivers_from_there(reopens: bool) -> None:
    script = f"""
start(backoff_base=0.05)
telemetry.emit("parent")
assert telemetry.flush(20)
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
telemetry.emit("child")
# Its worker is there, and waits. While it opens a socket, one that is closed and opened again under
# its hands looks the same as its own.
assert telemetry.flush(20)
close_all({reopens})
finish()
"""
    with RecordingServer() as server:
        done = run(HOST + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in ("2 1\n", "2 0\n")
        assert {event["type"] for event in server.events} == {"parent", "child", "after"}


JOURNAL = """
journal = sys.argv[2]
start(journal=journal)
for number in range(3000):
    telemetry.emit("hit", n=number)
telemetry.flush(20)
telemetry.set_online(False)
while telemetry.stats().state.name != "OFFLINE":
    time.sleep(0.01)
for number in range(3000):
    telemetry.emit("hit", n=number)
wait_for_quiet()
close_all(reopens=True)
for number in range(3000):
    telemetry.emit("hit", n=number)
time.sleep(1.5)  # the worker writes checksums, syncs, and makes segments
check_host()
"""


@needs_fork
def test_the_journal_and_its_lock_survive_and_touch_nothing_of_the_host(tmp_path: Path) -> None:
    script = """
print("playing", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with RecordingServer() as server:
        game = play(HOST + JOURNAL + script, server.url, str(tmp_path / "journal"))
        assert said(game, "playing"), end_of(game).stderr
        heir = """
telemetry = start_telemetry(enabled=True, url=sys.argv[1], journal=sys.argv[2])
assert telemetry.stop(20)
"""
        assert run(IMPORT + heir, server.url, str(tmp_path / "journal")).returncode == 0
        assert len(server.events) == 3000  # another process leaves its run alone
        assert game.stdin is not None
        game.stdin.write("die\n")
        game.stdin.flush()
        assert end_of(game).returncode < 0
        heir = """
telemetry = start_telemetry(enabled=True, url=sys.argv[1], journal=sys.argv[2])
while telemetry.stats().recovered < 6000 or telemetry.stats().in_flight:
    time.sleep(0.01)
assert telemetry.stop(20)
"""
        done = run(IMPORT + heir, server.url, str(tmp_path / "journal"))
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted({event["seq"] for event in server.events}) == list(range(1, 9001))


@needs_fork
def test_a_stop_with_a_journal_closes_nothing_of_the_host(tmp_path: Path) -> None:
    script = """
telemetry.set_online(True)
finish()
print(os.listdir(journal))
"""
    with RecordingServer() as server:
        done = run(HOST + JOURNAL + script, server.url, str(tmp_path / "journal"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        assert [event["seq"] for event in server.events][-1] == 9001
