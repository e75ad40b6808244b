"""``prove``: compare the reports of games with the stored events."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from ...collector.client import CollectorClient, CollectorError
from ...collector.models import Cause
from ...collector.storage.database import DatabaseError
from .._arguments import TEXT, db_option, token_option
from .._database import open_database
from .._lake import check_source, lake_option, opened_lake
from .._terminal import CommandError, NothingFound, is_colored, pipe_safe_stdout, printable
from .evidence import Evidence, from_collector, from_database, from_lake
from .proof import Proof, Verdict, prove_session

__all__ = ["prove"]

_COLORS = {Verdict.PROVED: "green", Verdict.FAILED: "red", Verdict.OPEN: "yellow"}
_MAX_ID_LETTERS = 40


@click.command()
@click.argument("session", required=False, type=TEXT)
@db_option
@lake_option
@click.option("--url", help="Ask the collector whose page has this URL, in place of a database.")
@token_option
@click.option("--strict", is_flag=True, help="Exit with 1 also if a session can't be proved.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def prove(
    context: click.Context,
    session: str | None,
    db: Path,
    lake: str | None,
    url: str | None,
    token: str | None,
    *,
    strict: bool,
    as_json: bool,
) -> None:
    """Check that no event is missing without a reason.

    A game reports how many events it emitted, and which of them it dropped and why. All others must
    be stored, or wait on the player's machine. A session fails if its report and its stored events
    contradict each other. It can't be proved while it runs, nor without a last report.

    With SESSION, only that session is checked, and it has to be proved.

    Exits with 0 if no session failed, with 1 if one did or SESSION is not there, and with 2 if they
    can't be read.
    """
    check_source(lake=lake, url=url)
    output = pipe_safe_stdout()  # the exit code counts even if nobody reads on
    summary = _Summary()
    shown = []  # in JSON
    must_be_proved = strict or session is not None
    bad = {Verdict.FAILED, Verdict.OPEN} if must_be_proved else {Verdict.FAILED}
    with _opened(db, lake, url, token, session) as found:
        for result in map(_result, found):
            summary.add(result)
            if session is None and result.proof.verdict not in bad:
                continue
            if as_json:
                shown.append(result.as_json())
            else:
                click.echo(_line(result), output, color=is_colored())
    verdicts = summary.verdicts
    if session is not None and not verdicts:
        raise NothingFound(f"{lake or url or db} has no session {session}")
    if as_json:
        click.echo(json.dumps({**summary.counts(), "sessions": shown}, indent=2), output)
    elif session is None:
        click.echo(summary.text(), output)
    if any(verdicts[verdict] for verdict in bad):
        context.exit(1)


@contextlib.contextmanager
def _opened(
    db: Path, lake: str | None, url: str | None, token: str | None, session: str | None
) -> Iterator[Iterator[Evidence]]:
    try:
        if lake is not None:
            with opened_lake(lake) as reading:
                yield from_lake(reading, session)
        elif url is None:
            with open_database(db) as connection:
                yield from_database(connection, session)
        else:
            with contextlib.closing(_client(url, token)) as client:
                yield from_collector(client, session)
    except (DatabaseError, CollectorError) as error:
        raise CommandError(str(error)) from error


def _client(url: str, token: str | None) -> CollectorClient:
    try:
        return CollectorClient(url, token)
    except ValueError as error:
        raise CommandError(str(error)) from error


class _Result(msgspec.Struct):
    """The proof of a session, with its name."""

    session: str
    outcome: str
    obstacle: str
    """Why nothing is proved, if nothing failed."""
    proof: Proof

    def as_json(self) -> dict[str, Any]:
        """Return it by the names in JSON."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        fields |= fields.pop("proof")
        return fields


def _result(evidence: Evidence) -> _Result:
    session, ranges, events = evidence
    if ranges is None:
        proof = Proof(verdict=Verdict.OPEN, last_seq=session.highest, stored=session.events)
        proof.deleted = session.deleted
        obstacle = "too many gaps for --url"
    else:
        proof = prove_session(session.report, ranges, events, session.deleted)
        obstacle = "no report" if session.report is None else session.outcome.replace("_", " ")
    is_open = proof.verdict is Verdict.OPEN
    return _Result(session.session_id, session.outcome, obstacle if is_open else "", proof)


def _line(result: _Result) -> str:
    proof = result.proof
    here = max(0, proof.stored - proof.deleted)
    counts = {"stored": here, "deleted": proof.deleted, **proof.missing}
    counts |= {Cause.WAITING: proof.waiting, Cause.UNEXPLAINED: proof.unexplained}
    fates = ", ".join(f"{count:,} {printable(fate)}" for fate, count in counts.items() if count)
    verdict = click.style(f"{proof.verdict.value:<6}", fg=_COLORS[proof.verdict])
    name = printable(result.session, _MAX_ID_LETTERS)
    remarks = "; ".join(printable(text) for text in (result.obstacle, *proof.problems) if text)
    line = f"{verdict}  {name}  {proof.last_seq:,} event{'' if proof.last_seq == 1 else 's'}"
    return ": ".join(filter(None, [line, fates, remarks]))


class _Summary:
    """Counts the sessions, and their missing events by reason."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self._obstacles: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._waiting = 0

    def add(self, result: _Result) -> None:
        """Count a session."""
        self.verdicts[result.proof.verdict] += 1
        self._missing.update(result.proof.missing)
        self._waiting += result.proof.waiting
        if result.obstacle:
            self._obstacles[result.obstacle] += 1

    def counts(self) -> dict[str, object]:
        """Return the counts by their names in JSON."""
        return {
            **{verdict.value: self.verdicts[verdict] for verdict in Verdict},
            "obstacles": self._obstacles,
            "missing": self._missing,
            "waiting": self._waiting,
        }

    def text(self) -> str:
        """Return the counts as a line."""
        number = self.verdicts.total()
        parts = [f"{number:,} session{'' if number == 1 else 's'}"]
        parts += [f"{self.verdicts[verdict]:,} {verdict.value}" for verdict in Verdict]
        if self._obstacles:
            parts[-1] += f" ({_listed(self._obstacles)})"
        missing = self._missing + Counter({Cause.WAITING: self._waiting})
        return f"{parts[0]}: {', '.join(parts[1:])}; missing: {_listed(missing) or 'none'}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {printable(name)}" for name, count in counts.items() if count)
