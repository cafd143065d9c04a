import itertools
import re
from math import inf

import numpy as np
import pytest
from support import console_market as cm

from ipfl_flower.console.access import OPERATOR, Viewer
from ipfl_flower.console.book import CHUNK, read_book
from ipfl_flower.console.graph import round_graph
from ipfl_flower.console.learning import read_learning
from ipfl_flower.console.money import csv_text, picked_rounds, read_money, read_statement
from ipfl_flower.console.rounds import list_rounds, market_status, round_line
from ipfl_flower.console.shapes import Verification
from ipfl_flower.console.why import Explainer
from ipfl_flower.ledger import Ledger
from ipfl_flower.market import Rules, check

VERIFIED = Verification(state="verified", problems=["a secret"])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    clock = itertools.count(1_790_000_000.0, 1.0)
    file = tmp_path_factory.mktemp("views") / "ledger.db"
    with Ledger.open(file, clock=lambda: next(clock)) as ledger:
        cm.play(ledger)
        yield ledger


@pytest.fixture(scope="module")
def book(ledger):
    return read_book(ledger)


def graph_of(ledger, book, number, viewer=OPERATOR):
    page = book.pages[number]
    settlement = ledger.settlement(number) if number in book.settled else None
    return round_graph(book, page, settlement, viewer)


def why(number, buyer, seller, viewer=OPERATOR, missing=(), rules=None):
    settlement = cm.settlement(number, missing, rules)
    return Explainer(settlement, list(cm.NAMES)).explain(buyer, seller, viewer)


# --- the book -------------------------------------------------------------------------------------


def test_the_book_has_what_the_ledger_has(ledger, book):
    assert [page.history.head for page in book.pages] == [item.head for item in ledger.rounds()]
    assert [(p.history.edges, p.history.volume_micro) for p in book.pages] == [
        (item.edges, item.volume_micro) for item in ledger.rounds()
    ]
    balances = ledger.balances()
    assert {name: book.pages[-1].balance(i) for name, i in book.ids.items()} == balances
    after_1 = ledger.balances(through=1)
    assert {name: book.pages[1].balance(i) for name, i in book.ids.items()} == after_1
    assert any(balances.values())
    assert (book.head, book.settled) == (ledger.head(), [0, 1, 3, 4])


def test_a_book_that_is_read_on_is_the_one_that_is_read_at_once(place):
    with Ledger.open(place) as ledger:
        cm.begin(ledger)
        book = read_book(ledger)
        versions = {book.version}
        for number in range(3):
            ledger.open_round(number, range(9), 10.0, 2)
            book = read_book(ledger, book)
            versions.add(book.version)
            ledger.collect(number)
            cm.settle(ledger, cm.settlement(number))
            book = read_book(ledger, book)
            versions.add(book.version)
            ledger.deliver(number)
        book, whole = read_book(ledger, book), read_book(ledger)
        assert len(versions) == 7
        assert book.version == whole.version not in versions
        assert [page.history for page in book.pages] == [page.history for page in whole.pages]
        assert np.array_equal(book.utilities, whole.utilities, equal_nan=True)
        assert [(p.paid, p.earned) for p in book.pages] == [(p.paid, p.earned) for p in whole.pages]


def test_a_round_that_is_over_is_not_read_again(ledger, book):
    assert read_book(ledger, book).pages[4] is book.pages[4]


def test_a_round_is_delivered_after_the_next_has_begun(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        cm.begin(ledger)
        ledger.open_round(0, range(9), 10.0, 2)
        ledger.collect(0)
        cm.settle(ledger, cm.settlement(0))
        ledger.open_round(1, range(9), 10.0, 2)
        book = read_book(ledger)
        ledger.deliver(0)
        assert [page.state for page in read_book(ledger, book).pages] == ["DELIVERED", "OPEN"]


def test_more_rounds_than_are_read_at_a_time(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.begin({})
        ledger.enrol("alder", b"key")
        for number in range(2 * CHUNK):
            ledger.open_round(number, [0], 1.0, 0)
            ledger.abandon(number, "no reason")
        assert [page.number for page in read_book(ledger).pages] == list(range(2 * CHUNK))


def test_the_book_of_a_market_that_has_not_begun(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        book = read_book(ledger)
        assert market_status(book, VERIFIED, OPERATOR).now is None
        assert list_rounds(book, None, 10, OPERATOR).rounds == []
        assert read_money(book, VERIFIED, 10, OPERATOR).total == 0
        assert read_learning(book, 10, OPERATOR).institutions == []
        cm.begin(ledger)
        book = read_book(ledger)
        money = read_money(book, VERIFIED, 10, OPERATOR)
        assert [item.balance for item in money.accounts] == [0] * 9
        assert read_learning(book, 10, OPERATOR).institutions[0].first is None


# --- the graph ------------------------------------------------------------------------------------


def test_the_graph_has_every_purchase_with_its_price(ledger, book):
    graph, cleared = graph_of(ledger, book, 1), cm.settlement(1).clearing
    prices = {(edge.buyer, edge.seller): edge.price for edge in graph.edges}
    expected = {
        (cm.NAMES[i], cm.NAMES[j]): int(cleared.transfers[i, j])
        for i, j in np.argwhere(cleared.imports)
    }
    assert prices == expected
    assert expected
    assert graph.density == len(expected) / (8 * 7)  # yew leaves and does not trade


def test_a_node_has_balance_and_gain_in_accuracy(ledger, book):
    nodes = {node.name: node for node in graph_of(ledger, book, 4).nodes}
    birch = nodes["birch"]
    assert birch.balance == ledger.balances(through=4)["birch"]
    assert birch.first_accuracy == cm.metrics(0, cm.BIRCH)["test_accuracy"]
    expected = cm.metrics(4, cm.BIRCH)["best_test_accuracy"] - birch.first_accuracy
    assert birch.accuracy_gain == pytest.approx(expected)
    assert nodes["oak"].accuracy is nodes["oak"].accuracy_gain is None
    assert nodes["elm"].declined
    assert not birch.declined


def test_an_abandoned_round_has_no_edges_and_says_why(ledger, book):
    graph = graph_of(ledger, book, 2)
    assert (graph.edges, graph.detail) == ([], "the operator stopped it")
    assert not any(node.takes_part for node in graph.nodes)


def test_an_institution_sees_its_own_edges_and_nobody_elses_numbers(ledger, book):
    graph = graph_of(ledger, book, 0, Viewer("alder"))
    everything = graph_of(ledger, book, 0)
    own = [edge for edge in everything.edges if "alder" in (edge.buyer, edge.seller)]
    assert graph.edges == own
    assert 0 < len(own) < len(everything.edges)
    for node in graph.nodes:
        numbers = node.balance, node.net, node.utility, node.accuracy, node.declined
        assert (None in numbers) == (node.name != "alder")
    assert graph.density is None
    assert graph_of(ledger, book, 2, Viewer("alder")).detail is None


# --- why ------------------------------------------------------------------------------------------


def test_every_purchase_and_every_missing_one_is_explained_with_numbers_that_decide():
    for number in (0, 1):
        settlement = cm.settlement(number)
        assert not check(
            settlement.terms,
            settlement.distances,
            settlement.rules,
            settlement.clearing,
            settlement.active,
        )
        for i, j in itertools.permutations(range(9), 2):
            found = why(number, i, j)
            assert found.bought == settlement.clearing.imports[i, j]
            if found.bought:
                assert found.reason == "bought"
                assert found.paid == settlement.clearing.transfers[i, j]
                assert found.cost * 1e6 - 1 <= found.paid <= found.marginal_gain * 1e6
                assert found.marginal_gain > found.full_price
                assert found.volume + found.samples_counted < (found.threshold or inf)
                assert found.full_price == found.cost + found.distance_price
            if found.reason == "not_worth":
                assert found.gain_alone > found.full_price >= found.marginal_gain
            if found.reason == "not_worth_alone":
                assert found.gain_alone <= found.full_price


@pytest.mark.parametrize(
    ("buyer", "seller", "reason"),
    [
        (cm.YEW, cm.ALDER, "buyer_inactive"),
        (cm.ALDER, cm.YEW, "seller_inactive"),
        (cm.LARCH, cm.ALDER, "buyer_no_samples"),
        (cm.ALDER, cm.LARCH, "seller_no_samples"),
        (cm.HAZEL, cm.ALDER, "buyer_not_eager"),
        (cm.ALDER, cm.FIR, "seller_not_selling"),
        (cm.ALDER, cm.OAK, "untradable"),
        (cm.ALDER, cm.CEDAR, "bought"),
        (cm.ALDER, cm.HAZEL, "not_worth_alone"),
    ],
)
def test_what_keeps_two_from_trading_is_named(buyer, seller, reason):
    found = why(1, buyer, seller)
    assert found.reason == reason
    assert {cm.NAMES[buyer], cm.NAMES[seller]} & set(found.text.replace("'", " ").split()) or (
        reason == "untradable"
    )


def test_who_did_not_report_is_named():
    assert why(3, cm.CEDAR, cm.ALDER, missing=(cm.CEDAR,)).reason == "buyer_absent"
    assert why(3, cm.ALDER, cm.CEDAR, missing=(cm.CEDAR,)).reason == "seller_absent"
    assert why(3, cm.ALDER, cm.CEDAR, Viewer("alder"), missing=(cm.CEDAR,)) is None


def test_a_buyer_over_its_budget_wanted_some_and_others_not():
    found = [why(1, cm.ELM, j) for j in range(9) if j != cm.ELM]
    wanted = [item for item in found if item.reason == "declined"]
    assert wanted
    assert any(item.reason == "declined_unwanted" for item in found)
    for item in wanted:
        assert item.bill > item.budget * 1e6
        assert item.marginal_gain > item.full_price


def test_greedy_says_that_it_stopped():
    rules = Rules("paper", distance_weight=5.0)
    reasons = {why(0, i, j, rules=rules).reason for i, j in itertools.permutations(range(9), 2)}
    assert "bought" in reasons
    assert reasons <= {"bought", "not_worth", "not_worth_alone", "stopped", "untradable"}


def test_a_buyer_sees_what_its_receipt_says_and_a_seller_what_it_was_paid():
    buyers = why(1, cm.ALDER, cm.CEDAR, Viewer("alder"))
    assert buyers == why(1, cm.ALDER, cm.CEDAR)
    sellers = why(1, cm.ALDER, cm.CEDAR, Viewer("cedar"))
    assert sellers.paid == buyers.paid
    told = {name for name, value in sellers.model_dump().items() if value is not None}
    assert told == {"round", "buyer", "seller", "bought", "reason", "text", "paid"}
    assert why(1, cm.ALDER, cm.CEDAR, Viewer("birch")) is None
    assert why(1, cm.ALDER, cm.HAZEL, Viewer("alder")) is None


# --- rounds ---------------------------------------------------------------------------------------


def test_a_round_says_its_phases_whom_it_waits_for_and_who_failed(book):
    now = round_line(book, book.pages[5], OPERATOR)
    assert (now.state, now.waiting, now.reported, now.asked) == ("COLLECTING", ["birch"], 8, 9)
    assert now.deadline_at is not None
    refused = round_line(book, book.pages[3], OPERATOR)
    assert (refused.failed, refused.waiting) == ({"cedar": "tensor 'w' is missing"}, [])
    assert refused.opened_at < refused.collecting_at < refused.settled_at <= refused.ended_at
    assert (refused.slowest, refused.slowest_s, refused.collecting_s) == ("yew", 9.0, 10.0)
    assert round_line(book, book.pages[3], Viewer("yew")).slowest is None
    assert refused.welfare == pytest.approx(cm.settlement(3, (cm.CEDAR,)).clearing.utilities.sum())


def test_a_resumed_round_waits_its_whole_deadline_again(tmp_path):
    now = [1_000_000.0]
    with Ledger.open(tmp_path / "ledger.db", clock=lambda: now[0]) as ledger:
        cm.begin(ledger)
        ledger.open_round(0, range(9), 60.0, 2)
        ledger.collect(0)
        now[0] += 3600
        ledger.log_event("resumed", "at round 0")
        book = read_book(ledger)
    line = round_line(book, book.pages[0], OPERATOR)
    assert line.deadline_at == "1970-01-12T14:47:40+00:00"


def test_rounds_are_listed_newest_first_in_pieces(book):
    assert [line.number for line in list_rounds(book, None, 2, OPERATOR).rounds] == [5, 4]
    assert [line.number for line in list_rounds(book, 2, 9, OPERATOR).rounds] == [1, 0]
    assert list_rounds(book, 0, 9, OPERATOR).rounds == []


def test_an_institution_reads_of_itself_alone(book):
    for name in ("alder", "cedar"):
        others = set(cm.NAMES) - {name}
        told = [
            market_status(book, VERIFIED, Viewer(name)).model_dump_json(),
            list_rounds(book, None, 50, Viewer(name)).model_dump_json(),
            read_money(book, VERIFIED, 50, Viewer(name)).model_dump_json(),
            read_learning(book, 50, Viewer(name)).model_dump_json(),
        ]
        for text in told:
            assert not [other for other in others if re.search(rf"\b{other}\b", text)]
            assert "secret" not in text
    assert "tensor 'w'" in list_rounds(book, None, 50, Viewer("cedar")).model_dump_json()


# --- money and learning ---------------------------------------------------------------------------


def test_balances_sum_to_zero_and_utilities_add_up(ledger, book):
    money = read_money(book, VERIFIED, 50, OPERATOR)
    assert money.total == 0
    assert {item.name: item.balance for item in money.accounts} == ledger.balances()
    outcomes = [ledger.settlement(n) for n in book.settled]
    expected = sum(float(s.clearing.utilities[s.participants.index(cm.BIRCH)]) for s in outcomes)
    assert money.accounts[cm.BIRCH].utility == pytest.approx(expected)
    assert money.utilities[cm.BIRCH].values[-1] == pytest.approx(expected, abs=1e-5)
    assert money.rounds == [0, 1, 2, 3, 4, 5]


def test_a_statement_is_the_ledgers_whatever_rounds_it_begins_with(ledger, book):
    whole = ledger.statement("birch")
    for first in range(9):
        part = read_statement(ledger, book, cm.BIRCH, first, 5)
        theirs = [line for line in whole.lines if line.round >= first]
        assert [
            (x.round, x.counterparty, x.direction, x.amount, x.balance) for x in part.lines
        ] == [
            (x.round, x.counterparty, x.direction, x.amount_micro, x.balance_micro) for x in theirs
        ]
        assert part.closing == whole.balance


def test_rounds_are_picked_evenly_and_the_ends_are_among_them():
    assert picked_rounds(5, 10) == [0, 1, 2, 3, 4]
    picked = picked_rounds(1000, 240)
    assert (picked[0], picked[-1], len(picked)) == (0, 999, 240)
    assert set(np.diff(picked)) == {4, 5}
    assert picked_rounds(0, 2) == []


def test_learning_has_each_round_and_the_first_model(book):
    found = read_learning(book, 50, OPERATOR)
    cedar = found.institutions[cm.CEDAR]
    assert [value is None for value in cedar.trained] == [False, False, True, True, False, False]
    assert cedar.first == cm.metrics(0, cm.CEDAR)["test_accuracy"]
    assert found.institutions[cm.OAK].first is None


def test_a_csv_holds_no_formula():
    text = csv_text(("name", "amount"), [('=HYPERLINK("x")', -5), ("fine, really", 1)])
    assert text.splitlines() == ["name,amount", '"\'=HYPERLINK(""x"")",-5', '"fine, really",1']
