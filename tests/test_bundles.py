"""The game of ``make bundles``, unbundled: it passes the same checks, and nothing is built.

So a bundle that fails one of them fails because it is a bundle.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import trustme

from bundles.__main__ import CHECKS, CheckFailed, Place, expect_each_event_once
from bundles.bundlers import GAME, KINDS, Bundle
from tests.support import REPOSITORY
from tests.support.systems import not_on_windows

pytestmark = not_on_windows("the bundles play on Linux")

OF_BUNDLES_ONLY = "contents"  # this one checks that code for developers is missing


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "tmp", trustme.CA(), tmp_path / "ca.pem", tmp_path / "empty.pem")
    place.temporary.mkdir()
    place.empty_file.touch()
    place.authority.cert_pem.write_to_path(str(place.authority_file))
    return place


@pytest.fixture
def unbundled(tmp_path: Path) -> Bundle:
    program = tmp_path / "game"
    path, python, game = map(shlex.quote, (str(REPOSITORY), sys.executable, str(GAME)))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {python} {game} "$@"\n', "utf-8")
    program.chmod(0o700)
    return Bundle(KINDS[0], program)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CHECKS) - {OF_BUNDLES_ONLY}))
def test_the_game_passes_the_check_unbundled(name: str, unbundled: Bundle, place: Place) -> None:
    CHECKS[name](unbundled, place)


def test_code_for_developers_is_found_where_it_is(unbundled: Bundle, place: Place) -> None:
    with pytest.raises(CheckFailed, match=r"redvsblue_telemetry\.collector"):
        CHECKS[OF_BUNDLES_ONLY](unbundled, place)


@pytest.mark.parametrize("seqs", [range(1, 500), [*range(1, 501), 500], [2, 1, *range(3, 501)]])
def test_lost_repeated_and_reordered_events_fail(seqs: list[int]) -> None:
    whole = [event(seq) for seq in range(1, 501)]
    expect_each_event_once(whole)
    with pytest.raises(CheckFailed):
        expect_each_event_once([event(seq) for seq in seqs])


def event(seq: int) -> dict[str, object]:
    return {"sessionId": "s", "seq": seq, "version": "1.4.2", "data": {"frame": seq - 1}}
