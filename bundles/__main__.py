"""Bundle a small game with PyInstaller, cx_Freeze and Nuitka, and check that each bundle delivers.

    python -m bundles                # all of them: a quarter of an hour; `make bundles` does this
    python -m bundles pyinstaller    # one bundler only

Each bundle plays against a real server with acks, over ``ws`` and ``wss``, and ends in several
ways. It must deliver each event exactly once, end with the right exit code, print nothing
unexpected, and leave no process and no file behind. The exit code is 1 if one of them doesn't.

It runs on Linux. The bundlers need binutils, Nuitka a C compiler, and PyInstaller a Python with a
shared library (``--enable-shared``). ccache makes Nuitka's second build much faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trustme

from bundles.bundlers import KINDS, Bundle, Command, build
from redvsblue_telemetry.testing import RecordingServer

FRAMES = 500
FRAMES_OF_A_CHILD = 100
TIMEOUT = 60.0  # seconds for a game that takes two
MOST_SECONDS_AT_EXIT = 10.0  # for a game that plays for one, and can't reach its server

# The environment decides about telemetry, proxies and certificates, so the bundles get a new one.
KEPT = ("HOME", "LANG", "PATH", "SYSTEMROOT")


class CheckFailed(Exception):  # noqa: N818 (it reads as it is used)
    """The bundle did something that it should not have done."""


@attrs.frozen
class Played:
    """A game that has ended."""

    code: int
    printed: str
    errors: str
    seconds: float


@attrs.frozen
class Place:
    """Where the bundles play: an empty folder for temporary files, and the certificates."""

    temporary: Path
    authority: trustme.CA
    authority_file: Path
    empty_file: Path


@contextlib.contextmanager
def playing(
    bundle: Bundle,
    place: Place,
    *arguments: str,
    url: str,
    closes_streams: bool = False,
    **more: str,
) -> Iterator[subprocess.Popen[str]]:
    """Start a bundle in its own session and environment; kill its remains at the end."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"TMPDIR": str(place.temporary), "REDVSBLUE_ENABLE_TELEMETRY": "true"}
    environment |= {"REDVSBLUE_TELEMETRY_WS_URL": url, **more}
    command = [str(bundle.program), f"--frames={FRAMES}", *arguments]
    if closes_streams:  # then Python has None for them, as in a windowed game on Windows
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=place.temporary,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as game:
        try:
            yield game
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(game.pid, signal.SIGKILL)


def ending(game: subprocess.Popen[str], place: Place) -> Played:
    """Wait until a game has ended; nothing of it may be left then."""
    start = time.monotonic()
    try:
        printed, errors = game.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"it did not end within {TIMEOUT:g} s") from None
    seconds = time.monotonic() - start
    deadline = time.monotonic() + 5
    while is_alive(game.pid):  # multiprocessing's resource tracker ends a moment after its parent
        if time.monotonic() > deadline:
            raise CheckFailed("it left a process behind")
        time.sleep(0.05)
    if left := sorted(path.name for path in place.temporary.iterdir()):
        raise CheckFailed(f"it left files behind: {', '.join(left)}")
    return Played(game.returncode, printed, errors, seconds)


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def play(bundle: Bundle, place: Place, *arguments: str, **more: Any) -> Played:
    with playing(bundle, place, *arguments, **more) as game:
        return ending(game, place)


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise CheckFailed(f"{what}: {found!r} instead of {expected!r}")


def expect_each_event_once(events: Sequence[dict[str, Any]], children: int = 0) -> None:
    """Compare the events that a server received with those that the game emits."""
    by_session = defaultdict[str, list[tuple[int, int]]](list)
    for event in events:
        expect("the version in an event", event["version"], "1.4.2")
        by_session[event["sessionId"]].append((event["seq"], event["data"]["frame"]))
    for arrived in by_session.values():
        last = len(arrived)
        if arrived != [(frame + 1, frame) for frame in range(last)]:
            raise CheckFailed("events are missing, repeated or out of order")
    expected = sorted([FRAMES, *[FRAMES_OF_A_CHILD] * children])
    expect("events of each session", sorted(map(len, by_session.values())), expected)


# The checks. Each is one start of the bundle, but for the last.


def check_ws(bundle: Bundle, place: Place) -> None:
    """Events of a game that just ends are flushed at exit."""
    with RecordingServer() as server:
        played = play(bundle, place, url=server.url)
    expect("exit code and errors", (played.code, played.printed, played.errors), (0, "", ""))
    expect_each_event_once(server.events)


def check_wss(bundle: Bundle, place: Place) -> None:
    """The CA certificates are those of the variable that OpenSSL reads."""
    with secure_server(place) as server:
        trusted = str(place.authority_file)
        played = play(bundle, place, url=server.url, SSL_CERT_FILE=trusted)
    expect("exit code and errors", (played.code, played.printed, played.errors), (0, "", ""))
    expect_each_event_once(server.events)


def check_truststore(bundle: Bundle, place: Place) -> None:
    with secure_server(place) as server:
        trusted = str(place.authority_file)
        played = play(bundle, place, "--trust=truststore", url=server.url, SSL_CERT_FILE=trusted)
    expect("exit code and errors", (played.code, played.printed, played.errors), (0, "", ""))
    expect_each_event_once(server.events)


def check_certifi(bundle: Bundle, place: Place) -> None:
    """A context with certifi's authorities rejects a server that none of them knows."""
    with secure_server(place) as server:
        trusted = str(place.authority_file)
        played = play(bundle, place, "--trust=certifi", url=server.url, SSL_CERT_FILE=trusted)
    expect("events that arrived", len(server.events), 0)
    expect_one_warning(played, "unable to get local issuer certificate")


def check_no_authorities(bundle: Bundle, place: Place) -> None:
    """The log of a bundle without CA certificates names the reason."""
    nowhere = {"SSL_CERT_FILE": str(place.empty_file), "SSL_CERT_DIR": str(place.empty_file)}
    with secure_server(place) as server:
        played = play(bundle, place, url=server.url, **nowhere)
    expect("events that arrived", len(server.events), 0)
    expect_one_warning(played, "because this Python has no CA certificates; set ssl_context")


def check_no_server(bundle: Bundle, place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    played = play(bundle, place, url=f"ws://127.0.0.1:{port}/telemetry")
    expect_one_warning(played, "Connection refused")


def expect_one_warning(played: Played, reason: str) -> None:
    expect("exit code", played.code, 0)
    lines = played.errors.splitlines()
    if len(lines) != 1 or reason not in lines[0]:
        raise CheckFailed(f"one line with {reason!r} should be in {played.errors!r}")
    if played.seconds > MOST_SECONDS_AT_EXIT:
        raise CheckFailed(f"it took {played.seconds:.1f} s")


def check_no_streams(bundle: Bundle, place: Place) -> None:
    """Standard input, output and error are None, as in a windowed game on Windows."""
    with RecordingServer() as server:
        played = play(bundle, place, url=server.url, closes_streams=True)
    expect("exit code", played.code, 0)
    expect_each_event_once(server.events)
    with secure_server(place) as server:  # there is something to log here, and nowhere to log it
        played = play(bundle, place, url=server.url, closes_streams=True)
    expect("exit code", played.code, 0)


def check_exits(bundle: Bundle, place: Place) -> None:
    """Events are flushed at sys.exit, an uncaught exception, and a signal that is handled."""
    with RecordingServer() as server:
        played = play(bundle, place, "--end=exit", url=server.url)
    expect("exit code and errors of sys.exit", (played.code, played.errors), (3, ""))
    expect_each_event_once(server.events)

    with RecordingServer() as server:
        played = play(bundle, place, "--end=error", url=server.url)
    if played.code == 0 or "RuntimeError: the game's own mistake" not in played.errors:
        raise CheckFailed(f"an exception: exit code {played.code}, {played.errors!r}")
    expect_each_event_once(server.events)

    with (
        RecordingServer() as server,
        playing(bundle, place, "--end=signal", url=server.url) as game,
    ):
        assert game.stdout is not None
        expect("the line before the signal", game.stdout.readline(), "played\n")
        game.terminate()
        played = ending(game, place)
    expect("exit code and errors of SIGTERM", (played.code, played.errors), (0, ""))
    expect_each_event_once(server.events)


def check_processes(bundle: Bundle, place: Place) -> None:
    """Children of multiprocessing deliver their own events."""
    with RecordingServer() as server:
        played = play(bundle, place, "--children=2", url=server.url)
    expect("exit code and errors", (played.code, played.errors), (0, ""))
    expect_each_event_once(server.events, children=2)


def check_contents(bundle: Bundle, place: Place) -> None:
    """The bundle has certifi's file, and nothing that only developers need."""
    found = describe(bundle, place)
    expect("code for developers", found["for_developers"], [])
    if found["certifi"] < 50:
        raise CheckFailed(f"certifi has {found['certifi']} authorities")


def describe(bundle: Bundle, place: Place) -> dict[str, Any]:
    played = play(bundle, place, "--describe", url="ws://localhost")
    expect("exit code and errors of --describe", (played.code, played.errors), (0, ""))
    described: dict[str, Any] = json.loads(played.printed)
    return described


CHECKS: dict[str, Callable[[Bundle, Place], None]] = {
    "ws": check_ws,
    "wss": check_wss,
    "truststore": check_truststore,
    "certifi": check_certifi,
    "no CA": check_no_authorities,
    "no server": check_no_server,
    "no streams": check_no_streams,
    "exits": check_exits,
    "processes": check_processes,
    "contents": check_contents,
}


@contextlib.contextmanager
def secure_server(place: Place) -> Iterator[RecordingServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    place.authority.issue_cert("127.0.0.1").configure_cert(context)
    with RecordingServer(ssl_context=context) as server:
        yield server


def problem(name: str, bundle: Bundle, place: Place) -> str:
    """Run a check; return the problem that it found, or an empty string."""
    try:
        CHECKS[name](bundle, place)
    except CheckFailed as failure:
        return f"{name}: {failure}"
    return ""


class Builds:
    """The builds, each made once: a command may make two kinds of bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[Command, bool], Path] = {}

    def of(self, command: Command, *, with_telemetry: bool) -> Path:
        """Return the folder of a build."""
        key = (command, with_telemetry)
        if key not in self._made:
            folder = self._folder / str(len(self._made))
            folder.mkdir()
            start = time.monotonic()
            build(command, folder, with_telemetry=with_telemetry)
            print(f"  built in {time.monotonic() - start:.0f} s", flush=True)
            self._made[key] = folder
        return self._made[key]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    bundlers = list(dict.fromkeys(kind.package for kind in KINDS))
    parser.add_argument("bundlers", nargs="*", metavar="BUNDLER", help=", ".join(bundlers))
    chosen = parser.parse_args().bundlers or bundlers
    if unknown := set(chosen) - set(bundlers):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(bundlers)}")

    rows, problems = [["bundler", "kind", *CHECKS, "size", "telemetry adds"]], 0
    rows.append(["---"] * len(rows[0]))
    with tempfile.TemporaryDirectory(prefix="bundles-") as name:
        folder = Path(name)
        place = Place(folder / "tmp", trustme.CA(), folder / "ca.pem", folder / "empty.pem")
        place.temporary.mkdir()
        place.empty_file.touch()
        place.authority.cert_pem.write_to_path(str(place.authority_file))
        builds = Builds(folder)
        for kind in (kind for kind in KINDS if kind.package in chosen):
            print(kind, flush=True)
            try:
                bundle = Bundle(kind, builds.of(kind.command, with_telemetry=True) / kind.program)
                without = builds.of(kind.command, with_telemetry=False) / kind.program
                print(f"  {describe(bundle, place)}", flush=True)
            except (subprocess.CalledProcessError, OSError, CheckFailed) as error:
                print(f"{error}\n{getattr(error, 'output', '')}", file=sys.stderr)
                problems += 1
                continue
            found = {name: problem(name, bundle, place) for name in CHECKS}
            for failure in filter(None, found.values()):
                print(f"  {failure}", file=sys.stderr, flush=True)
                problems += 1
            sizes = bundle.size, bundle.size - Bundle(kind, without).size
            rows.append([
                *(kind.bundler, kind.name),
                *("FAILED" if failure else "passed" for failure in found.values()),
                *(f"{size / 1e6:.1f} MB" for size in sizes),
            ])  # fmt: skip
    print(f"\nPython {platform.python_version()}, {platform.platform()}\n")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
