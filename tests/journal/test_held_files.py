"""Files that another program holds open, such as a virus scanner: Windows can't delete these."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.journal import Journal
from redvsblue_telemetry._report import Report, State, encode_report
from tests.support.journal import journal_of_a_session
from tests.support.systems import IS_WINDOWS

REPORT = encode_report(Report(session_id="session", number=1, state=State.RUNNING))


@contextlib.contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Hold files open, so that they can be neither deleted nor replaced."""
    with contextlib.ExitStack() as stack:
        if IS_WINDOWS:
            for path in paths:
                stack.enter_context(path.open("rb"))
        else:  # other systems delete them all the same
            monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
            for name in ("unlink", "rename"):
                monkeypatch.setattr(Path, name, _of_others(getattr(Path, name), paths))
        yield


def _of_others(change: Callable[..., object], held: tuple[Path, ...]) -> Callable[..., object]:
    def change_others(path: Path, *arguments: object, **keywords: object) -> object:
        if path in held:
            raise PermissionError(13, "it is held", str(path))
        return change(path, *arguments, **keywords)

    return change_others


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = journal_of_a_session(tmp_path / "journal")
    journal.store.push(journal._codec.encode("x", {}))
    journal.save_report(REPORT)
    return journal


@pytest.mark.parametrize("name", ["00000001.events", "redvsblue.report", "redvsblue.lock"])
def test_a_run_that_ended_well_is_no_killed_one_for_the_next_start(
    journal: Journal, name: str
) -> None:
    path = journal.path / "session" / name
    with held(path):
        journal.store.confirm(1)
        assert journal.close(keep=True) == 0
        assert path.exists()
        assert list(JournalDirectory(journal.path).dead_runs()) == []
    assert list(JournalDirectory(journal.path).dead_runs()) == []
    assert list(journal.path.iterdir()) == []


@pytest.mark.parametrize("end", [Journal.maintain, lambda journal: journal.close(keep=True)])
@pytest.mark.parametrize("name", ["00000001.events", "redvsblue.report", "redvsblue.lock"])
def test_what_can_not_be_erased_is_deleted_soon_after(
    journal: Journal, name: str, end: Callable[[Journal], object]
) -> None:
    path = journal.path / "session" / name
    with held(path):
        journal.erase()
        assert path.exists()
        end(journal)
        assert path.exists()
        journal.erase()
    end(journal)
    assert not journal.path.exists()
