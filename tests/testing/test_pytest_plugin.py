"""The pytest plugin, in separate runs of pytest: its fixtures, its reports and its cost."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from tests.support import REPOSITORY

with contextlib.suppress(ImportError):
    # A pytest in this process forgets the modules that it has imported, and DuckDB's aborts the
    # process if it is imported again. Those that were there before, it does not forget.
    import duckdb  # noqa: F401

pytest_plugins = ["pytester"]

PLUGIN = "_redvsblue_telemetry_pytest"
EXTRAS = ("starlette", "uvicorn", "prometheus_client", "websockets", "click", "rich", "pyarrow")
GAME = """
    from redvsblue_telemetry import emit, get_telemetry, start_telemetry, stop_telemetry


    def play(winner="red"):
        start_telemetry()
        emit("round_start", round=1)
        emit("round_end", round=1, winner=winner)
        stop_telemetry()
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs tests in a pytest with this plugin, and no others but those that are named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("CI", raising=False)  # where pytest cuts no explanation short
    pytester.makepyfile(game=GAME)

    def run(tests: str, *arguments: str, apart: bool = False) -> pytest.RunResult:
        """``apart``: in a new process, which has imported nothing yet."""
        pytester.makepyfile(tests)
        if apart:
            return pytester.runpytest_subprocess("-p", PLUGIN, *arguments, timeout=50)
        return pytester.runpytest_inprocess("-p", PLUGIN, *arguments)

    return run


# What it costs.


def test_every_pytest_finds_it_where_the_package_is_installed() -> None:
    (plugin,) = importlib.metadata.entry_points(group="pytest11", name="redvsblue_telemetry")
    assert plugin.load().__name__ == PLUGIN


def test_loading_it_imports_no_module_that_pytest_has_not_imported_already() -> None:
    script = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        f"import {PLUGIN}\n"
        "raise SystemExit(repr(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr.strip() == repr([PLUGIN])


def test_recording_needs_no_extras_and_the_collector_says_what_to_install(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        f"""
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {EXTRAS}:
                    raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

        sys.meta_path.insert(0, Blocker())
        """
    )
    result = run(
        f"""
        import sys

        # Since Python 3.14, pdb imports it, which pytest imports.
        for name in [name for name in sys.modules if name.partition(".")[0] == "asyncio"]:
            del sys.modules[name]

        def test_loading_the_plugin_imports_nothing(request):
            assert request.config.pluginmanager.hasplugin("{PLUGIN}")
            roots = {{name.partition(".")[0] for name in sys.modules}}
            assert not roots & {{"redvsblue_telemetry", "attr", "msgspec", "tenacity", "websocket"}}

        def test_a_round(telemetry_events):
            import game

            game.play()
            assert telemetry_events == ["round_start", "round_end"]
            assert "asyncio" not in sys.modules

        def test_collected(telemetry_collector): ...
        """,
        apart=True,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        "*telemetry_collector needs the collector's dependencies (* is blocked): "
        "pip install 'redvsblue-telemetry?collector?'"
    )


# telemetry_events.


def test_each_test_has_a_recording_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    result = run(
        """
        import game, pytest
        from redvsblue_telemetry import emit, get_telemetry

        before = get_telemetry()

        @pytest.fixture(autouse=True)
        def is_as_it_was():
            assert get_telemetry() is before
            yield
            assert get_telemetry() is before

        @pytest.mark.parametrize("winner", ["red", "blue"])
        def test_a_round(telemetry_events, winner):
            assert len(telemetry_events) == 0
            game.play(winner)
            assert telemetry_events == [
                ("round_start", {"round": 1}), ("round_end", {"round": 1, "winner": winner})
            ]

        def test_that_ends_with_telemetry_running(telemetry_events):
            game.start_telemetry(enabled=True, url="ws://127.0.0.1:1/")
            emit("left")
            assert telemetry_events == ["left"]

        def test_that_records_nothing():
            emit("nowhere")
            assert not get_telemetry().enabled
        """
    )
    result.assert_outcomes(passed=4)


@pytest.mark.slow
def test_in_any_order_nothing_warns_and_no_thread_is_left(run: Run) -> None:
    result = run(
        """
        import threading, game, pytest

        @pytest.fixture(scope="session", autouse=True)
        def no_thread_left():
            before = set(threading.enumerate())
            yield
            assert set(threading.enumerate()) == before

        @pytest.mark.parametrize("number", range(5))
        def test_recorded(telemetry_events, number):
            game.emit("number", n=number)
            assert telemetry_events == [("number", {"n": number})]

        @pytest.mark.parametrize("number", range(5))
        def test_collected(telemetry_collector, number):
            game.start_telemetry()
            game.emit("number", n=number)
            assert telemetry_collector.wait_for("number") == [("number", {"n": number})]
        """,
        *("-p", "pytest_randomly", "--randomly-seed=1", "-Werror"),
        apart=True,  # so that what an import warns of is seen
    )
    result.assert_outcomes(passed=10)
    result.stdout.no_fnmatch_line("*warning*")


def test_a_failed_assertion_says_where_the_events_differ(run: Run) -> None:
    result = run(
        """
        import game, pytest

        @pytest.fixture(autouse=True)
        def a_round(telemetry_events):
            game.play()

        def test_in(telemetry_events):
            assert ("round_end", {"round": 1}) in telemetry_events

        def test_not_in(telemetry_events):
            assert "round_start" not in telemetry_events

        def test_of_types(telemetry_events):
            assert telemetry_events.types() == ["round_end"]

        def test_other_data(telemetry_events):
            assert telemetry_events[1] == ("round_end", {"round": 1, "winner": "blue"})

        def test_another_type(telemetry_events):
            assert "round_start" == telemetry_events[1]

        def test_a_part(telemetry_events):
            assert telemetry_events.of_type("round_end") == [("round_end", {"round": 2})]

        def test_not_in_a_part(telemetry_events):
            assert ("round_start", {"round": 1}) not in telemetry_events[:1]

        def test_not_a_list(telemetry_events):
            assert telemetry_events == "round_start"

        def test_not_a_list_from_the_other_side(telemetry_events):
            assert ("round_start", {"round": 1}) == telemetry_events

        def test_other_assertions():
            assert [1, 2] == [1, 3]

        def test_other_things(telemetry_events):
            assert telemetry_events == 3
        """
    )
    result.assert_outcomes(failed=11)
    result.stdout.fnmatch_lines(
        [
            "E*assert round_end {'round': 1} in recorded events",
            "E*'winner' is 'red', which was not expected",
            "E*assert round_start not in recorded events",
            "E*  round_start {'round': 1}",
            "E*assert ?'round_start', 'round_end'? == ?'round_end'?",
            "E*assert round_end {'round': 1, 'winner': 'red'} == round_end {*'winner': 'blue'}",
            "E*'winner' is 'red', not 'blue'",
            "E*assert round_start == round_end {*",
            "E*the event is round_end {'round': 1, 'winner': 'red'}",
            "E*assert recorded events == expected events",
            "E*event 0: round_end: 'round' is 1, not 2; 'winner' is 'red', which was not expected",
            "E*assert round_start {'round': 1} not in recorded events",
            "E*found 1:",
            "E*assert recorded events == round_start",
            "E*compare recorded events with a list: ?'round_start'?",
            "E*assert round_start {'round': 1} == recorded events",
            "E*compare recorded events with a list: ?('round_start', {'round': 1})?",
            "E*At index 1 diff: 2 != 3",
            "E*assert <2 recorded events>*== 3",
        ]
    )


def test_a_report_is_of_bounded_length_and_moves_no_cursor(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")  # where pytest cuts no explanation short
    result = run(
        r"""
        import game

        def test_much(telemetry_events):
            for n in range(3000):
                game.emit("\x1b]0;much\x07", n=n)
            assert "\x1b]0;much\x07" not in telemetry_events

        def test_in_vain(telemetry_collector):
            game.start_telemetry(session_id="\x1b[2J")
            for n in range(3000):
                game.emit("\x1b]0;much\x07", n=n)
            assert game.get_telemetry().flush(20)
            telemetry_collector.wait_for("\x1b]0;more\x07", timeout=0.1)
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            r"E*assert \u001b]0;much\u0007 not in recorded events",
            "E*found 3000:",
            "E*  and 2970 more",
            "*Captured telemetry_events call*",
            r"  \u001b]0;much\u0007 {'n': 29}",
            "  and 2970 more",
            "E*events: 3000",
            r"E*  \u001b]0;much\u0007 {'n': 29}",
            "E*  and 2970 more",
            r"E*  \u001b?2J (connected): 3000 events, 0 missing, 0 repeats",
            "*Captured telemetry_collector call*",
            "  and 2970 more",
        ]
    )
    assert "\x1b" not in result.stdout.str()
    assert len(result.outlines) < 250


def test_the_report_of_any_failure_lists_the_recorded_events(run: Run) -> None:
    result = run(
        """
        import game

        def test_a_round(telemetry_events):
            game.play()
            game.emit("bad", at=object())
            game.nothing()

        def test_that_passes(telemetry_events):
            game.emit("not_shown")
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured telemetry_events call*",
            "<2 recorded events>",
            "  round_start {'round': 1}",
            "not recorded because they were invalid: 1; see the log",
        ]
    )
    result.stdout.no_fnmatch_line("*not_shown*")


# telemetry_collector.


def test_a_game_sends_to_the_collector_without_any_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDVSBLUE_ENABLE_TELEMETRY", "false")
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_CAPACITY", "nonsense")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    result = run(
        """
        import os, subprocess, sys, game, pytest

        def test_in_this_process(telemetry_collector):
            game.play()
            (end,) = telemetry_collector.wait_for("round_end")
            assert end.data == {"round": 1, "winner": "red"}
            assert telemetry_collector.events == ["round_start", "round_end"]
            (session,) = telemetry_collector.sessions
            assert (session.events, session.missing, session.repeats) == (2, 0, 0)
            assert session.session_id == end.session_id

        def test_in_a_child_process(telemetry_collector):
            subprocess.run([sys.executable, "-c", "import game; game.play('blue')"], check=True)
            assert telemetry_collector.events == [
                "round_start", ("round_end", {"round": 1, "winner": "blue"})
            ]

        def test_the_environment_is_as_it_was():
            assert os.environ["DO_NOT_TRACK"] == "1"
            assert os.environ["REDVSBLUE_ENABLE_TELEMETRY"] == "false"
            assert os.environ["REDVSBLUE_TELEMETRY_CAPACITY"] == "nonsense"
            assert not {"no_proxy", "REDVSBLUE_TELEMETRY_WS_URL"} & set(os.environ)
        """
    )
    result.assert_outcomes(passed=3)


def test_tests_share_an_empty_collector_until_one_stops_it(run: Run) -> None:
    result = run(
        """
        import game, pytest

        addresses = set()

        @pytest.mark.parametrize("winner", ["red", "blue", "nobody"])
        def test_a_round(telemetry_collector, winner):
            assert telemetry_collector.events == []
            game.start_telemetry()  # and left running
            game.emit("round_end", winner=winner)
            assert telemetry_collector.wait_for("round_end") == [("round_end", {"winner": winner})]
            addresses.add(telemetry_collector.url)
            assert len(addresses) == 1

        def test_that_stops_it(telemetry_collector):
            game.start_telemetry()
            game.emit("hit")
            telemetry_collector.wait_for("hit")
            telemetry_collector.stop()
            assert not telemetry_collector.is_running
            game.emit("lost")

        def test_another(telemetry_collector):
            assert telemetry_collector.is_running
            assert telemetry_collector.events == []
        """
    )
    result.assert_outcomes(passed=5)


def test_a_client_that_is_left_connected_reaches_no_later_test(run: Run) -> None:
    result = run(
        """
        import pytest
        from redvsblue_telemetry import Telemetry, TelemetrySettings

        left, addresses = [], set()

        @pytest.mark.parametrize("number", range(2))
        def test_that_leaves_a_client(telemetry_collector, number):
            telemetry = Telemetry(TelemetrySettings.from_environment(backoff_base=0.01)).start()
            for other in [*left, telemetry]:
                other.emit("number", n=number)
            left.append(telemetry)
            telemetry_collector.wait_for("number")
            assert telemetry.flush(5)
            assert len(telemetry_collector.events) == 1
            addresses.add(telemetry_collector.url)
            assert len(addresses) == number + 1

        def test_the_end():
            for telemetry in left:
                telemetry.stop(0)
        """
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("asked", ["is_deserted", "reset"])
def test_a_collector_that_cannot_be_emptied_fails_only_the_test_that_had_it(
    run: Run, asked: str
) -> None:
    result = run(
        f"""
        import pytest

        had = []

        def test_that_breaks_it(telemetry_collector):
            def fail():
                raise OSError("it can't be emptied")

            telemetry_collector.{asked} = fail
            had.append(telemetry_collector)

        @pytest.mark.parametrize("number", range(2))
        def test_another(telemetry_collector, number):
            assert telemetry_collector not in had[:1]
            assert not had[0].is_running
            had.append(telemetry_collector)

        def test_that_those_had_the_same():
            assert had[1] is had[2]
        """
    )
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_that_breaks_it*", "E*OSError: it can't be emptied"]
    )


def test_a_game_that_cannot_be_stopped_fails_its_own_test_only(run: Run) -> None:
    result = run(
        """
        import pytest
        from redvsblue_telemetry import Telemetry, TelemetrySettings, emit, get_telemetry
        from redvsblue_telemetry._process import install_telemetry

        class Endless(Telemetry):
            def stop(self, timeout=2.0):
                raise OSError("it goes on")

        before = get_telemetry()
        left = []

        def test_that_has_it(telemetry_collector):
            telemetry = Endless(TelemetrySettings.from_environment()).start()
            install_telemetry(telemetry)
            emit("hit")
            telemetry_collector.wait_for("hit")
            left.append(telemetry)

        def test_another(telemetry_collector):
            assert telemetry_collector.events == []
            assert not get_telemetry().enabled

        def test_the_end():
            assert get_telemetry() is before
            Telemetry.stop(left[0], 0)
        """
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines("E*OSError: it goes on")


def test_a_failed_wait_says_all_that_is_known(run: Run) -> None:
    result = run(
        """
        import game
        from websockets.sync.client import connect

        def test_a_round(telemetry_collector):
            with connect(telemetry_collector.url) as other:
                other.send('[{"type": "round_end", "seq": 7}]')
                game.play()
                telemetry_collector.wait_for("round_end", 1)
                telemetry_collector.wait_for("round_ends", 2, timeout=0.2)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*no 'round_ends' events arrived within 0.2 s; did you mean 'round_end'?",
            "E*events: 2",
            "E*  round_start {'round': 1}",
            "E*rejected messages: 1, newest first",
            "E*missing required field *: *round_end*seq*7*",
            "E*sessions: 1",
            "E* (disconnected): 2 events, 0 missing, 0 repeats",
            "E*connected clients: 1",
            "E*telemetry in this process is stopped: 2 emitted, 2 delivered, *",
            "*test_a_failed_wait*.py:*: AssertionError",  # at the test's own line
            "*Captured telemetry_collector call*",
        ]
    )


def test_a_failed_wait_hints_at_why(run: Run) -> None:
    result = run(
        """
        import game

        def test_off(telemetry_collector):
            telemetry_collector.wait_for("hit", timeout=0.1)

        def test_another_url(telemetry_collector):
            telemetry = game.start_telemetry(url="ws://127.0.0.1:1/there")
            game.emit("hit")
            assert any(telemetry.stats().last_error or telemetry.flush(0.01) for _ in range(1000))
            telemetry_collector.wait_for("hit", timeout=0.1)

        def test_recorded(telemetry_collector, telemetry_events):
            game.play()
            telemetry_collector.wait_for("hit", timeout=0.1)
        """
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E*no 'hit' events arrived within 0.1 s",
            "E*telemetry is off in this process; was start_telemetry() called?",
            "E*no 'hit' events arrived within 0.1 s",
            "E*telemetry in this process is *: 1 emitted, 0 delivered, *",
            "E*last error: *",
            "E*it sends to ws://127.0.0.1:1/there, not to ws://127.0.0.1:*",
            "E*no 'hit' events arrived within 0.1 s",
            "E*telemetry in this process is recorded, so nothing is sent: 2 emitted*",
        ]
    )


def test_of_both_fixtures_the_one_that_is_named_later_has_the_events(run: Run) -> None:
    result = run(
        """
        import game, pytest

        @pytest.fixture(autouse=True)
        def nothing_is_sent(telemetry_events): ...

        def test_a_round(telemetry_events, telemetry_collector):
            game.play()
            assert telemetry_collector.events == ["round_start", "round_end"]
            assert telemetry_events == []
        """
    )
    result.assert_outcomes(passed=1)


# The page on testing.

PAGE = (REPOSITORY / "docs" / "testing.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
ROUND = EXAMPLES[0].partition("def test_")[0]


@pytest.mark.parametrize("example", [text for text in EXAMPLES if "def test_" in text])
def test_an_example_of_the_page_passes(run: Run, example: str) -> None:
    assert run(example).parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "test_the_winner(telemetry_events)",
            """
            play_one_round("blue")
            assert telemetry_events == [
                "round_start", ("round_end", {"round": 1, "winner": "red"})
            ]
            """,
        ),
        (
            "test_the_end(telemetry_collector)",
            """
            start_telemetry(session_id="match-1")
            play_one_round()
            telemetry_collector.wait_for("round_ends", timeout=0.1)
            """,
        ),
    ],
)
def test_the_output_on_the_page_is_what_is_printed(run: Run, name: str, body: str) -> None:
    shown = PAGE.partition(f"<!-- output of: {name.partition('(')[0]} -->\n```text\n")[2]
    expected = shown.partition("```")[0].splitlines()
    assert len(expected) > 4
    result = run(f"{ROUND}\ndef {name}:{textwrap.indent(textwrap.dedent(body), '    ')}")
    result.stdout.fnmatch_lines(
        [re.sub(r"^E +(\S)", r"E*\1", line) for line in expected], consecutive=True
    )
