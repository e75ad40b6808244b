"""`user_journal_dir`: where a journal belongs, on each system, and which names can be folders."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from redvsblue_telemetry import start_telemetry, user_journal_dir
from redvsblue_telemetry.testing import RecordingServer
from tests.support.systems import IS_WINDOWS, needs_windows, not_on_windows

its_place_is_in_the_environment = not_on_windows("the place is not in the environment")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of a player on Linux, or on another system with XDG's directories."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("USERPROFILE" if IS_WINDOWS else "HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path


def test_the_place_on_this_system_is_the_players_own() -> None:
    path = user_journal_dir("Red vs Blue", "Example Studio")
    assert path is not None
    assert path.is_absolute()
    assert path.parts[-3:] == ("Example Studio", "Red vs Blue", "telemetry")
    assert path.is_relative_to(Path.home()) or os.environ.get("XDG_STATE_HOME")


@its_place_is_in_the_environment
def test_nothing_is_created_before_the_journal_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = user_journal_dir("Red vs Blue")
    assert path is not None
    assert list(tmp_path.iterdir()) == []
    with RecordingServer() as server:
        telemetry = start_telemetry(enabled=True, url=server.url, journal=path)
        telemetry.emit("round_end")
        assert len(list(path.iterdir())) == 1
        assert telemetry.stop(timeout=10)


def test_an_author_is_optional(home: Path) -> None:
    assert user_journal_dir("Red vs Blue") == home / ".local/state/Red vs Blue/telemetry"


def test_xdg_names_another_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert user_journal_dir("Red vs Blue") == home / "state/Red vs Blue/telemetry"


@pytest.mark.parametrize("relative", ["", "state", "./state"])
def test_xdg_ignores_a_relative_path(
    home: Path, monkeypatch: pytest.MonkeyPatch, relative: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", relative)
    assert user_journal_dir("Red vs Blue") == home / ".local/state/Red vs Blue/telemetry"


def test_macos_has_a_folder_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))  # means nothing there
    support = home / "Library/Application Support"
    assert user_journal_dir("Red", "Studio") == support / "Studio/Red/telemetry"


@needs_windows
def test_windows_is_asked_and_not_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Path(os.environ["LOCALAPPDATA"], "Red", "telemetry")
    monkeypatch.delenv("LOCALAPPDATA")
    assert user_journal_dir("Red") == expected
    monkeypatch.setenv("LOCALAPPDATA", r"C:\elsewhere")
    assert user_journal_dir("Red") == expected


def test_an_account_without_a_home_has_no_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("USERPROFILE" if IS_WINDOWS else "HOME", "nowhere")
    with caplog.at_level(logging.WARNING, "redvsblue_telemetry"):
        assert user_journal_dir("Red vs Blue") is None
    assert caplog.messages == ["the journal has no place: this account has no home directory"]


ALLOWED = ["Red vs. Blue", "Größe \N{PILE OF POO}", ".hidden", "COM10", "Console", "A'B & C;$x~1"]
FORBIDDEN = {
    "": "empty",
    ".": "dot",
    "..": "dot",
    "Red.": "dot",
    "Red ": "space",
    " Red": "space",
    "../Red": "'/'",
    "Studio\\Red": r"'\\'",
    "Red: Blue": "':'",
    "Red?": "'?'",
    "Red\0": r"'\x00'",
    "Red\n": r"'\n'",
    "Red\ud800": r"'\ud800'",
    "nul": "device",
    "COM1.txt": "device",
    "LPT\N{SUPERSCRIPT TWO}": "device",
    "aux .x": "device",
}


@pytest.mark.parametrize("name", ALLOWED, ids=ascii)
def test_an_allowed_name_is_that_of_a_folder(tmp_path: Path, name: str) -> None:
    path = user_journal_dir(name)
    assert path is not None
    assert path.parent.name == name
    (tmp_path / name).mkdir()
    assert os.path.samefile(tmp_path / name, next(tmp_path.iterdir()))


@pytest.mark.parametrize("name", FORBIDDEN, ids=ascii)
def test_a_name_that_windows_forbids_is_refused_on_each_system(name: str) -> None:
    with pytest.raises(ValueError, match=r"^game=.* can't name a folder") as refused:
        user_journal_dir(name)
    assert FORBIDDEN[name] in str(refused.value)
    with pytest.raises(ValueError, match=r"^author="):
        user_journal_dir("Red", name)
