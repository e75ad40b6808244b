"""A small game without a window, to be bundled: it emits events, and ends in one of several ways.

``python -m bundles`` bundles it and plays it. It can be played unbundled, too::

    python bundles/game.py --frames 300
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import signal
import sys
import time
from typing import TYPE_CHECKING

from redvsblue_telemetry import Telemetry, start_telemetry

if TYPE_CHECKING:
    import ssl

FRAME_TIME = 0.002  # seconds; a short game

# Players need none of these.
FOR_DEVELOPERS = (
    "_redvsblue_telemetry_pytest",
    "redvsblue_telemetry.cli",
    "redvsblue_telemetry.collector",
    "redvsblue_telemetry.testing",
    "pytest",
    "websockets",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a game that emits events.")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--children", type=int, default=0, help="processes that play, too")
    parser.add_argument("--trust", choices=["system", "certifi", "truststore"], default="system")
    parser.add_argument("--end", choices=["return", "exit", "error", "signal"], default="return")
    parser.add_argument("--describe", action="store_true", help="print what is in the bundle")
    arguments = parser.parse_args()
    if arguments.describe:
        print(json.dumps(describe()))
        return

    # SIGINT, too: a bundle in one file by Nuitka passes SIGTERM on as that one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    telemetry = start_telemetry(version="1.4.2", ssl_context=context_of(arguments.trust))
    spawning = multiprocessing.get_context("spawn")
    children = [spawning.Process(target=play_in_a_child) for _ in range(arguments.children)]
    for child in children:
        child.start()
    play(telemetry, arguments.frames)
    for child in children:
        child.join()
    end(arguments.end)


def play_in_a_child() -> None:
    play(start_telemetry(version="1.4.2"), frames=100)


def play(telemetry: Telemetry, frames: int) -> None:
    for frame in range(frames):
        telemetry.emit("frame_drawn", frame=frame)
        time.sleep(FRAME_TIME)


def context_of(trust: str) -> ssl.SSLContext | None:
    if trust == "certifi":
        import ssl

        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    if trust == "truststore":
        import ssl

        import truststore

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return context
    return None


def end(how: str) -> None:
    """End the game while its last events are still to be sent."""
    if how == "exit":
        sys.exit(3)
    if how == "error":
        raise RuntimeError("the game's own mistake")
    if how == "signal":
        print("played", flush=True)
        time.sleep(600)


def describe() -> dict[str, object]:
    import ssl

    import certifi

    return {
        "python": sys.version.split()[0],
        "openssl": ssl.OPENSSL_VERSION,
        "authorities": ssl.create_default_context().cert_store_stats()["x509_ca"],
        "where": ssl.get_default_verify_paths(),
        "certifi": ssl.create_default_context(cafile=certifi.where()).cert_store_stats()["x509_ca"],
        "for_developers": [name for name in FOR_DEVELOPERS if has_code(name)],
    }


def has_code(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:
        return False
    return spec is not None and spec.origin is not None  # not just a folder


if __name__ == "__main__":
    multiprocessing.freeze_support()  # a child starts the bundle again, and plays from in here
    main()
