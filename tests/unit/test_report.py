"""The report of a market: its figures are the ledger's, whoever is in it and whatever happened."""

import itertools
import re

import numpy as np
from support import console_market as cm
from support import reports
from support.reports import HOSTILE, NOW

from ipfl_flower.ledger import Ledger, State
from ipfl_flower.report import market_page, read_market, slides
from ipfl_flower.report.gather import ledger_name
from ipfl_flower.report.order import ring
from ipfl_flower.report.words import duration, money

path, market, page = reports.path, reports.market, reports.page


# --- figures are the ledger's ---------------------------------------------------------------------


def test_money_is_the_ledgers_to_the_last_millionth(path, market, page):
    with Ledger.open(path, create=False) as ledger:
        balances = ledger.balances()
        statements = {name: ledger.statement(name) for name in cm.NAMES}
        transfers = np.zeros((len(cm.NAMES),) * 2, np.int64)
        for number in (0, 1, 3, 4):
            settled = ledger.settlement(number)
            transfers[np.ix_(settled.participants, settled.participants)] += (
                settled.clearing.transfers
            )
    assert (market.payments == transfers).all()
    accounts = {row[0]: row[1:] for row in page.table("What each paid and earned")[1:]}
    for name, statement in statements.items():
        shown = [money(statement.paid), money(statement.earned), money(balances[name])]
        assert accounts[name] == shown
        rows = page.table(f"Statement of {name}")
        assert len(rows) == len(statement.lines) + 2
        for row, line in zip(rows[1:], statement.lines, strict=False):
            sides = ["", ""]
            sides[line.direction == "earned"] = money(line.amount_micro)
            expected = [str(line.round), line.counterparty, *sides, money(line.balance_micro)]
            assert row == expected
    matrix = page.table("Credits that a row's buyer paid")
    assert matrix[1][1:-1] == [money(v) if v else "·" for v in transfers[0].tolist()]
    assert matrix[-1][-1] == money(transfers.sum())
    assert "All balances sum to 0.000000 credits" in page.text


def test_rounds_are_the_ledgers(path, page):
    with Ledger.open(path, create=False) as ledger:
        summaries = ledger.rounds()
    rows = page.table("Rounds, the newest first")[1:]
    assert [row[0] for row in rows] == ["5", "4", "3", "2", "1", "0"]
    for row, item in zip(reversed(rows), summaries, strict=True):
        assert row[1] == item.state.lower()
        assert row[2] == f"{item.participants} of 9"
        if item.state is State.DELIVERED:
            assert row[3:6] == [str(item.edges), money(item.volume_micro), f"{item.welfare:.3f}"]
        assert row[-1] == (item.head or "–")[:12]
    assert "the operator stopped it" in rows[3][8]
    assert rows[2][8] == "cedar: tensor 'w' is missing"
    assert rows[0][8] == "waits for birch"


def test_graphs_have_every_purchase_of_every_round(path, market, page):
    assert [graph.round for graph in market.graphs] == list(range(6))
    with Ledger.open(path, create=False) as ledger:
        for number in (0, 1, 3, 4):
            settled = ledger.settlement(number)
            ids, cleared = settled.participants, settled.clearing
            expected = [
                [cm.NAMES[ids[i]], cm.NAMES[ids[j]], money(cleared.transfers[i, j])]
                for i, j in np.argwhere(cleared.imports).tolist()
            ]
            assert page.table(f"Purchases of round {number}")[1:] == expected
            arrows = re.findall(r' data-of="', market_page_of_round(market, number))
            assert len(arrows) == len(expected)
    opened = [a for tag, a in page.tags if tag == "details" and "open" in a]
    assert len(opened) == 1  # without a script: the last settled round


def market_page_of_round(market, number):
    page = market_page(market)
    return page[page.index(f"<b>Round {number}:") :].split("</svg>")[0]


def test_accuracy_and_utility_are_the_ledgers(market, page):
    utility = page.table("Utility in credits: in all, and by round")
    assert utility[0] == ["Institution", "In all", *map(str, range(6))]
    for i, row in enumerate(utility[1:]):
        assert row[1] == f"{market.book.summed_utilities[-1, i]:,.3f}".replace("-", "−")
        assert row[2] == f"{cm.settlement(0).clearing.utilities[i]:,.3f}".replace("-", "−")
        assert row[4] == "–"  # round 2 was abandoned
    accuracy = {row[0]: row[1:] for row in page.table("Test accuracy in percent")[1:]}
    last = 4  # round 5 waits for birch
    expected = cm.metrics(last, cm.BIRCH)["best_test_accuracy"]
    assert accuracy["birch"][0] == f"{100 * expected:.1f}"
    assert accuracy["birch"][1] == f"{100 * cm.metrics(0, cm.BIRCH)['test_accuracy']:.1f}"
    assert accuracy["oak"] == ["–", "–", "–"]


def test_no_first_report_is_passed_off_as_a_baseline(market, page):
    assert "no baselines are known" in page.text
    assert 'class="level"' not in market_page(market)
    assert "not what training alone comes to" in page.text


def test_the_contract_who_is_in_it_and_the_runs_are_told(page):
    assert page.table("The market's contract")[1][:2] == ["mechanism", "truthful"]
    rows = {row[0]: row[1:] for row in page.table("Institutions, the terms")[1:]}
    assert rows["yew"][0] == "expelled: sold noise"
    assert rows["alder"][0] == "takes part"
    terms = cm.terms()[cm.FIR]
    assert rows["fir"][2:6] == [str(terms.samples), "∞", "20,000", "100"]
    runs = page.table("Flower runs")[1:]
    assert runs[0][0] == "Flower run 42"
    assert runs[0][3] == f"died: OSError: {HOSTILE}"


def test_the_verdict_is_verifications_and_the_head_is_the_ledgers(path, page):
    with Ledger.open(path, create=False) as ledger:
        assert ledger.verify() == []
        assert ledger.head() in page.text
    assert "The ledger verifies" in page.text


def test_slides_are_the_pages_charts(market):
    found = slides(market)
    assert sorted(found) == ["accuracy", "balances", "graph", "utility"]
    assert found["graph"].count("data-of=") == cm.settlement(4).clearing.imports.sum()


def test_a_report_of_a_ledger_on_either_database(place):
    with Ledger.open(place) as ledger:
        cm.play(ledger)
        market = read_market(ledger, now=NOW)
        assert market.verified
        assert (market.payments.sum(axis=0) - market.payments.sum(axis=1)).tolist() == list(
            ledger.balances().values()
        )


# --- the ring and words ---------------------------------------------------------------------------


def test_those_that_trade_stand_together():
    ties = np.zeros((8, 8))
    for group in ([0, 2, 4, 6], [1, 3, 5]):
        for i in group:
            for j in group:
                ties[i, j] = float(i != j)
    places = ring(ties)
    order = sorted(range(8), key=lambda i: places[i])
    assert set(order[:4]) == {0, 2, 4, 6}
    assert set(order[4:7]) == {1, 3, 5}
    assert order[7] == 7  # trades with nobody
    assert len(set(places)) == 8
    assert 0 <= min(places) <= max(places) < 1
    line = np.zeros((6, 6))
    chain = [3, 0, 5, 1, 4, 2]
    for i, j in itertools.pairwise(chain):
        line[i, j] = 1.0
    along = sorted(range(6), key=lambda i: ring(line)[i])
    assert along in (chain, chain[::-1])
    assert ring(np.zeros((3, 3))) == [0.0, 1 / 3, 2 / 3]
    assert ring(np.zeros((0, 0))) == []


def test_numbers_and_names_are_written_as_people_read_them():
    assert [money(v) for v in (0, -1, 1_234_567_890)] == ["0.000000", "−0.000001", "1,234.567890"]
    assert [duration(v) for v in (None, 9.6, 60, 3661)] == ["–", "10 s", "1 min 0 s", "1 h 1 min"]
    assert ledger_name("/srv/a market/ledger.db") == "ledger.db"
    assert ledger_name("postgresql+psycopg://me:***@host:5432/market?sslmode=require") == "market"
