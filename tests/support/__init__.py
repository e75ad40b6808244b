"""What the tests are built on: servers, proxies, processes, a browser, and waiting."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
