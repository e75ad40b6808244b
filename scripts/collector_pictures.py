"""Make the docs' pictures of the page, with collectors, some battles, a made past and a browser.

    python scripts/collector_pictures.py

It needs Playwright and an installed Chromium, and takes about three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, sync_playwright
from websockets.sync.client import connect

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry.cli.demo import past
from redvsblue_telemetry.cli.demo.battle import BattleEngine, Ship
from redvsblue_telemetry.collector.server import Options, serve

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = REPOSITORY / "docs" / "images"
SCHEMA = REPOSITORY / "examples" / "battle_events.schema.json"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROKEN = '[{"type":"ship_hit","timestamp":"yesterday","data":{"shipId":"red-3"}}]'
MISTYPED = {
    "shipId": "red-3",
    "by": "blue-1",
    "damage": "7",
    "health": 93,
    "x": 612.5,
    "y": 240.8,
}


@dataclass(frozen=True)
class Game:
    """One game of the pictures."""

    seed: int
    begins: float = 0.0
    """Seconds after the first one."""
    ends: float = float("inf")
    how: str = "stop"
    """How it ends: by ``stop``, a ``crash`` or a ``kill``."""
    version: str = "1.4.2"
    capacity: int = 5000
    has_journal: bool = False


GAMES = [
    Game(seed=7),
    Game(seed=11, version="1.5.0-beta"),
    Game(seed=23, capacity=30),  # too small at times
    Game(seed=5, ends=35),
    Game(seed=3, ends=50, how="crash", version="1.5.0-beta"),
    Game(seed=31, ends=45, how="kill", has_journal=True),
    Game(seed=31, begins=55, has_journal=True),  # reports the killed one
    Game(seed=13, begins=20, ends=80, how="crash", version="1.5.0-beta"),
    Game(seed=17, begins=30, ends=60, how="crash"),
]


WEEK = 7 * 86_400_000  # milliseconds

Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class View:
    """One picture of a made past: the page from its top to its end, or to the height."""

    name: str
    address: str
    scheme: Scheme = "light"
    width: int = 1100
    height: int = 0
    """Zero is the whole page."""


FUNNEL = "view=funnel&step=round_start&step=round_end"
FIELD = "view=field&type=ship_hit&field=damage&by=version&range=last 7 days"
VIEWS = [
    View("collector-range", "range=last 7 days", width=1440, height=1400),
    View("collector-range-dark", "range=yesterday", "dark", 1440, 980),
    View("collector-range-narrow", "range=last 7 days", "dark", 400, 860),
    View("question-field", FIELD),
    View("question-field-narrow", FIELD, "dark", 400, 860),
    View("question-values", "view=values&type=ship_hit&field=weapon&range=last 7 days"),
    View("question-funnel", f"{FUNNEL}&range=last 7 days"),
    View("question-funnel-dark", f"{FUNNEL}&per=context.player&range=last 7 days", "dark"),
    View("question-retention", "view=retention&field=context.player&days=1,3,7"),
    View("question-versions", "view=versions&version=1.4.2&version=1.4.1"),
    View("question-session", "view=session&session={crashed}"),
    View("question-sql", "view=query"),
]


def main() -> None:
    """Run a collector and the games, and take the pictures; or play one of the games."""
    parser = argparse.ArgumentParser(description="Make the pictures of the collector's live page.")
    parser.add_argument("--seconds", type=float, default=115.0, help="how long to play before that")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--play", nargs=3, help=argparse.SUPPRESS)  # a game, a URL and a journal
    options = parser.parse_args()
    if options.play:
        game, url, journal = options.play
        play(GAMES[int(game)], url, Path(journal))
    else:
        make_pictures(options.seconds, options.folder)


def make_pictures(seconds: float, folder: Path) -> None:
    """Run the collectors and the games, and take the pictures."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=ARGUMENTS
        )
        take_past(browser, Path(scratch, "past.sqlite3"), folder)
        with collecting(None) as url:
            ws_url = f"ws{url.removeprefix('http')}telemetry"
            take(browser, url, folder / "collector-empty.png", "light", 1100, 640)
            # A part that is not a valid event, as a game with a bug may send it.
            with connect(ws_url) as websocket:
                websocket.send(BROKEN)
            with playing(ws_url, scratch, seconds):
                take(browser, url, folder / "collector.png", "light", 1440, 1400)
                take(browser, url, folder / "collector-dark.png", "dark", 1440, 980)
                take(browser, url, folder / "collector-narrow.png", "dark", 400, 860)
                crash = folder / "collector-crash.png"
                take(browser, url, crash, "light", 1440, 980, "#crashes button")
                take_faults(browser, url, folder / "collector-faults.png")
        browser.close()


def take_past(browser: Browser, database: Path, folder: Path) -> None:
    """Take the pictures of a made past: of ranges of time, and of answers to questions."""
    past.fill(database, WEEK, time.time_ns() // 1_000_000)
    with collecting(database) as url:
        for view in VIEWS:
            page = browser.new_page(
                viewport={"width": view.width, "height": view.height or 640},
                color_scheme=view.scheme,
            )
            crashes = page.request.get(f"{url}api/crashes").json()["crashes"]
            page.goto(f"{url}?{view.address.format(crashed=crashes[0]['newest']['sessionId'])}")
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{view.name}.png", full_page=not view.height)
            page.close()


@contextlib.contextmanager
def collecting(database: Path | None) -> Iterator[str]:
    """Run a collector until the end of the block; return its URL."""
    with_url: list[str] = []
    is_ready = threading.Event()
    stop: list[Any] = []

    async def collect() -> None:
        stopping = asyncio.Event()
        stop.extend((asyncio.get_running_loop(), stopping))

        def note(url: str) -> None:
            with_url.append(url)
            is_ready.set()

        await serve(Options(port=0, db=database, schema=SCHEMA), stopping, note)

    collector = threading.Thread(target=asyncio.run, args=(collect(),), daemon=True)
    collector.start()
    if not is_ready.wait(20):
        raise SystemExit("the collector did not start")
    yield with_url[0]
    stop[0].call_soon_threadsafe(stop[1].set)
    collector.join(20)


@contextlib.contextmanager
def playing(url: str, journal: str, seconds: float) -> Iterator[None]:
    """Start and kill the games in time, and play until the end of the block."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        for number, game in enumerate(GAMES):
            if number not in running and game.begins <= now:
                command = [sys.executable, __file__, "--play", str(number), url, journal]
                running[number] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            if game.how == "kill" and game.ends <= now:
                running[number].kill()
        time.sleep(0.1)
    yield
    for process in running.values():
        process.send_signal(signal.SIGINT)
        process.wait(20)


def play(game: Game, url: str, journal: Path) -> None:
    """Play one game until it ends, or until Ctrl-C."""
    telemetry = start_telemetry(
        enabled=True,
        url=url,
        drain_interval=0.25,
        capacity=game.capacity,
        version=game.version,
        journal=os.fspath(journal) if game.has_journal else None,
        crash_events=True,
        frame_interval=2.0,
        sample={"bullet_fired": 0.25},
    )
    engine = BattleEngine(seed=game.seed, ships_per_team=6 + game.seed % 5)
    pace = random.Random(game.seed)
    slowness = 1.15 if "beta" in game.version else 1.0
    began = time.monotonic()
    with telemetry.attach(engine), contextlib.suppress(KeyboardInterrupt):
        telemetry.context(player=f"p-{game.seed}", level=1)
        for frame in itertools.count(1):
            time.sleep(slowness / 60 + (0.03 if pace.random() < 0.02 else 0.0))
            telemetry.frame()
            engine.update(1 / 60)
            if "beta" in game.version and frame % 700 == 0:
                telemetry.emit("ship_hit", MISTYPED)  # as its new code does
            if game.capacity < 100 and frame % 1500 == 0:
                for number in range(100):
                    telemetry.emit("particle", number=number)
            if frame % 1000 == 0:
                telemetry.context(level=1 + frame // 1000)
            if time.monotonic() - began > game.ends - game.begins:
                if game.how == "crash":
                    aim(engine, game)
                if game.how == "stop":
                    break
    telemetry.stop(timeout=5)


def aim(engine: BattleEngine, game: Game) -> Ship:
    """Fail, as a game with a bug does."""
    if "beta" in game.version:
        return engine.ships[99]
    return {ship.id: ship for ship in engine.ships}["red-99"]


def take(
    browser: Browser,
    url: str,
    path: Path,
    scheme: Scheme,
    width: int,
    height: int,
    opened: str = "",
) -> None:
    """Take a picture of the page after a few seconds, maybe with something opened."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    page.wait_for_timeout(3500)
    if opened:
        page.locator(opened).first.click()
        page.wait_for_timeout(500)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    page.close()


def take_faults(browser: Browser, url: str, path: Path) -> None:
    """Take a picture of the events that do not fit the schema, and of their groups."""
    page = browser.new_page(viewport={"width": 1440, "height": 980}, color_scheme="light")
    page.goto(f"{url}?fault=data.damage")
    page.wait_for_timeout(3500)
    page.locator("#columns").evaluate("columns => columns.scrollIntoView()")
    page.screenshot(path=path)
    page.close()


if __name__ == "__main__":
    main()
