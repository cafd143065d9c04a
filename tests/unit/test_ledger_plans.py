"""What SQLite says of each query: none reads a table that grows with the rounds from end to end."""

import re

import pytest
from sqlalchemy import event
from support import console_market
from support.console_market import BIRCH, NAMES

from ipfl_flower.console.book import read_book
from ipfl_flower.console.metrics import market_registry
from ipfl_flower.console.money import read_statement
from ipfl_flower.ledger import Ledger

ROUNDS = 5  # that `console_market.play` has over; one more waits for birch
GROWS = {"entries", "reports", "outcomes", "asked", "refusals", "transitions", "settlements"}
GROWS |= {"own"}  # reports, by the name that a query gives them


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        console_market.play(ledger, ROUNDS)
        yield ledger


def scans(ledger, act):
    """List the scans of tables that grow, by what SQLite plans for each statement of `act`."""
    engine, seen = ledger._database.engine, {}

    def note(_connection, _cursor, statement, parameters, _context, many):
        seen[statement] = parameters[0] if many else parameters

    event.listen(engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    found = []
    with ledger._read() as connection:
        for statement, parameters in seen.items():
            if statement.split()[0] not in {"SELECT", "INSERT"}:
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            for *_, step in plan:
                match = re.match(r"SCAN (\w+)", step)
                if match and match[1] in GROWS:
                    found.append(f"{step}: {' '.join(statement.split())}")
    assert seen, "nothing was asked"
    return found


def play_a_round(ledger):
    """Do with a round what a market does, a repeated commit included."""
    settlement = console_market.settlement(ROUNDS, missing=(BIRCH,))
    ledger.refuse(ROUNDS, BIRCH, "it is away")
    head = ledger.commit(settlement)
    assert ledger.commit(settlement) == head
    ledger.deliver(ROUNDS)
    ledger.open_round(ROUNDS + 1, range(len(NAMES)), 60.0, 2)
    ledger.collect(ROUNDS + 1)
    console_market.report(ledger, console_market.settlement(ROUNDS + 1))
    assert ledger.has_reported(BIRCH)
    ledger.acknowledge(ROUNDS + 1, BIRCH, {"test_accuracy": 0.5})
    ledger.log_event("resent", "to birch")
    ledger.state()
    ledger.last_heard()
    ledger.abandon(ROUNDS + 1, "enough")


def test_a_round_is_played_by_indices(ledger):
    assert scans(ledger, lambda: play_a_round(ledger)) == []


@pytest.mark.parametrize(
    "look",
    [
        lambda ledger: ledger.statement("elm"),
        lambda ledger: ledger.settlement(4),
        lambda ledger: ledger.figures(after=3),
        lambda ledger: ledger.head_fits(),
        lambda ledger: ledger.reports(4),
        lambda ledger: list(market_registry(ledger).collect()),
        lambda ledger: read_book(ledger, read_book(ledger)),
        lambda ledger: read_statement(ledger, read_book(ledger), 1, 2, 4),
    ],
    ids=["statement", "round", "figures", "head", "reports", "metrics", "book", "account"],
)
def test_who_watches_a_market_looks_into_indices(ledger, look):
    assert scans(ledger, lambda: look(ledger)) == []


def test_verification_reads_each_round_by_an_index(ledger):
    # Once over all rounds, to find out which there are, and once for all balances.
    once = {
        "SELECT transitions.round, transitions.state FROM transitions",
        "SELECT settlements.round FROM settlements",
        "SELECT DISTINCT entries.round FROM entries WHERE entries.kind = ?",
    }
    total = (
        "SELECT entries.{0}, sum(entries.amount_micro) AS sum_1 FROM entries GROUP BY entries.{0}"
    )
    once |= {total.format(role) for role in ("payer", "payee")}
    found = scans(ledger, ledger.verify)
    assert {scan.split(": ", 1)[1] for scan in found} == once


def test_balances_are_summed_up_from_indices_alone(ledger):
    found = scans(ledger, lambda: ledger.balances(through=4))
    assert len(found) == 2
    assert all("USING COVERING INDEX entries_pay" in scan for scan in found)


def test_a_scan_is_noticed(ledger):
    with ledger._write() as connection:
        connection.exec_driver_sql("DROP INDEX entries_round")
    found = scans(ledger, ledger.head_fits)
    assert [scan.split(":")[0] for scan in found] == ["SCAN entries"]
