"""Forks: the child is on its own, the parent undisturbed."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_process import IMPORT, START, end_of, play, run, said
from tests.support.fault_proxy import FaultProxy
from tests.support.raw_server import raw_server, read_request, read_to_the_end, shake_hands
from tests.support.systems import needs_fork, needs_proc
from tests.support.wait import wait_until

FORK = """
def forked(play):
    child = os.fork()
    if child == 0:
        try:
            os._exit(play() or 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(99)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def seqs(server: RecordingServer, type: str) -> list[int]:
    return [event["seq"] for event in server.events if event["type"] == type]


def sessions(server: RecordingServer, type: str) -> set[str]:
    return {event["sessionId"] for event in server.events if event["type"] == type}


@needs_fork
def test_a_forked_child_has_a_session_and_a_worker_of_its_own() -> None:
    script = """
for number in range(100):
    telemetry.emit("parent", i=number)
def child():
    if telemetry.stats() != TelemetryStats():
        return 3
    telemetry.emit("child")
    return 0 if telemetry.stop(20) and telemetry.stats().delivered == 1 else 4
assert ended(forked(child)) == 0
telemetry.emit("parent")
assert telemetry.flush(20)
assert telemetry.stats().reconnects == 0
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(102)
        assert seqs(server, "parent") == list(range(1, 102))
        assert seqs(server, "child") == [1]
        assert len(sessions(server, "parent")) == len(sessions(server, "child")) == 1
        assert sessions(server, "parent") != sessions(server, "child")


@needs_fork
def test_a_child_reports_its_session_and_numbers_its_reports_from_one() -> None:
    script = """
telemetry.emit("parent")
telemetry.push({"type": "parent", "sessionId": "other"})  # a gap that is not the child's
assert telemetry.flush(20)
def child():
    telemetry.emit("child")
    return 0 if telemetry.stop(20) else 4
assert ended(forked(child)) == 0
telemetry.emit("parent")
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        (child,) = sessions(server, "child")
        of_child = [report for report in server.reports if report["sessionId"] == child]
        of_parent = [report for report in server.reports if report["sessionId"] != child]
    assert [(each["number"], each.get("reason")) for each in of_child] == [
        (1, None),
        (2, "stopped"),
    ]
    assert [(each["number"], each.get("reason")) for each in of_parent] == [(1, None), (2, "exit")]
    assert (of_child[-1]["lastSeq"], of_child[-1]["gaps"]) == (1, [])
    assert (of_parent[-1]["lastSeq"], of_parent[-1]["gaps"]) == (3, [[2, 2, "forwarded"]])
    assert of_child[0]["startedAt"] >= of_parent[0]["startedAt"]


@needs_fork
def test_a_child_explains_what_was_dropped_before_it_had_a_worker() -> None:
    script = """
def child():
    import threading
    lock = telemetry._life.lock  # while another thread has it, an event starts no worker
    taken, release = threading.Event(), threading.Event()
    def hold():
        with lock:
            taken.set()
            release.wait()
    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    for _ in range(3):
        telemetry.emit("before the worker")
    release.set()
    holder.join()
    telemetry.enabled = False
    telemetry.enabled = True
    telemetry.emit("child")
    return 0 if telemetry.stop(20) else 4
assert ended(forked(child)) == 0
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        (child,) = sessions(server, "child")
        last = [report for report in server.reports if report["sessionId"] == child][-1]
    assert (last["lastSeq"], last["delivered"]) == (4, 1)
    assert last["gaps"] == [[1, 3, "switched_off"]]
    assert last["dropped"] == {"switched_off": 3}


@needs_fork
@pytest.mark.parametrize("takes", [0, 100_000], ids=["in the handshake", "in a batch"])
def test_a_fork_in_the_midst_of_sending_disturbs_neither(takes: int) -> None:
    # The batch is larger than what sockets hold, so the worker has it half written.
    script = """
telemetry = start_telemetry(
    enabled=True, url=sys.argv[1], connect_timeout=60, confirm_timeout=60,
    batch_size=1200, max_batch_bytes=2**25,
)
for _ in range(1200):
    telemetry.emit("parent", text="x" * 15_000)
print("playing", flush=True)
sys.stdin.readline()
is_amid = lambda: (
    telemetry.stats().state.value == "connecting" or telemetry._connector._connection.unwritten
)
deadline = time.monotonic() + 20
while not is_amid():  # the first of several batches can be small
    assert time.monotonic() < deadline
    time.sleep(0.001)
def child():
    telemetry.emit("child")
    return 0 if telemetry.flush(20) and telemetry.stop(20) else 4
for _ in range(2):
    assert ended(forked(child)) == 0
print("forked", flush=True)
assert telemetry.flush(30)
assert telemetry.stats().delivered == 1200
assert telemetry.stats().reconnects == 0
"""
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=takes) as proxy,
    ):
        game = play(IMPORT + FORK + script, proxy.url)
        assert said(game, "playing")
        assert wait_until(lambda: proxy.has_stalled)
        assert game.stdin is not None
        game.stdin.write("go on\n")
        game.stdin.flush()
        has_forked = said(game, "forked")
        proxy.go_on()
        done = end_of(game)
        assert (done.returncode, done.stderr, has_forked) == (0, "", True)
        assert seqs(server, "parent") == list(range(1, 1201))
        assert seqs(server, "child") == [1, 1]
        assert len(sessions(server, "child")) == 2


@needs_fork
def test_many_forks_in_a_row() -> None:
    script = """
def child():
    telemetry.emit("child")
    return 0 if telemetry.stop(20) else 4
children = []
for _ in range(20):
    telemetry.emit("parent")
    children.append(forked(child))
assert [ended(child) for child in children] == [0] * 20
assert telemetry.flush(20)
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert seqs(server, "parent") == list(range(1, 21))
        assert seqs(server, "child") == [1] * 20
        assert len(sessions(server, "child")) == 20


@needs_fork
def test_a_child_is_not_held_up_by_what_a_thread_of_its_parent_was_at() -> None:
    script = """
import threading
is_over = False
def toggle():
    while not is_over:
        telemetry.enabled = not telemetry.enabled
threading.Thread(target=toggle).start()
def child():
    signal.alarm(10)  # kills it, if it hangs
    telemetry.enabled = True
    telemetry.emit("child")
    return 0 if telemetry.stop(20) else 4
codes = [ended(forked(child)) for _ in range(8)]
is_over = True
assert codes == [0] * 8, codes
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert seqs(server, "child") == [1] * 8


@needs_fork
@needs_proc
def test_a_child_inherits_no_descriptor() -> None:
    script = """
descriptors = lambda: len(os.listdir("/proc/self/fd"))
before = descriptors()
telemetry = start_telemetry(enabled=True, url=sys.argv[1])
telemetry.emit("x")
assert telemetry.flush(20) and descriptors() > before
assert ended(forked(lambda: descriptors() != before)) == 0
"""
    with RecordingServer() as server:
        done = run(IMPORT + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_a_child_that_forks_before_its_first_event_leaves_its_own_child_one_that_works() -> None:
    script = """
def grandchild():
    telemetry.emit("grandchild")
    return 0 if telemetry.stop(20) else 4
assert ended(forked(lambda: ended(forked(grandchild)))) == 0
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert seqs(server, "grandchild") == [1]


@needs_fork
@pytest.mark.parametrize("ending", ["", "sys.exit()", "raise KeyboardInterrupt"])
def test_a_child_that_ends_as_a_game_does_flushes_as_a_game_does(ending: str) -> None:
    script = f"""
telemetry.emit("parent")
child = os.fork()
if child == 0:
    telemetry.emit("child")
    {ending or "pass"}
else:
    os.waitpid(child, 0)
"""
    with RecordingServer() as server:
        assert run(START + script, server.url).returncode == 0
        assert (seqs(server, "parent"), seqs(server, "child")) == ([1], [1])


@needs_fork
def test_a_child_inherits_what_player_and_host_have_said() -> None:
    script = """
def switched_off():
    telemetry.emit("never")
    assert telemetry.stats() == TelemetryStats(), telemetry.stats()
    telemetry.enabled = True
    telemetry.emit("on again")
    return 0 if telemetry.stop(20) else 4
telemetry.enabled = False
assert ended(forked(switched_off)) == 0
telemetry.enabled = True

def offline():
    telemetry.emit("offline")
    assert not telemetry.flush(0.2)
    assert telemetry.stats().state is ConnectionState.OFFLINE
    telemetry.set_online(True)
    return 0 if telemetry.stop(20) else 4
telemetry.set_online(False)
assert ended(forked(offline)) == 0
telemetry.set_online(True)

def told_before_its_first_event():
    telemetry.set_online(False)
    telemetry.emit("never")
    assert not telemetry.flush(0.2)
    assert telemetry.stats().state is ConnectionState.OFFLINE
    return 0 if not telemetry.stop(20) and telemetry.stats().dropped == 1 else 4
assert ended(forked(told_before_its_first_event)) == 0
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert [event["type"] for event in server.events] == ["on again", "offline"]


@needs_fork
def test_a_switched_on_child_gathers_its_events_as_its_parent_does() -> None:
    # A worker that each event woke would cost the game a system call an event.
    script = """
telemetry = start_telemetry(enabled=True, url=sys.argv[1], drain_interval=60)
def child():
    telemetry.enabled = True
    telemetry.emit("first")
    telemetry.flush(20)
    for _ in range(100):
        telemetry.emit("x")
        time.sleep(0.001)
    return 0 if telemetry.stats().buffered == 100 else 4
telemetry.enabled = False
assert ended(forked(child)) == 0
"""
    with RecordingServer() as server:
        done = run(IMPORT + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_a_child_without_a_thread_to_be_had_is_off_and_its_game_goes_on() -> None:
    script = """
import logging, threading
logging.disable()
def child():
    def fail(*_):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = fail
    telemetry.emit("x")
    telemetry.emit("y")
    stats = telemetry.stats()
    assert not telemetry.enabled and (stats.emitted, stats.dropped) == (1, 1), stats
    return 0 if telemetry.stop() else 0
assert ended(forked(child)) == 0
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_a_log_handler_that_emits_in_a_child_gets_no_second_worker() -> None:
    # A token over an unencrypted wire is warned of when the worker starts.
    script = """
import logging, threading
class Handler(logging.Handler):
    def emit(self, record):
        emit("log")
logging.getLogger("redvsblue_telemetry").addHandler(Handler())
telemetry = start_telemetry(
    enabled=True, url="ws://name.invalid/", token="hush", capacity=100
)
def child():
    telemetry.emit("x")
    workers = [t for t in threading.enumerate() if t.name == "redvsblue-telemetry"]
    assert len(workers) == 1, workers
    assert telemetry.stats().emitted >= 2
assert ended(forked(child)) == 0
telemetry.stop(0)
"""
    done = run(IMPORT + FORK + script)
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
@pytest.mark.parametrize("is_open", [True, False])
def test_a_child_that_lives_on_does_not_keep_its_parents_connection(is_open: bool) -> None:
    # The child never emits; when its parent is gone, the server has to see that at once.
    script = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
telemetry = start_telemetry(enabled=True, url=sys.argv[1])
signal.sigwait({signal.SIGUSR1})
while telemetry.stats().state.value != sys.argv[2]:
    time.sleep(0.01)
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
os._exit(0)
"""
    has_come, is_gone = threading.Event(), threading.Event()

    def watch(client: socket.socket) -> None:
        (shake_hands if is_open else read_request)(client)
        has_come.set()
        read_to_the_end(client)
        is_gone.set()

    with raw_server(watch) as port:
        state = "connected" if is_open else "connecting"
        game = play(IMPORT + script, f"ws://127.0.0.1:{port}/", state)
        assert has_come.wait(20)
        game.send_signal(signal.SIGUSR1)
        assert game.stdout is not None
        child = int(game.stdout.readline())
        try:
            assert game.wait(20) == 0
            assert is_gone.wait(5)
        finally:
            os.kill(child, signal.SIGKILL)
            end_of(game)
