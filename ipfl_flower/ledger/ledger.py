"""The ledger: the market's durable, append-only record, one transaction a step.

A round is a state machine whose every transition is one commit.
Each step can be repeated with the same content, which then changes nothing: after a crash the
server says again what it was about to say. The same step with other content is refused.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import Connection

from ipfl_flower.ledger import admission, enrolment, export, journal, rounds, upkeep, verify
from ipfl_flower.ledger.addresses import find_database
from ipfl_flower.ledger.chain import head_before
from ipfl_flower.ledger.database import Database
from ipfl_flower.ledger.figures import Figures
from ipfl_flower.ledger.history import RoundHistory, read_history
from ipfl_flower.ledger.reading import has_reported, last_round, read_state, read_summaries
from ipfl_flower.ledger.records import (
    Event,
    Institution,
    LedgerError,
    Problem,
    Report,
    RoundState,
    RoundSummary,
    Settlement,
    Statement,
)
from ipfl_flower.ledger.rows import read_reports, read_settlement
from ipfl_flower.ledger.statements import (
    read_balances,
    read_institutions,
    read_lines,
    read_statement,
)
from ipfl_flower.ledger.watching import head_fits, read_figures


class Ledger:
    """The durable record of one market; make it with `Ledger.open`.

    Every method is one transaction and raises `LedgerError` for what it refuses, and when the
    database cannot be read or written. Any number of processes may read while one writes.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._closed = False

    @classmethod
    def open(
        cls,
        url_or_path: str | Path,
        *,
        create: bool = True,
        serve: bool = False,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a ledger.

        Parameters
        ----------
        url_or_path : str or Path
            A file, its URL ``sqlite:///FILE``, or ``postgresql+psycopg://USER@HOST/DATABASE``.
        create : bool
            Whether a missing file (then mode 0600) or an empty PostgreSQL database becomes a new
            ledger. Readers say False.
        serve : bool
            Whether to be this ledger's one server until it is closed or the process ends: whoever
            runs a market says True, and a second one is refused. Readers say False.
        read_only : bool
            Whether nothing may be written: a file then can be on a read-only mount, and a reader
            neither changes it nor holds its writer up.
        clock : callable
            Seconds since 1970, for the columns that say when.

        Raises
        ------
        LedgerError
            The ledger is missing, unreachable, unreadable, damaged, another program's, of another
            schema version, or served already.
        """
        database = find_database(url_or_path, read_only=read_only)
        database.open(create=create and not read_only, serve=serve)
        return cls(database, clock)

    @property
    def name(self) -> str:
        """The ledger's file or URL, without password."""
        return self._database.name

    def server(self) -> str | None:
        """Name the process that serves this ledger now, as "process PID on HOST"; None: nobody.

        Whoever opened it with `serve` does so until it closes the ledger or dies.
        """
        return self._database.holder()

    def close(self) -> None:
        """Close the database; the ledger cannot be used afterwards."""
        self._closed = True
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the market -------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Record the market's settings, once.

        Parameters
        ----------
        settings : Mapping
            JSON values, without NaN or infinities. The same settings again change nothing.

        Raises
        ------
        LedgerError
            The market has other settings (the message names them), or a setting is not JSON.
        """
        with self._write() as connection:
            enrolment.begin(connection, settings, self._clock())

    @property
    def settings(self) -> dict[str, Any] | None:
        """The market's settings; None before `begin`."""
        with self._read() as connection:
            return enrolment.read_settings(connection)

    @property
    def market(self) -> str | None:
        """What identifies the market, as in its receipts: the SHA-256 of its settings.

        None before `begin`.
        """
        return None if self.settings is None else self.head(before=0)

    def enrol(self, name: str, public_key: bytes, *, samples_cap: int | None = None) -> int:
        """Add an institution, or find it again by its public key.

        Parameters
        ----------
        name : str
            Unique, printable.
        public_key : bytes
            What identifies it.
        samples_cap : int or None
            The most samples that its contract lets it report; None: no limit, or as enrolled.

        Returns
        -------
        int
            Its id: its position in the market's order.

        Raises
        ------
        LedgerError
            The name or the key belongs to another institution, or the cap differs.
        """
        with self._write() as connection:
            return enrolment.enrol(connection, name, public_key, samples_cap, self._clock())

    def institutions(self) -> list[Institution]:
        """List all institutions, by id."""
        with self._read() as connection:
            return read_institutions(connection)

    def admit(self, institution: int) -> float:
        """Note that an institution may take part, also beside the market's server.

        Parameters
        ----------
        institution : int
            Its id.

        Returns
        -------
        float
            Since when it may, seconds since 1970: admitting it once more changes nothing.

        Raises
        ------
        LedgerError
            Nobody is enrolled as `institution`.
        """
        with self._write() as connection:
            return admission.admit(connection, institution, self._clock())

    def expel(self, name: str, reason: str = "") -> None:
        """Note that an institution may not take part until it is admitted again.

        Its account stays as it is. Expelling it once more changes nothing.

        Raises
        ------
        LedgerError
            No institution has that name; the message lists those that there are.
        """
        with self._write() as connection:
            admission.expel(connection, name, reason, self._clock())

    def expelled(self) -> dict[int, str]:
        """Load the institutions that are expelled now: id to reason."""
        with self._read() as connection:
            return admission.read_expelled(connection)

    # --- a round ----------------------------------------------------------------------------------

    def open_round(self, number: int, asked: Sequence[int], deadline_s: float, quorum: int) -> None:
        """Begin a round: → OPEN. Its messages carry what the last round, if settled, delivers.

        Parameters
        ----------
        number : int
            One more than the last round's number, 0 for the first.
        asked : sequence of int
            Ids of the institutions that it asks.
        deadline_s : float
            Seconds that collecting may last.
        quorum : int
            Reports without which it cannot be settled.

        Raises
        ------
        LedgerError
            The market has not begun, the last round is neither settled nor abandoned, or an
            argument is impossible.
        """
        with self._write() as connection:
            rounds.open_round(connection, number, asked, deadline_s, quorum, self._clock())

    def collect(self, number: int) -> None:
        """Start to wait for reports: OPEN → COLLECTING. The deadline counts from here.

        Raises
        ------
        LedgerError
            The round is not open, or an earlier one is settled but not delivered.
        """
        with self._write() as connection:
            rounds.collect(connection, number, self._clock())

    def report(self, report: Report) -> None:
        """Record what an institution replied, when its model is safe in the bank.

        Raises
        ------
        LedgerError
            It was not asked, is too late, over its contract's samples, or has said something else.
        """
        with self._write() as connection:
            rounds.report(connection, report, self._clock())

    def refuse(self, number: int, institution: int, reason: str) -> None:
        """Record that an institution's reply failed or does not count; a good one still does.

        Raises
        ------
        LedgerError
            It was not asked, or the round no longer collects.
        """
        with self._write() as connection:
            rounds.refuse(connection, number, institution, reason, self._clock())

    def commit(self, settlement: Settlement) -> str:
        """Settle a round: COLLECTING → SETTLED.

        Parameters
        ----------
        settlement : Settlement
            Of exactly the institutions that reported, with what they reported.

        Returns
        -------
        str
            The new head of the chain. The same settlement again gives the same head.

        Raises
        ------
        LedgerError
            The settlement contradicts itself, the reports or what is settled already, or lacks a
            quorum. Nothing is recorded then.
        """
        with self._write() as connection:
            return rounds.commit(connection, settlement, self._clock())

    def deliver(self, number: int) -> None:
        """Finish a round whose centres and statements were sent: SETTLED → DELIVERED."""
        with self._write() as connection:
            rounds.deliver(connection, number, self._clock())

    def abandon(self, number: int, reason: str) -> str:
        """Give up a round: OPEN or COLLECTING → ABANDONED.

        Returns
        -------
        str
            The new head of the chain: an abandoned round is in it, too.
        """
        with self._write() as connection:
            return rounds.abandon(connection, number, reason, self._clock())

    # --- the journal: not in the chain ------------------------------------------------------------

    def acknowledge(self, number: int, institution: int, metrics: Mapping[str, float]) -> None:
        """Record what an institution makes of the last delivery, sent as message `number`.

        Raises
        ------
        LedgerError
            Nobody is enrolled as `institution`.
        """
        with self._write() as connection:
            journal.acknowledge(connection, number, institution, metrics, self._clock())

    def acknowledgements(self) -> dict[int, dict[str, float]]:
        """Load the metrics that each institution, by id, acknowledged last."""
        with self._read() as connection:
            return journal.read_acknowledgements(connection)

    def last_heard(self) -> dict[int, int]:
        """Load the number of the last message that each institution, by id, answered; −1: none."""
        with self._read() as connection:
            return journal.read_last_heard(connection)

    def log_event(self, kind: str, text: str) -> None:
        """Note that something happened to the server or an institution."""
        with self._write() as connection:
            journal.log_event(connection, kind, text, self._clock())

    def events(self, after: int = 0) -> list[Event]:
        """List all events but the first `after`, oldest first."""
        with self._read() as connection:
            return journal.read_events(connection, after)

    # --- reading ----------------------------------------------------------------------------------

    def state(self, number: int | None = None) -> RoundState | None:
        """Tell where a round stands, by default the newest; None before the first.

        Raises
        ------
        LedgerError
            There is no such round.
        """
        with self._read() as connection:
            known = last_round(connection) if number is None else number
            return None if known is None else read_state(connection, known)

    def reports(self, number: int) -> list[Report]:
        """List what institutions have reported in a round so far, by institution."""
        with self._read() as connection:
            return read_reports(connection, number)

    def has_reported(self, institution: int) -> bool:
        """Tell whether an institution has reported in any round: it is no newcomer then."""
        with self._read() as connection:
            return has_reported(connection, institution)

    def rounds(self) -> list[RoundSummary]:
        """Sum up every round, by number."""
        with self._read() as connection:
            return read_summaries(connection)

    def figures(self, after: int = -1) -> Figures:
        """Sum up the rounds after round `after`, and tell where the market stands, of one moment.

        Raises
        ------
        LedgerError
            The newest round's transitions make no sense.
        """
        with self._read() as connection:
            return read_figures(connection, after)

    def head_fits(self) -> bool:
        """Tell whether the newest sealed round is what was sealed, and follows the one before it.

        That is what `verify` finds out of every round, and more; this reads one.
        """
        with self._read() as connection:
            return head_fits(connection)

    def history(self, first: int = 0, count: int = 1) -> list[RoundHistory]:
        """Tell how rounds went, by number: `first` and those after it, at most `count` of them."""
        with self._read() as connection:
            return read_history(connection, first, count)

    def lines(self, institution: int, first: int, last: int) -> list[tuple[int, int, int, int]]:
        """List an institution's entries in some rounds: round, payer, payee, micro-credits."""
        with self._read() as connection:
            return read_lines(connection, institution, first, last)

    def settlement(self, number: int) -> Settlement:
        """Load a settled round.

        Raises
        ------
        LedgerError
            The round is not settled.
        """
        with self._read() as connection:
            return read_settlement(connection, number)

    def head(self, before: int | None = None) -> str:
        """Return the chain's head: of the last settled or abandoned round, else of the settings.

        Parameters
        ----------
        before : int, optional
            The head that this round builds on, instead of the newest one; 0: that of the settings.

        Raises
        ------
        LedgerError
            The market has not begun.
        """
        with self._read() as connection:
            return head_before(connection, enrolment.NUMBER_MAX if before is None else before)

    def balances(self, through: int | None = None) -> dict[str, int]:
        """Sum up each institution's entries.

        Parameters
        ----------
        through : int, optional
            The last round that counts; by default all do.

        Returns
        -------
        dict of str to int
            Name to micro-credits; positive: it has earned more than it has paid.
        """
        with self._read() as connection:
            return read_balances(connection, through)

    def statement(self, name: str) -> Statement:
        """List an institution's entries with its running balance.

        Raises
        ------
        LedgerError
            No institution has that name; the message lists those that there are.
        """
        with self._read() as connection:
            return read_statement(connection, name)

    def verify(self) -> list[Problem]:
        """Check everything: file, chain, states, sums, and every clearing again.

        Returns
        -------
        list of Problem
            What is wrong; empty if nothing is. A history cut off at its end or rewritten as a whole
            with a new chain is consistent in itself: only the heads that others keep show it.
        """
        with self._read() as connection:
            return verify.problems(connection, self._database.health)

    def backup(self, path: str | Path) -> None:
        """Copy the ledger, as it is at this moment, to a new file; writers may go on meanwhile.

        Parameters
        ----------
        path : str or Path
            The copy: a SQLite ledger whatever the database here, to be opened like any other.

        Raises
        ------
        LedgerError
            There is such a file already, or it cannot be written.
        """
        self._check_open()
        upkeep.backup(self._database, Path(path))

    def export(self, folder: str | Path, form: Literal["csv", "jsonl"] = "csv") -> list[str]:
        """Write every table to a file of its own in the new folder `folder`, all of one moment.

        Parameters
        ----------
        folder : str or Path
            New or empty.
        form : {"csv", "jsonl"}
            Money is in integer micro-credits, a float in the shortest form that gives the same
            float again, bytes are hexadecimal.

        Returns
        -------
        list of str
            The files' names.

        Raises
        ------
        LedgerError
            The folder has something in it, or cannot be written.
        """
        with self._read() as connection:
            return export.write_tables(connection, Path(folder), form)

    # --- transactions -----------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """Open a snapshot: writers neither wait for it nor show in it."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """Open the one write transaction at a time; durable when the block ends, else undone."""
        with self._transaction(write=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        self._check_open()
        with self._database.transaction(write=write) as connection:
            yield connection

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"ledger {self._database.name} is closed: open it again")
