"""Checks a page with axe-core: for people who use a screen reader, or see badly."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["findings"]


def findings(page: Any) -> list[str]:
    """Return the faults that axe finds in a page as it is shown now."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['target']}: {node['failureSummary']}"
        for fault in found
        for node in fault["nodes"]
    ]
