"""Off erases: after a no, nothing that a player did is on the disk, whichever game put it there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.test_journal_disk import FLUSHED
from tests.support.collector import collector_running
from tests.support.games import (
    GAME,
    OFFLINE,
    PLAY,
    Game,
    all_of,
    contents,
    leave_behind,
    nowhere,
    numbers,
    run_game,
)
from tests.support.systems import IS_WINDOWS, IS_WINE, needs_fork, needs_links

pytestmark = pytest.mark.timeout(240)  # several processes, one after the other

PROMISED = 0.1  # seconds until nothing is left
# In seconds, on a machine that has other things to do. Wine does not show how fast Windows is.
ALLOWED = (100 if IS_WINE else 10) * PROMISED

OFF = """
def off():
    "Say no; print how long it took and what was left."
    begun = time.perf_counter()
    telemetry.enabled = False
    took = time.perf_counter() - begun
    say(f"{took:.6f}", *found())
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def erased_in_time(line: str) -> bool:
    took, *left = line.split(" ")
    return not left and float(took) < ALLOWED


def test_the_toggle_erases_this_run_and_those_of_games_that_are_long_gone(journal: Path) -> None:
    for _ in range(3):
        leave_behind(journal)
    script = """
emit(5000, each=10000)  # more than one file of them
assert len(found()) > 10, found()
off()
assert telemetry.stats().dropped_by["switched_off"] == 5000
telemetry.emit("while off")
time.sleep(0.2)
say(*found())
"""
    done = run_game(OFFLINE + OFF + script, nowhere(), journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    erased, left = done.printed
    assert erased_in_time(erased)
    assert left == ""
    assert contents(journal) == []


def test_what_comes_after_a_yes_is_safe_again_and_nothing_from_before_it(journal: Path) -> None:
    session = leave_behind(journal)
    script = """
emit(100)
off()
telemetry.emit("while off")
telemetry.enabled = True
emit(50)
assert found()
say(telemetry.session_id)
die()
"""
    done = run_game(OFFLINE + OFF + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    erased, own = done.printed
    assert erased_in_time(erased)
    with collector_running() as collector:
        script = (
            "wait_for(lambda: telemetry.stats().recovered == telemetry.stats().delivered == 50)"
        )
        done = run_game(PLAY + script + FLUSHED, collector.url, journal)
        assert done.code == 0, str(done)
        assert numbers(collector, own) == list(range(101, 151))
        assert numbers(collector, session) == []
    assert contents(journal) == []


OFFS = [
    ("telemetry = start_telemetry(**settings)", {"REDVSBLUE_ENABLE_TELEMETRY": "false"}),
    ("telemetry = start_telemetry(**settings)", {"DO_NOT_TRACK": "1"}),
    ("settings['enabled'] = False; telemetry = start_telemetry(**settings)", {}),
    ("del settings['enabled']; telemetry = start_telemetry(**settings)", {}),
    ("telemetry = start_telemetry()", {"DO_NOT_TRACK": "1", "REDVSBLUE_TELEMETRY_JOURNAL": "…"}),
    (
        "telemetry = start_telemetry()",
        {"REDVSBLUE_ENABLE_TELEMETRY": "0", "REDVSBLUE_TELEMETRY_JOURNAL": "…"},
    ),
    ("telemetry = start_telemetry()", {"REDVSBLUE_TELEMETRY_JOURNAL": "…"}),
    (
        "telemetry = start_telemetry(enabled=True)",
        {"DO_NOT_TRACK": "yes", "REDVSBLUE_TELEMETRY_JOURNAL": "…"},
    ),
    (  # what else is wrong doesn't matter to a kill switch
        "telemetry = start_telemetry(**settings)",
        {"DO_NOT_TRACK": "1", "REDVSBLUE_TELEMETRY_BATCH_SIZE": "many"},
    ),
    (
        "telemetry = start_telemetry()",
        {
            "DO_NOT_TRACK": "1",
            "REDVSBLUE_TELEMETRY_JOURNAL": "…",
            "REDVSBLUE_TELEMETRY_BATCH_SIZE": "many",
        },
    ),
]


@pytest.mark.parametrize(("start", "variables"), OFFS, ids=map(str, range(len(OFFS))))
def test_a_start_that_is_off_erases_what_earlier_games_left(
    start: str, variables: dict[str, str], journal: Path
) -> None:
    for _ in range(3):
        leave_behind(journal)
    script = f"""
begun = time.perf_counter()
{start}
took = time.perf_counter() - begun
say(f"{{took:.6f}}", *found())
assert not telemetry.enabled
telemetry.emit("off")
telemetry.enabled = True
telemetry.emit("off")
assert telemetry.flush() and telemetry.stop()
say(*found())
"""
    variables = {name: text.replace("…", str(journal)) for name, text in variables.items()}
    done = run_game(GAME + script, nowhere(), journal, variables=variables)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert erased_in_time(done.printed[0]), str(done)
    assert contents(journal) == []


@pytest.mark.parametrize(
    "variables",
    [
        {"REDVSBLUE_TELEMETRY_BATCH_SIZE": "many"},
        {"REDVSBLUE_ENABLE_TELEMETRY": "perhaps"},
        {"REDVSBLUE_TELEMETRY_JOURNAL_MAX_BYTES": "-1"},
        {"REDVSBLUE_TELEMETRY_JOURNAL_MAX_AGE": "never"},
    ],
    ids=str,
)
def test_a_wrong_environment_turns_telemetry_off_but_erases_nothing(
    variables: dict[str, str], journal: Path
) -> None:
    session = leave_behind(journal)
    before = contents(journal)
    done = run_game(PLAY + "assert not telemetry.enabled", nowhere(), journal, variables=variables)
    assert done.code == 0, str(done)
    (line,) = done.troubles
    assert line.startswith("ERROR redvsblue_telemetry: telemetry is off: ")
    assert contents(journal) == before
    with collector_running() as collector:
        script = "wait_for(lambda: balance().delivered == 100)"
        done = run_game(PLAY + script, collector.url, journal)
        assert done.code == 0, str(done)
        assert numbers(collector, session) == all_of(100)


def test_a_wrong_keyword_erases_nothing(journal: Path) -> None:
    leave_behind(journal)
    before = contents(journal)
    script = """
try:
    start_telemetry(**settings, batch_size=0)
except SettingsError:
    say("refused")
try:
    start_telemetry(**{**settings, "enabled": False}, batch_size=0)
except SettingsError:
    say("refused")
"""
    done = run_game(GAME + script, nowhere(), journal)
    assert (done.code, done.printed) == (0, ["refused"] * 2), str(done)
    assert contents(journal) == before


@pytest.mark.parametrize("way", ["toggle", "flag", "kill switch"])
def test_a_run_of_a_game_that_is_alive_is_not_touched(way: str, journal: Path) -> None:
    live = """
emit(100)
wait_for(lambda: telemetry._connector.adoption.is_done)  # it takes over nothing that comes later
say(telemetry.session_id)
sys.stdin.readline()
emit(5000, each=10000)
die()
"""
    with collector_running() as collector, Game(OFFLINE + live, nowhere(), journal) as game:
        session = game.line()
        dead = leave_behind(journal)
        own = [
            path for path in contents(journal) if not path.endswith(".new")
        ]  # not there for long
        if way == "toggle":
            done = run_game(OFFLINE + OFF + "emit(10); off()", nowhere(), journal)
        elif way == "flag":
            done = run_game(PLAY, nowhere(), journal, enabled=False)
        else:
            done = run_game(PLAY, nowhere(), journal, variables={"DO_NOT_TRACK": "1"})
        assert done.code == 0, str(done)
        assert done.troubles == [], str(done)
        left = contents(journal)
        assert not [path for path in left if not path.startswith(session)]
        assert {path for path in own if path.startswith(session)} <= set(left)
        game.tell()
        assert game.end().troubles == []
        script = "wait_for(lambda: telemetry.stats().delivered == 5100)"
        done = run_game(PLAY + script + FLUSHED, collector.url, journal)
        assert done.code == 0, str(done)
        assert numbers(collector, session) == all_of(5100)
        assert numbers(collector, dead) == []
    assert contents(journal) == []


STUCK = """
import socket
is_stuck, may_go_on = threading.Event(), threading.Event()

def hang(*arguments, **keywords):
    is_stuck.set()
    may_go_on.wait()
    return arguments[0] if arguments else None
"""
STUCK_IN = {
    "a token": "settings.update(token=lambda: hang('token'))",
    "before_send": "settings.update(before_send=hang)",
    "on_state_change": "settings.update(on_state_change=hang)",
    "a look-up": "socket.getaddrinfo = hang; settings.update(url='ws://game.example/')",
}


@pytest.mark.parametrize("adopts", [False, True], ids=["own", "adopted"])
@pytest.mark.parametrize("where", STUCK_IN)
def test_a_worker_that_is_stuck_keeps_nothing_from_being_erased(
    where: str, adopts: bool, journal: Path
) -> None:
    if adopts:
        leave_behind(journal)
    script = f"""
telemetry = start_telemetry(**settings)
{"" if adopts else "emit(10)"}
assert is_stuck.wait(30)
emit(10)
assert found()
off()
may_go_on.set()
wait_for(lambda: telemetry.stats().state is ConnectionState.IDLE)
time.sleep(0.2)
say(*found())
assert balance().delivered == 0
"""
    with collector_running() as collector:
        done = run_game(GAME + STUCK + STUCK_IN[where] + OFF + script, collector.url, journal)
        assert done.code == 0, str(done)
        erased, later = done.printed
        assert erased_in_time(erased), str(done)
        assert later == ""
        assert list(collector.events) == []
    assert contents(journal) == []


def test_a_worker_that_is_stuck_for_good_keeps_nothing_from_being_erased(journal: Path) -> None:
    leave_behind(journal)
    script = """
telemetry = start_telemetry(**settings)
assert is_stuck.wait(30)
emit(10)
off()
telemetry.stop(0.1)
say(*found())
"""
    with collector_running() as collector:
        way = STUCK_IN["before_send"]
        done = run_game(GAME + STUCK + way + OFF + script, collector.url, journal)
        assert done.code == 0, str(done)
        erased, later = done.printed
        assert erased_in_time(erased), str(done)
        assert later == ""
    assert contents(journal) == []


@pytest.mark.parametrize("links", [[], pytest.param(["link"], marks=needs_links)])
def test_what_is_not_the_journals_own_stays(links: list[str], journal: Path) -> None:
    session = leave_behind(journal)
    (journal / "saves").mkdir()
    foreign = {
        journal / "notes.txt": "by a player",
        journal / ".hidden": "",
        journal / "saves" / "slot-1.sav": "of a game",
        journal / "saves" / "00000001.txt": "of a game",
    }
    for path, text in foreign.items():
        path.write_text(text)
    (journal / "empty").mkdir()
    for link in links:
        (journal / link).symlink_to(journal / "saves", target_is_directory=True)
    done = run_game(PLAY, nowhere(), journal, enabled=False)
    assert done.code == 0, str(done)
    assert {path: path.read_text() for path in foreign} == foreign
    assert not (journal / session).exists()
    left = ["empty", "saves", *links, *(path.relative_to(journal).as_posix() for path in foreign)]
    assert contents(journal) == sorted(left)


AUDITED = """
import sys, json
seen = []
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")

def audit(event, arguments):
    if event in CHANGES or (event == "open" and arguments[1] not in (None, "r", "rb")):
        seen.append((event, str(arguments)))
    elif event in ("open", "os.listdir", "os.scandir") and "journal" in str(arguments[0]):
        if "redvsblue_telemetry" not in str(arguments[0]):  # the package's own modules
            seen.append((event, str(arguments)))

sys.dont_write_bytecode = True
"""


def read_at(journal: Path) -> dict[Path, int]:
    """Return when each file was read last."""
    return {path: path.stat().st_atime_ns for path in journal.rglob("*") if path.is_file()}


def test_a_start_without_a_journal_touches_no_file(journal: Path, tmp_path: Path) -> None:
    session = leave_behind(journal)
    before = read_at(journal)
    script = """
sys.addaudithook(audit)
del settings["journal"]
telemetry = start_telemetry(**settings)
emit(1000)
telemetry.enabled = False
telemetry.enabled = True
emit(10)
assert telemetry.flush(20)
assert telemetry.stop(20)
assert seen == [], seen
ours = [name for name in sys.modules if name.startswith("redvsblue_telemetry._journal")]
assert ours == [], ours
"""
    with collector_running() as collector:
        done = run_game(AUDITED + GAME + script, collector.url, journal, cwd=tmp_path)
        assert done.code == 0, str(done)
        assert done.troubles == [], str(done)
        assert read_at(journal) == before
        assert numbers(collector, session) == []


def test_a_client_that_is_not_started_touches_nothing(journal: Path) -> None:
    session = leave_behind(journal)
    before = {path: path.stat().st_mtime_ns for path in [journal, *journal.rglob("*")]}
    script = """
sys.addaudithook(audit)
telemetry = Telemetry(TelemetrySettings(**settings))
telemetry.emit("before")
telemetry.stats()
telemetry.set_online(True)
assert telemetry.flush(1)
assert seen == [], seen
say("before")
sys.stdin.readline()
telemetry.enabled = True
telemetry.emit("after")
wait_for(lambda: balance().delivered == 101)
assert seen
assert telemetry.stop(20)
"""
    with collector_running() as collector:
        with Game(AUDITED + GAME + script, collector.url, journal) as game:
            game.expect("before")
            now = {path: path.stat().st_mtime_ns for path in [journal, *journal.rglob("*")]}
            assert now == before
            game.tell()
            done = game.end()
        assert done.code == 0, str(done)
        assert numbers(collector, session) == all_of(100)
        assert len(collector.events_of("after")) == 1
        assert len(collector.events_of("before")) == 0
    assert contents(journal) == []


def test_before_the_player_agrees_nothing_is_in_the_directory(journal: Path) -> None:
    script = """
telemetry = Telemetry(TelemetrySettings(**settings))
emit(10)
say(os.path.exists(journal))
telemetry.enabled = True
emit(10)
assert telemetry.flush(20)
assert found()
off()
emit(10)
say(*found())
telemetry.enabled = True
emit(10)
assert found()
assert telemetry.flush(20)
assert telemetry.stop(20)
assert telemetry.stats().delivered == 20
"""
    with collector_running() as collector:
        done = run_game(GAME + OFF + script, collector.url, journal)
        assert done.code == 0, str(done)
        assert done.troubles == [], str(done)
        before, erased, off = done.printed
        assert (before, off) == ("False", "")
        assert erased_in_time(erased)
        assert len(collector.events) == 20
    assert contents(journal) == []


@pytest.mark.parametrize("network", ["up", "down"])
@pytest.mark.slow
def test_no_file_comes_back_however_often_and_whenever_a_player_says_no(
    network: str, journal: Path
) -> None:
    script = """
telemetry = start_telemetry(**settings)
is_over = threading.Event()

def play():
    while not is_over.is_set():
        for _ in range(50):
            telemetry.emit("played", text="x" * 2000)
        time.sleep(0)

players = [threading.Thread(target=play) for _ in range(3)]
for player in players:
    player.start()
longest = files = 0
for number in range(30):
    time.sleep(0.001 * (number * 3 % 40))
    files += len(found())
    begun = time.perf_counter()
    telemetry.enabled = False
    longest = max(longest, time.perf_counter() - begun)
    # An emit that had begun may end only now, on a thread that waits for its turn.
    left = found()
    time.sleep(0.05)
    if number % 10 == 0:
        time.sleep(0.3)
    later = found()
    assert later == [], (number, left, later)
    telemetry.enabled = True
is_over.set()
for player in players:
    player.join()
telemetry.enabled = False
wait_for(lambda: telemetry.stats().state is ConnectionState.IDLE)
balance()
assert files > 30
say(f"{longest:.6f}")
say(*found())
"""
    with collector_running() as collector:
        url = collector.url if network == "up" else nowhere()
        done = run_game(GAME + script, url, journal)
    assert done.code == 0, str(done)
    longest, left = done.printed
    assert erased_in_time(longest)
    assert left == ""
    assert contents(journal) == []


def test_a_no_after_a_stop_erases_what_the_stop_left(journal: Path) -> None:
    script = """
emit(100)
assert not telemetry.stop(0.2)
assert found()
assert balance().buffered == 100
off()
"""
    done = run_game(OFFLINE + OFF + script, nowhere(), journal)
    assert done.code == 0, str(done)
    (erased,) = done.printed
    assert erased_in_time(erased), str(done)
    assert contents(journal) == []


def test_a_start_that_is_off_erases_what_a_stop_in_the_same_process_left(journal: Path) -> None:
    script = """
emit(100)
assert not telemetry.stop(0.2)
# It may return before the worker has let go of the run.
wait_for(lambda: telemetry.stats().state is ConnectionState.STOPPED)
assert found()
begun = time.perf_counter()
settings["enabled"] = False
telemetry = start_telemetry(**settings)
say(f"{time.perf_counter() - begun:.6f}", *found())
"""
    done = run_game(OFFLINE + script, nowhere(), journal)
    assert done.code == 0, str(done)
    (erased,) = done.printed
    assert erased_in_time(erased), str(done)
    assert contents(journal) == []


def test_one_client_says_no_and_another_of_the_same_process_goes_on(journal: Path) -> None:
    script = """
telemetry = Telemetry(TelemetrySettings(**settings))
other = Telemetry(TelemetrySettings(**settings))
for client in (telemetry, other):
    client.set_online(False)
    client.start()
    client.emit("played")
runs = found()
off()
other.emit("played")
say(other.session_id)
wait_for(lambda: all(path.startswith(other.session_id) for path in found()))
die()
"""
    done = run_game(GAME + OFF + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    erased, session = done.printed
    _, *left = erased.split(" ")
    assert left
    if not IS_WINDOWS:  # which deletes a file that the worker is syncing after that
        assert not [path for path in left if not path.startswith(session)], str(done)
    assert [path.name for path in journal.iterdir()] == [session], str(done)
    with collector_running() as collector:
        script = "wait_for(lambda: telemetry.stats().delivered == 2)"
        done = run_game(PLAY + script + FLUSHED, collector.url, journal)
        assert done.code == 0, str(done)
        assert numbers(collector, session) == [1, 2]
    assert contents(journal) == []


@needs_fork
def test_a_no_in_a_forked_child_erases_its_own_and_leaves_the_parents(journal: Path) -> None:
    script = """
emit(100)
parent = telemetry.session_id

def runs():
    return {path for path in found() if os.sep not in path}

if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert runs() == {parent}, found()
    emit(100)
    say(telemetry.session_id)
    die()
try:
    if sys.argv[3] == "emits":
        emit(10)
        assert len(runs()) == 2, found()
    telemetry.enabled = False
    assert runs() == {parent}, found()
    os._exit(0)
except BaseException as error:
    print(repr(error), file=sys.stderr, flush=True)
    os._exit(99)
"""
    for what in ("emits", "is silent"):
        done = run_game(OFFLINE + script, nowhere(), journal, what)
        assert done.troubles == [], str(done)
        (session,) = done.printed
        with collector_running() as collector:
            script_of_next = "wait_for(lambda: telemetry.stats().delivered == 200)"
            done = run_game(PLAY + script_of_next + FLUSHED, collector.url, journal)
            assert done.code == 0, str(done)
            assert numbers(collector, session) == all_of(200)
        assert contents(journal) == []


INTERRUPTED = """
from redvsblue_telemetry._journal.run import RunDirectory

def say_no_in_the_middle_of_opening():
    "As another thread, or a signal handler, does."
    create = RunDirectory.create
    def interrupted(*arguments):
        RunDirectory.create = create
        run = create(*arguments)
        telemetry.enabled = False
        return run
    RunDirectory.create = interrupted
"""


def test_a_no_while_a_start_opens_the_journal_leaves_nothing(journal: Path) -> None:
    script = """
telemetry = Telemetry(TelemetrySettings(**settings))
telemetry.set_online(False)
say_no_in_the_middle_of_opening()
telemetry.start()
assert not telemetry.enabled
assert found() == [], found()
"""
    done = run_game(GAME + INTERRUPTED + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    assert done.code == 0, str(done)


@needs_fork
def test_a_no_while_a_child_opens_its_journal_erases_that(journal: Path) -> None:
    script = """
emit(100)
parent = telemetry.session_id

def runs():
    return {path for path in found() if os.sep not in path}

if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
else:
    try:
        say_no_in_the_middle_of_opening()
        emit(1)
        assert not telemetry.enabled
        assert runs() == {parent}, found()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(99)
"""
    done = run_game(OFFLINE + INTERRUPTED + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    assert done.code == 0, str(done)
