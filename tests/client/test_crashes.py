"""Crash events: real games that crash, each as a separate process, with a real server."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._crashes import _message_of
from redvsblue_telemetry.testing import RecordingServer
from tests.support import REPOSITORY
from tests.support.command import environment
from tests.support.looping_games import GAME, PATIENCE, Played, data_of, run_game, start_game
from tests.support.systems import IS_WINDOWS, needs_fork

REPORTS = """
import threading
class GameError(Exception):
    pass
def hit(ship):
    password = "hunter2"
    raise GameError(f"no such ship: {ship}")
"""
LINE = (GAME + REPORTS).splitlines().index('    raise GameError(f"no such ship: {ship}")') + 1


def play(script: str, **settings: Any) -> Played:
    return run_game(REPORTS + textwrap.dedent(script), crash_events=True, **settings)


@pytest.fixture
def hooks() -> Iterator[None]:
    """Restore the hooks of this process."""
    before = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = before


def test_a_crash_in_the_main_thread_is_delivered_before_the_process_ends() -> None:
    played = play("hit('red-3')")

    assert played.code == 1
    assert played.errors.endswith("GameError: no such ship: red-3\n")
    assert played.reason == "crashed"
    [crash] = data_of(played.events, "crash")
    line = len((GAME + REPORTS).splitlines()) + 1
    assert crash == {
        "exception": "__main__.GameError",
        "message": "no such ship: red-3",
        "stack": [f"<string>:{line} in <module>", f"<string>:{LINE} in hit"],
        "thread": "MainThread",
    }
    assert "hunter2" not in json.dumps(played.events)


def test_a_crash_in_a_thread_is_not_the_end_of_the_game() -> None:
    played = play("""
    thread = threading.Thread(target=hit, args=("blue-1",), name="shipyard")
    thread.start()
    thread.join()
    telemetry.emit("played_on")
    """)

    assert played.code == 0
    assert "GameError: no such ship: blue-1" in played.errors
    assert played.reason == "exit"
    assert [event["type"] for event in played.events] == ["crash", "played_on"]
    [crash] = data_of(played.events, "crash")
    assert crash["thread"] == "shipyard"
    assert crash["stack"][-1] == f"<string>:{LINE} in hit"
    assert crash["stack"][0].startswith("threading.py:")


def test_a_crash_of_the_thread_that_calls_frame_is_the_end_of_the_game() -> None:
    played = play("""
    def game_loop():
        telemetry.frame()
        telemetry.frame()
        hit("red-1")
    thread = threading.Thread(target=game_loop)
    thread.start()
    thread.join()
    """)

    assert played.reason == "crashed"
    assert [event["type"] for event in played.events] == ["crash", "frames"]


@needs_fork
def test_a_forked_child_whose_first_event_is_its_crash_has_crashed() -> None:
    script = """
    telemetry.emit("begun")
    telemetry.flush(10)
    if (child := os.fork()) == 0:
        hit("g")
    os.waitpid(child, 0)
    """
    with RecordingServer() as server:
        game = start_game(
            REPORTS + textwrap.dedent(script), server, crash_events=True, session_id="played"
        )
        _, errors = game.communicate(timeout=PATIENCE)
        assert game.returncode == 0, errors
        assert len(data_of(server.events, "crash")) == 1
        reasons = {report["sessionId"]: report.get("reason") for report in server.reports}
    assert reasons.pop("played") == "exit"
    assert [*reasons.values()] == ["crashed"]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("import signal; signal.raise_signal(signal.SIGINT)", -2),
        ("raise KeyboardInterrupt", -2),
        ("sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("threading.Thread(target=sys.exit).start()", 0),
        ("pass", 0),
    ],
)
def test_a_ctrl_c_and_an_exit_are_not_crashes(ending: str, code: int) -> None:
    played = play(f"telemetry.emit('begun')\ntelemetry.flush(10)\n{ending}")

    if sys.platform != "win32":
        assert played.code == code
    assert played.reason == "exit"
    assert [event["type"] for event in played.events] == ["begun"]


def test_hooks_that_were_there_are_called() -> None:
    script = """
    sys.excepthook = lambda kind, error, traceback: print("main:", kind.__name__, error)
    threading.excepthook = lambda args: print("thread:", args.thread.name, args.exc_value)
    telemetry.stop()
    telemetry = start_telemetry(enabled=True, **settings)
    thread = threading.Thread(target=hit, args=("a",), name="T")
    thread.start()
    thread.join()
    hit("b")
    """
    played = play(script)

    assert played.printed == [
        "thread: T no such ship: a",
        "main: GameError no such ship: b",
    ]
    assert played.reason == "crashed"
    assert played.errors == ""
    assert [data["thread"] for data in data_of(played.events, "crash")] == ["T", "MainThread"]


def test_a_hook_of_the_game_may_raise_or_leave() -> None:
    for hook in ("1 / 0", "telemetry.stop(); os._exit(7)"):
        played = play(f"""
    def hook(*args):
        {hook}
    sys.excepthook = hook
    telemetry.stop()
    telemetry = start_telemetry(enabled=True, **settings)
    hit("c")
    """)
        assert played.code == (1 if "0" in hook[:5] else 7)
        assert len(data_of(played.events, "crash")) == 1


def test_an_exception_that_passes_both_hooks_is_one_crash() -> None:
    played = play("""
    threading.excepthook = lambda args: sys.excepthook(args.exc_type, args.exc_value, None)
    telemetry.stop()
    telemetry = start_telemetry(enabled=True, **settings)
    for name in "ab":
        thread = threading.Thread(target=hit, args=(name,))
        thread.start()
        thread.join()
    """)

    messages = [data["message"] for data in data_of(played.events, "crash")]
    assert messages == ["no such ship: a", "no such ship: b"]


def test_messages_and_stacks_have_bounds() -> None:
    played = play("""
    class Long(Exception): pass
    class Unprintable(Exception):
        def __str__(self):
            raise SystemExit("and nothing may come of it")
    def deeper(n, error):
        if n: deeper(n - 1, error)
        raise error
    home = os.path.expanduser("~")
    for error in (
        Long("x" * 10**6), Unprintable(), Long("\\ud800\\x00"), Long(),
        FileNotFoundError(2, "No such file", os.path.join(home, "saves", "1")),
    ):
        thread = threading.Thread(target=deeper, args=(100, error))
        thread.start()
        thread.join()
    """)

    crashes = data_of(played.events, "crash")
    assert [data["message"] for data in crashes] == [
        "x" * 500,
        "(its message could not be read)",
        "\\ud800\x00",
        "",
        f"[Errno 2] No such file: {os.path.join('~', 'saves', '1')!r}",
    ]
    assert all(len(data["stack"]) == 50 for data in crashes)
    assert crashes[-1]["exception"] == "FileNotFoundError"


@pytest.mark.parametrize(
    ("home", "message", "shown"),
    [
        ("/home/anna", "no /home/anna/a.png", "no ~/a.png"),
        ("/home/anna", "no /home/annabel/a.png", "no /home/annabel/a.png"),
        ("/home/a+b", "no /home/a+b/a.png", "no ~/a.png"),
        (r"C:\Users\Jürgen", r"no C:\Users\Jürgen\a.png", r"no ~\a.png"),
        (r"C:\Users\Jürgen", repr(r"C:\Users\Jürgen\a.png"), r"'~\\a.png'"),
        (r"C:\Users\Jürgen", "no C:/Users/Jürgen/a.png", "no ~/a.png"),
        (r"C:\Users\Jürgen", r"no c:\users\JÜRGEN/a.png", "no ~/a.png"),
    ],
)
def test_a_message_does_not_name_the_player(
    monkeypatch: pytest.MonkeyPatch, home: str, message: str, shown: str
) -> None:
    monkeypatch.setenv("USERPROFILE" if IS_WINDOWS else "HOME", home)
    assert _message_of(RuntimeError(message)) == shown


def test_a_crash_fits_into_small_events() -> None:
    script = """
    class Long(Exception): pass
    def deeper(n):
        if n: deeper(n - 1)
        raise Long("\\x00" * 10**6)
    deeper(100)
    """
    for most in (1024, 4096):
        [crash] = data_of(play(script, max_event_bytes=most).events, "crash")
        assert crash["stack"][-1].endswith(" in deeper")
        assert crash["message"]


def test_a_recursion_without_end_is_a_crash_like_any_other() -> None:
    played = play("def again(): again()\nagain()")

    [crash] = data_of(played.events, "crash")
    assert crash["exception"] == "RecursionError"
    assert len(crash["stack"]) == 50


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        ('hit("d")', "crashed"),
        ("sys.exit()", "stopped"),
        ("raise KeyboardInterrupt", "stopped"),
        ("import asyncio; raise asyncio.CancelledError", "stopped"),  # as by a Ctrl-C
        ("raise GeneratorExit", "stopped"),
    ],
)
def test_a_crash_that_leaves_a_with_block_is_recorded(leave: str, reason: str) -> None:
    played = play(f"with telemetry: telemetry.emit('begun'); telemetry.flush(10); {leave}")

    assert played.reason == reason
    messages = [data["message"] for data in data_of(played.events, "crash")]
    assert messages == (["no such ship: d"] if reason == "crashed" else [])


def test_without_crash_events_the_session_has_crashed_all_the_same() -> None:
    played = run_game(REPORTS + "telemetry.emit('begun')\ntelemetry.flush(10)\nhit('f')")

    assert (played.reason, len(played.events)) == ("crashed", 1)
    assert played.errors.endswith("GameError: no such ship: f\n")


@pytest.mark.usefixtures("hooks")
def test_the_hooks_are_there_from_the_start_to_the_stop() -> None:
    def hook(*_: object) -> None:
        pass

    sys.excepthook = threading.excepthook = hook
    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, crash_events=True)
        telemetry = Telemetry(settings)
        assert sys.excepthook is threading.excepthook is hook
        telemetry.start()
        assert sys.excepthook is not hook
        assert threading.excepthook is not hook
        telemetry.stop()
        assert sys.excepthook is threading.excepthook is hook


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "settings",
    [
        TelemetrySettings(enabled=False, crash_events=True),
        TelemetrySettings(enabled=True, crash_events=False),
    ],
    ids=["off", "without crash events"],
)
def test_otherwise_nothing_is_installed(settings: TelemetrySettings) -> None:
    before = sys.excepthook, threading.excepthook
    telemetry = Telemetry(settings).start()
    try:
        assert (sys.excepthook, threading.excepthook) == before
    finally:
        telemetry.stop(0)


@pytest.mark.usefixtures("hooks")
def test_hooks_under_those_of_others_stay_and_do_nothing() -> None:
    seen: list[object] = []
    sys.excepthook = lambda *args: seen.append(args[1])
    threading.excepthook = lambda args: seen.append(args.exc_value)
    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, crash_events=True)
        telemetry = Telemetry(settings).start()
        ours, ours_for_threads = sys.excepthook, threading.excepthook
        sys.excepthook = functools.partial(ours)
        threading.excepthook = functools.partial(ours_for_threads)
        theirs = sys.excepthook
        first, second = ValueError(), ValueError()
        sys.excepthook(ValueError, first, None)
        telemetry.stop()
        assert sys.excepthook is theirs
        sys.excepthook(ValueError, second, None)
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()

    assert seen[:2] == [first, second]
    assert type(seen[2]) is ZeroDivisionError
    assert len(data_of(server.events, "crash")) == telemetry.stats().emitted == 1


@pytest.mark.usefixtures("hooks")
def test_while_the_toggle_is_off_nothing_is_recorded() -> None:
    seen: list[object] = []
    sys.excepthook = lambda *args: seen.append(args[1])
    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, crash_events=True)
        with Telemetry(settings) as telemetry:
            telemetry.enabled = False
            sys.excepthook(ValueError, ValueError(), None)
            assert telemetry.stats().emitted == 0
            telemetry.enabled = True
            sys.excepthook(ValueError, ValueError(), None)
            assert telemetry.stats().emitted == 1
    assert len(seen) == 2


def test_a_crash_is_in_the_journal_when_a_hook_kills_the_game(tmp_path: Path) -> None:
    script = """
    telemetry.set_online(False)
    while telemetry.stats().state.name != "OFFLINE":
        time.sleep(0.01)
    sys.excepthook, ours = (lambda *args: (ours(*args), os._exit(9))), sys.excepthook
    hit("e")
    """
    assert play(script, journal=str(tmp_path)).events == []

    script = """
    while not telemetry._connector.adoption.is_done:  # a stop would not wait for that
        time.sleep(0.01)
    """
    events = play(script, journal=str(tmp_path)).events

    assert [data["message"] for data in data_of(events, "crash")] == ["no such ship: e"]


def test_pytest_still_warns_about_threads_that_die(tmp_path: Path) -> None:
    (tmp_path / "test_game.py").write_text(
        textwrap.dedent("""
        import threading
        from redvsblue_telemetry import Telemetry, TelemetrySettings
        from redvsblue_telemetry.testing import RecordingServer

        def crash(name):
            thread = threading.Thread(target=lambda: 1 / 0, name=name)
            thread.start()
            thread.join()

        def test_game():
            hook = threading.excepthook
            with RecordingServer() as server:
                settings = TelemetrySettings(enabled=True, url=server.url, crash_events=True)
                with Telemetry(settings):
                    crash("doomed")
                assert server.wait_for(1)
                assert server.events[0]["data"]["thread"] == "doomed"
            assert threading.excepthook is hook
            crash("doomed, too")
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", str(tmp_path)],
        cwd=tmp_path,
        env=environment(is_measured=False, PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "1 passed, 2 warnings" in done.stdout, done.stdout
    for name in ("doomed", "doomed, too"):
        assert f"PytestUnhandledThreadExceptionWarning: Exception in thread {name}\n" in done.stdout
