"""What a report says of a market, read from its ledger by what the console reads it with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.charts.graph import TITLED_MAX
from ipfl_flower.charts.svg import short, text
from ipfl_flower.console.access import OPERATOR
from ipfl_flower.console.book import FINAL, SETTLED, Book, read_book
from ipfl_flower.console.graph import round_graph
from ipfl_flower.console.money import picked_rounds
from ipfl_flower.console.shapes import Graph
from ipfl_flower.console.verifier import verified
from ipfl_flower.ledger import Ledger, LedgerError, State, Statement
from ipfl_flower.market import Terms
from ipfl_flower.report.baselines import Baselines

EDGES_MAX: Final = 400
"""Arrows of one round that are drawn: the dearest."""
PURCHASES_MAX: Final = 60
"""Purchases of a round that are listed, too."""
GRAPH_BYTES: Final = 2_000_000
STATEMENT_BYTES: Final = 1_000_000
"""About what all graphs and all statements may take of the page. Rounds are left out to keep to
it, and old entries."""
NAME_LENGTH: Final = 40

# What reading a ledger that was tampered with can raise beside LedgerError.
_UNREADABLE: Final = (LedgerError, ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(frozen=True, eq=False)
class MarketReport:
    """A market, as its report shows it.

    Attributes
    ----------
    name : str
        The ledger's, without the folder or host where it lies.
    written_at : float
        Seconds since 1970.
    book : Book
    settings : mapping or None
        The contract; None: the market has not begun.
    gone : frozenset of int
        Who left or was expelled, by id.
    graphs : tuple of Graph
        Of the rounds that are drawn, with all their purchases.
    payments : int64 (m, m)
        What i paid j over all settled rounds, corrections included, micro-credits.
    statements : tuple of Statement
        By id. Their newest lines alone: `left_out` says how many there are before them.
    left_out : tuple of int
    terms : mapping of int to Terms
        What each reported in the last settled round, by id.
    final : float64 (m,)
        Accuracy of the best model after the last delivery, in [0, 1]; NaN: unknown.
    baselines : Baselines or None
    baselines_note : str
        Why there are none, or whose they are.
    problems : tuple of str
        What verification found.
    unreadable : tuple of str
        What could not be read, and so is missing here.
    """

    name: str
    written_at: float
    book: Book
    settings: Mapping[str, Any] | None = None
    gone: frozenset[int] = frozenset()
    graphs: tuple[Graph, ...] = ()
    payments: NDArray[np.int64] | None = None
    statements: tuple[Statement, ...] = ()
    left_out: tuple[int, ...] = ()
    terms: Mapping[int, Terms] = field(default_factory=dict)
    final: NDArray[np.float64] | None = None
    baselines: Baselines | None = None
    baselines_note: str = ""
    problems: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @cached_property
    def names(self) -> list[str]:
        """The institutions' names, by id, cut to what a table holds, and still all different."""
        cut = [short(name, NAME_LENGTH) for name in self.book.names]
        return [
            f"{short(name, NAME_LENGTH - 5)} #{i}" if cut.count(name) > 1 else name
            for i, name in enumerate(cut)
        ]

    @property
    def verified(self) -> bool:
        """Whether verification found nothing, and everything could be read."""
        return not self.problems and not self.unreadable

    @property
    def settled(self) -> list[int]:
        """Numbers of the settled rounds."""
        return self.book.settled


def read_market(ledger: Ledger, *, now: float) -> MarketReport:
    """Read a market, also while it goes on.

    Parameters
    ----------
    ledger : Ledger
        It is verified, too, which clears every round again.
    now : float
        Seconds since 1970.

    Returns
    -------
    MarketReport
        Whatever of the ledger can be read, and what can't; without baselines.

    Raises
    ------
    LedgerError
        It can't be reached.
    """
    problems = tuple(str(problem) for problem in verified(ledger))
    report = MarketReport(
        name=ledger_name(ledger.name),
        written_at=now,
        book=Book(),
        problems=problems,
    )
    unreadable: list[str] = []
    try:
        report = replace(report, book=read_book(ledger), settings=ledger.settings)
    except _UNREADABLE as error:
        # A ledger that is whole can be read, or can't be reached.
        if not problems:
            raise
        return replace(report, unreadable=(f"rounds: {_line(error)}",))
    book = report.book
    with _noting(unreadable, "accounts"):
        report = _with_accounts(ledger, report)
    with _noting(unreadable, "what institutions said in the end"):
        report = replace(report, final=final_accuracies(ledger, book))
    with _noting(unreadable, "who left"):
        report = replace(report, gone=ledger.figures(len(book.pages) - 1).gone)
    graphs = []
    for number in drawn_rounds(book):
        page = book.pages[number]
        with _noting(unreadable, f"round {number}"):
            settlement = ledger.settlement(number) if page.state in SETTLED else None
            graphs.append(round_graph(book, page, settlement, OPERATOR))
            if settlement is not None and number == book.settled[-1]:
                terms = zip(settlement.participants, settlement.terms, strict=True)
                report = replace(report, terms=dict(terms))
    return replace(report, graphs=tuple(graphs), unreadable=tuple(unreadable))


@contextmanager
def _noting(unreadable: list[str], what: str) -> Iterator[None]:
    """Note what can't be read, and go on without it."""
    try:
        yield
    except _UNREADABLE as error:
        unreadable.append(f"{what}: {_line(error)}")


def ledger_name(name: str) -> str:
    """Return a ledger's name without folder, host, user and options: reports are handed on."""
    return name.split("?", maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]


def drawn_rounds(book: Book) -> list[int]:
    """Choose the rounds whose graph is drawn: as many as `GRAPH_BYTES` allow, evenly picked.

    The last settled one is always among them.
    """
    if not book.pages:
        return []
    name = _name_bytes(book)
    sizes = []
    for page in book.pages:
        edges = page.history.edges
        size = 70 if edges > TITLED_MAX else 170 + 2 * name
        listed = 150 + 2 * name if edges <= PURCHASES_MAX else 0
        sizes.append(len(book.names) * (300 + 2 * name) + min(EDGES_MAX, edges) * (size + listed))
    count = GRAPH_BYTES * len(sizes) / max(1.0, sum(sizes))
    return sorted({*picked_rounds(len(sizes), max(2, int(count))), *book.settled[-1:]})


def _name_bytes(book: Book) -> float:
    """Return how many bytes an institution's name takes on the page, on average."""
    taken = [len(text(short(name, NAME_LENGTH)).encode()) for name in book.names]
    return sum(taken) / max(1, len(taken))


def final_accuracies(ledger: Ledger, book: Book) -> NDArray[np.float64]:
    """Return how well each did after the last delivery, (m,); NaN: it said nothing, or too early.

    An acknowledgement from before a market was taken up again says nothing of its end.
    """
    found = np.full(len(book.names), np.nan)
    if not book.pages or book.pages[-1].state not in FINAL:
        return found
    heard = ledger.last_heard()
    for i, metrics in ledger.acknowledgements().items():
        value = metrics.get("best_test_accuracy", np.nan)
        if i < len(found) and heard.get(i, -1) >= len(book.pages) and 0 <= value <= 1:
            found[i] = value
    return found


def _with_accounts(ledger: Ledger, report: MarketReport) -> MarketReport:
    """Add payments and statements, up to the last round that the book has as settled."""
    book = report.book
    last = book.settled[-1] if book.settled else -1
    keep = max(5, int(STATEMENT_BYTES / (200 + _name_bytes(book)) / max(1, len(book.names))))
    payments = np.zeros((len(book.names), len(book.names)), np.int64)
    statements, left_out = [], []
    for i, name in enumerate(book.names):
        statement = ledger.statement(name)
        lines = [line for line in statement.lines if line.round <= last]
        for line in lines:
            if line.direction == "paid":
                payments[i, book.ids[line.counterparty]] += line.amount_micro
        paid = sum(line.amount_micro for line in lines if line.direction == "paid")
        earned = sum(line.amount_micro for line in lines if line.direction == "earned")
        left_out.append(max(0, len(lines) - keep))
        statements.append(Statement(name, tuple(lines[-keep:]), paid, earned))
    return replace(
        report, payments=payments, statements=tuple(statements), left_out=tuple(left_out)
    )


def _line(error: Exception) -> str:
    return short(str(error) or type(error).__name__, 300)


def period(book: Book) -> tuple[float | None, float | None]:
    """Return when the first round began and the last step was taken, seconds since 1970."""
    begins = [at for page in book.pages for at in page.history.steps.values()]
    return (min(begins), max(begins)) if begins else (None, None)


def state_counts(book: Book) -> Mapping[str, int]:
    """Count rounds: settled, abandoned, going on."""
    states = [page.state for page in book.pages]
    settled = sum(state in SETTLED for state in states)
    abandoned = states.count(State.ABANDONED)
    return {
        "settled": settled,
        "abandoned": abandoned,
        "going on": len(states) - settled - abandoned,
    }


def drawn_edges(graph: Graph) -> Sequence[int]:
    """Return the positions of the purchases that are drawn: the `EDGES_MAX` dearest."""
    order = sorted(range(len(graph.edges)), key=lambda k: -graph.edges[k].price)
    return sorted(order[:EDGES_MAX])
