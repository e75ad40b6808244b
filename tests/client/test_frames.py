"""``frame`` and hangs: real games, with a real server."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._frames import frame_nothing
from redvsblue_telemetry.testing import RecordingServer, record_events
from tests.support.looping_games import GAME, PATIENCE, data_of, events_of, start_game
from tests.support.systems import needs_fork, needs_posix
from tests.support.wait import wait_until


def test_each_frame_is_in_exactly_one_frames_event() -> None:
    script = """
    for _ in range(301):
        telemetry.frame()
        time.sleep(0.002)
    """
    summaries = data_of(events_of(script, frame_interval=0.2), "frames")

    assert len(summaries) > 1
    assert sum(data["frames"] for data in summaries) == 300
    assert all(2.0 <= data["p50Ms"] <= data["p99Ms"] <= data["maxMs"] for data in summaries)


def test_a_hang_shows_where_the_game_is_and_goes_on() -> None:
    script = "play(0.3)\nload_level()\nplay(0.3)"
    events = events_of(script, frame_interval=0.1, hang_timeout=1.0)

    [hang] = data_of(events, "hang")
    assert 1.0 <= hang["seconds"] < 3.0
    line = GAME.splitlines().index("    time.sleep(3.0)") + 1
    assert hang["stack"][-1] == f"<string>:{line} in load_level"
    assert "secret" not in json.dumps(events)
    types = [event["type"] for event in events]
    assert types.index("frames") < types.index("hang") < len(types) - types[::-1].index("frames")
    assert max(data["maxMs"] for data in data_of(events, "frames")) >= 3000


def test_each_hang_is_recorded_at_its_time_also_right_after_another_one() -> None:
    script = "play(0.1)\nload_level()\ntelemetry.frame()\nload_level()\nplay(0.1)"
    hangs = data_of(events_of(script, hang_timeout=1.0), "hang")

    assert len(hangs) == 2
    assert all(hang["stack"][-1].endswith(" in load_level") for hang in hangs)


@needs_posix
def test_a_game_that_was_suspended_did_not_hang() -> None:
    with RecordingServer() as server:
        game = start_game("play(60)", server, frame_interval=0.1, hang_timeout=2.0)
        with game:
            for seconds in (1.9, 2.1, 4.0):
                before = len(server.events)
                assert server.wait_for(before + 2, PATIENCE)
                game.send_signal(signal.SIGSTOP)
                time.sleep(seconds)  # for so long it is stopped: nothing to wait for
                game.send_signal(signal.SIGCONT)
            before = len(server.events)
            assert server.wait_for(before + 3, PATIENCE)
            game.kill()
        assert data_of(server.events, "hang") == []
        assert max(data["maxMs"] for data in data_of(server.events, "frames")) >= 4000


def test_a_frame_in_a_thread_is_that_thread_s() -> None:
    script = """
    import threading
    def game_loop():
        play(0.2)
        load_level()
    thread = threading.Thread(target=game_loop, name="loop")
    thread.start()
    thread.join()
    time.sleep(2.0)  # a loop that has ended hangs no more
    """
    [hang] = data_of(events_of(script, hang_timeout=1.0), "hang")

    assert hang["stack"][-2:] == [
        hang["stack"][-2],
        f"<string>:{GAME.splitlines().index('    time.sleep(3.0)') + 1} in load_level",
    ]
    assert hang["stack"][-2].endswith(" in game_loop")


@needs_fork
def test_a_forked_child_has_frames_of_its_own() -> None:
    script = """
    play(0.2)
    if os.fork() == 0:
        for _ in range(11):
            telemetry.frame()
        telemetry.emit("child")
        telemetry.stop()
        os._exit(0)
    os.wait()
    """
    events = events_of(script)

    [child] = [event["sessionId"] for event in events if event["type"] == "child"]
    of_child = [event for event in events if event["sessionId"] == child]
    assert [data["frames"] for data in data_of(of_child, "frames")] == [10]
    of_parent = [event for event in events if event["sessionId"] != child]
    assert len(data_of(of_parent, "frames")) == 1


def test_a_stack_fits_into_a_small_event() -> None:
    script = """
    play(0.1)
    def deeper(n):
        deeper(n - 1) if n else load_level()
    deeper(60)
    """
    for most, least_lines in ((16384, 50), (1024, 5)):
        [hang] = data_of(events_of(script, hang_timeout=1.0, max_event_bytes=most), "hang")
        assert least_lines <= len(hang["stack"]) <= 50
        assert hang["stack"][-1].endswith(" in load_level")


def test_while_telemetry_is_off_frame_does_nothing() -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=False, hang_timeout=0.1)).start()

    assert telemetry.frame is frame_nothing
    telemetry.frame()
    assert telemetry.stats().emitted == 0
    assert not [t for t in threading.enumerate() if t.name == "redvsblue-telemetry"]


def test_the_toggle_ends_the_measurement_and_begins_another_one() -> None:
    with RecordingServer() as server:
        settings = TelemetrySettings(
            enabled=True, url=server.url, frame_interval=3600.0, drain_interval=0.02
        )
        with Telemetry(settings) as telemetry:
            kept = telemetry.frame
            for _ in range(5):
                telemetry.frame()
            telemetry.enabled = False
            assert telemetry.frame is frame_nothing
            for _ in range(50):
                telemetry.frame()
                kept()
            assert telemetry.frame is frame_nothing
            telemetry.enabled = True
            for _ in range(4):
                telemetry.frame()
        assert telemetry.frame is frame_nothing
        assert server.wait_for(1)
        assert [data["frames"] for data in data_of(server.events, "frames")] == [3]


def test_a_subclass_may_have_a_frame_of_its_own() -> None:
    class Counting(Telemetry):
        frames = 0

        def frame(self) -> None:
            self.frames += 1
            super().frame()

    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url)
        with Counting(settings) as telemetry:
            for _ in range(4):
                telemetry.frame()
        assert telemetry.frames == 4
        assert server.wait_for(1)
        assert [data["frames"] for data in data_of(server.events, "frames")] == [3]


def test_a_recording_measures_no_frames() -> None:
    with record_events(frame_interval=0.001, hang_timeout=0.001) as events:
        from redvsblue_telemetry import get_telemetry

        for _ in range(10):
            get_telemetry().frame()
        assert events == []


def test_frames_are_measured_while_there_is_no_server() -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=True, frame_interval=0.05, backoff_base=0.05))
    telemetry.set_online(False)
    with telemetry:
        for _ in range(3):
            telemetry.frame()
        assert wait_until(lambda: telemetry.stats().emitted == 1)
        telemetry.stop(0)


def test_a_hang_without_a_home_directory_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home" / "bob"
    mods = home / "mods"
    mods.mkdir(parents=True)
    (mods / "mod.py").write_text("import time\ndef wait(): time.sleep(3)\n")
    script = f"""
    from importlib.util import module_from_spec, spec_from_file_location
    os.environ["HOME"] = {str(home)!r}
    spec = spec_from_file_location("mod", {str(mods / "mod.py")!r})
    mod = module_from_spec(spec)
    spec.loader.exec_module(mod)
    play(0.1)
    mod.wait()
    """
    [hang] = data_of(events_of(script, hang_timeout=1.0), "hang")

    assert hang["stack"][-1] == "mod.py:2 in wait"
    assert "bob" not in json.dumps(hang)
