"""The report of a market: its figures are the ledger's, whoever is in it and whatever happened."""

import itertools
import json
import re
import stat
import subprocess
import sys
import sysconfig
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support import console_market as cm
from support.tampering import attacker

from ipfl_flower.charts.graph import RING_MAX
from ipfl_flower.cli.report import report as command
from ipfl_flower.console.book import Book, Page
from ipfl_flower.console.shapes import Edge, Graph, Node
from ipfl_flower.ledger import Event, Institution, Ledger, Line, RoundHistory, State, Statement
from ipfl_flower.market import Terms
from ipfl_flower.report import (
    ReportError,
    compared,
    compared_with_file,
    gather,
    market_page,
    read_baselines,
    read_market,
    slides,
)
from ipfl_flower.report.gather import MarketReport, drawn_rounds, ledger_name
from ipfl_flower.report.order import ring
from ipfl_flower.report.words import duration, money

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"
NOW = 1_790_000_000.0
HOSTILE = "<script>alert('you')</script>"
LONG = "&" * 200


class Read(HTMLParser):
    """What a page says: its tables by caption, its elements, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.tags, self.text = {}, [], []
        self._rows, self._into = None, None
        self.feed(page)
        self.text = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = []
        elif tag == "caption":
            self._into = self._caption = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._into = []
            self._rows[-1].append(self._into)

    def handle_endtag(self, tag):
        if tag == "table":
            caption = "".join(self._caption)
            self.tables[caption] = [["".join(cell) for cell in row] for row in self._rows]
        if tag in ("td", "th", "caption"):
            self._into = None

    def handle_data(self, data):
        self.text.append(data)
        if self._into is not None:
            self._into.append(data)

    def table(self, begin):
        [found] = [rows for caption, rows in self.tables.items() if caption.startswith(begin)]
        return found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    clock = itertools.count(NOW, 1.0)
    path = tmp_path_factory.mktemp("report") / "ledger.db"
    with Ledger.open(path, clock=lambda: next(clock)) as ledger:
        ledger.log_event("started", "Flower run 42")
        cm.play(ledger)
        ledger.log_event("died", "OSError: " + HOSTILE)
    return path


@pytest.fixture(scope="module")
def market(path):
    with Ledger.open(path, create=False) as ledger:
        return read_market(ledger, now=NOW)


@pytest.fixture(scope="module")
def page(market):
    return Read(market_page(market))


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


# --- what is left after the last delivery, and baselines ------------------------------------------


def finished(ledger):
    """Play a market to its end; everybody but birch says in the end how it did."""
    cm.begin(ledger)
    for number in range(2):
        ledger.open_round(number, range(len(cm.NAMES)), cm.DEADLINE_S, 2)
        ledger.collect(number)
        cm.settle(ledger, cm.settlement(number))
        ledger.deliver(number)
    ledger.acknowledge(1, cm.BIRCH, {"best_test_accuracy": 0.123})  # of an earlier end
    for i in (cm.ALDER, cm.CEDAR):
        ledger.acknowledge(2, i, {"best_test_accuracy": 0.99})
    ledger.acknowledge(2, cm.ELM, {"best_test_accuracy": 7.0})


def test_the_last_word_counts_and_an_earlier_end_does_not(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        finished(ledger)
        market = read_market(ledger, now=NOW)
    assert np.flatnonzero(~np.isnan(market.final)).tolist() == [cm.ALDER, cm.CEDAR]
    page = market_page(market)
    rows = {row[0]: row[1] for row in Read(page).table("Test accuracy in percent")[1:]}
    assert rows["alder"] == "99.0"
    assert rows["birch"] == f"{100 * cm.metrics(1, cm.BIRCH)['best_test_accuracy']:.1f}"
    assert "alder, the end: 99.0" in page


def demo_result(market, head):
    rows = [
        {"name": name, "local_accuracy": 0.5 + i / 100, "fedavg_accuracy": 0.25}
        for i, name in enumerate(market.book.names)
    ]
    return {"institutions": rows, "ledger": {"head": head}}


def test_a_demos_result_beside_the_ledger_is_used_where_it_is_of_this_market(market, tmp_path):
    file = tmp_path / "result.json"
    assert "No baselines are known" in compared_with_file(market, file).baselines_note
    file.write_text(json.dumps(demo_result(market, market.book.head)))
    found = compared_with_file(market, file)
    page = Read(market_page(found))
    rows = {row[0]: row[2:4] for row in page.table("Test accuracy in percent")}
    assert rows["Institution"] == ["alone", "FedAvg"]
    assert rows["birch"] == ["51.0", "25.0"]
    assert rows["Mean"] == ["54.0", "25.0"]
    assert "alone: 54.0 %, FedAvg: 25.0 %" in page.text
    assert market_page(found).count('class="level"') == 2
    file.write_text(json.dumps(demo_result(market, "0" * 64)))
    other = compared_with_file(market, file)
    assert other.baselines is None
    assert "of another market" in market_page(other)
    file.write_text("{")
    assert "is no JSON" in compared_with_file(market, file).baselines_note


def test_baselines_that_are_named_must_be_of_these_institutions(market, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"local": {"birch": 0.5, "stranger": 0.1}, "Ditto": {"elm": 0.75}}))
    found = compared(market, read_baselines(file))
    rows = {row[0]: row[2:4] for row in Read(market_page(found)).table("Test accuracy in percent")}
    assert rows["Institution"] == ["alone", "Ditto"]
    assert rows["elm"] == ["–", "75.0"]
    assert rows["Mean"] == ["50.0", "75.0"]  # the stranger doesn't count
    file.write_text(json.dumps({"local": {"stranger": 0.5}}))
    with pytest.raises(ReportError, match="none of this market's institutions: alder, birch"):
        compared(market, read_baselines(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no object"),
        ("{}", "no object"),
        ('{"a": 1}', "'a' in it is no object"),
        ('{"a": {"b": 2}}', "no accuracy from 0 to 1"),
        ('{"a": {"b": NaN}}', "no accuracy from 0 to 1"),
        ('{"a": {"b": true}}', "no accuracy from 0 to 1"),
        ('{"institutions": [1]}', "has no name"),
        ('{"institutions": [{"name": "a"}]}', "neither local_accuracy nor fedavg_accuracy"),
        (json.dumps({str(k): {"a": 0.5} for k in range(5)}), "more than 4 baselines"),
    ],
)
def test_what_holds_no_baselines_is_refused(tmp_path, content, said):
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(ReportError, match=r"file\.json") as caught:
        read_baselines(file)
    assert said in str(caught.value)
    with pytest.raises(ReportError, match="can't be read"):
        read_baselines(tmp_path / "missing.json")


# --- hostile, tampered, early, large --------------------------------------------------------------


def test_hostile_and_very_long_names_are_text(tmp_path, monkeypatch):
    names = [HOSTILE, LONG, LONG[:-1] + "x", "]]><svg onload=alert(1)>", "plain", *"abc", "yew"]
    monkeypatch.setattr(cm, "NAMES", tuple(names))
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        cm.play(ledger, 2)
        ledger.refuse(2, 4, HOSTILE)
        ledger.expel("plain", HOSTILE)
        ledger.log_event(HOSTILE, HOSTILE)
        market = read_market(ledger, now=NOW)
    page = market_page(market)
    read = Read(page)
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not [name for _, attributes in read.tags for name in attributes if name[:2] == "on"]
    assert HOSTILE in read.text
    assert len(set(market.names)) == len(names)
    assert market.names[1].endswith("#1")
    assert max(map(len, market.names)) <= 40
    rows = read.table("Institutions, the terms")
    assert [row[0] for row in rows[1:]] == names  # once in full
    assert all(HOSTILE not in svg for svg in slides(market).values())


def test_a_market_that_has_not_begun_has_a_report(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        page = Read(market_page(read_market(ledger, now=NOW)))
        assert "The ledger verifies" in page.text
        assert "The market has not begun" in page.text
        cm.begin(ledger)
        page = Read(market_page(read_market(ledger, now=NOW)))
        assert "No round has begun." in page.text
        assert "Nobody has paid anybody anything." in page.text
        ledger.open_round(0, range(9), 60.0, 2)
        page = Read(market_page(read_market(ledger, now=NOW)))
        assert page.table("Rounds, the newest first")[1][:3] == ["0", "open", "0 of 9"]
        ledger.abandon(0, "nobody came")
        market = read_market(ledger, now=NOW)
    assert "nobody came" in Read(market_page(market)).text
    assert sorted(slides(market)) == ["accuracy", "balances", "utility"]


@pytest.fixture
def copy(path, tmp_path):
    with Ledger.open(path, create=False) as ledger:
        ledger.backup(tmp_path / "copy.db")
    return tmp_path / "copy.db"


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 3", "Statements"),
        ("UPDATE settlements SET rules = 'x' WHERE round = 1", "round 1: "),
        ("UPDATE reports SET metrics = 'x' WHERE round = 1", "rounds: "),
        ("DELETE FROM outcomes WHERE round = 3", "round 3: "),
        ("DELETE FROM transitions WHERE round = 1", "does NOT verify"),
        ("UPDATE entries SET payee = 77 WHERE id = 3", "accounts: "),
        ("UPDATE acknowledgements SET metrics = 'x'", "what institutions said in the end: "),
        ("UPDATE market SET settings = 'x'", "rounds: "),
    ],
)
def test_a_ledger_that_does_not_verify_is_shown_red_with_what_is_left(copy, sql, shown):
    with Ledger.open(copy, create=False) as ledger:
        ledger.abandon(5, "the end")
        ledger.acknowledge(6, 0, {"best_test_accuracy": 0.5})
    with attacker(copy) as raw:
        raw.execute(sql)
    with Ledger.open(copy, create=False) as ledger:
        problems = ledger.verify()
        market = read_market(ledger, now=NOW)
    if not problems:  # acknowledgements are no part of what is proved
        assert "acknowledgements" in sql
    page = Read(market_page(market))
    assert "The ledger does NOT verify" in page.text
    assert "The ledger verifies" not in page.text
    assert any("broken" in (a.get("class") or "") for _, a in page.tags)
    for problem in problems:
        assert str(problem) in page.text
    assert shown in page.text


def huge(rounds, institutions, edges):
    """Make a report of a market whose names take as many bytes as names can."""
    names = [f"{LONG[:190]}{i}" for i in range(institutions)]
    book = Book(
        institutions=tuple(Institution(i, name, b"key", None) for i, name in enumerate(names)),
        pages=tuple(
            Page(
                RoundHistory(
                    number=k,
                    quorum=2,
                    deadline_s=1.0,
                    steps=dict.fromkeys((State.OPEN, State.SETTLED, State.DELIVERED), NOW),
                    asked=tuple(range(institutions)),
                    failed={0: '"' * 1000},
                    reported=dict.fromkeys(range(institutions), NOW),
                    edges=edges,
                    volume_micro=10**12,
                    head="0" * 64,
                ),
                np.full(institutions, 1.5),
                {kind: np.full(institutions, 0.123) for kind in ("trained", "best", "centre")},
                (10**9,) * institutions,
                (10**9,) * institutions,
            )
            for k in range(rounds)
        ),
        events=tuple(Event("kind", '"' * 1000, NOW) for _ in range(1000)),
    )
    node = {"takes_part": True, "own": False, "net": 1, "utility": 1.0, "accuracy": 0.5}
    node |= {"balance": 10**12, "first_accuracy": 0.4, "accuracy_gain": 0.1, "declined": False}
    nodes = [Node(name=name, **node) for name in names]
    pairs = [
        (i, (i + k) % institutions) for k in range(1, institutions) for i in range(institutions)
    ]
    bought = [Edge(buyer=names[i], seller=names[j], price=10**9 + i) for i, j in pairs[:edges]]
    keep = max(5, int(gather.STATEMENT_BYTES / (200 + 40 * 5) / institutions))
    lines = tuple(Line(k, names[0], "paid", 10**9, 10**12) for k in range(keep))
    return MarketReport(
        name="ledger.db",
        written_at=NOW,
        book=book,
        settings={str(k): '"' * 1000 for k in range(1000)},
        graphs=tuple(
            Graph(
                round=k,
                state="DELIVERED",
                detail=None,
                nodes=nodes,
                edges=bought,
                density=0.1,
                selection="exact",
                payment="critical",
                distance_weight=1.0,
            )
            for k in drawn_rounds(book)
        ),
        payments=np.full((institutions, institutions), 10**12),
        statements=tuple(Statement(name, lines, 10**12, 10**12) for name in names),
        left_out=(7,) * institutions,
        terms={i: Terms(10**9, 1.0, 1.0) for i in range(institutions)},
        final=np.full(institutions, 0.5),
        problems=tuple("x" * 1000 for _ in range(10_000)),
    )


@pytest.mark.parametrize(
    ("rounds", "institutions", "edges"),
    [(200, 100, 1200), (200, 30, 140), (200, 16, 60), (200, 9, 20)],
)
def test_a_large_market_has_a_report_of_bounded_size_that_says_what_is_left_out(
    rounds, institutions, edges
):
    market = huge(rounds, institutions, edges)
    page = market_page(market)
    assert 5e5 < len(page.encode()) < 5e6
    text = Read(page).text
    if len(market.graphs) < rounds:
        assert f"Of 200 rounds {len(market.graphs)} are drawn" in text
    assert market.graphs[-1].round == rounds - 1
    assert ("the 400 dearest are drawn" in text) == (edges > 400)
    assert "7 earlier, carried forward" in text
    assert "9,800 more" in text
    assert "Events, the newest first (200 of 1,000)" in text
    if institutions > RING_MAX:
        assert "pairs, the largest" in text


def test_few_rounds_are_all_drawn_and_the_last_settled_always(market):
    assert drawn_rounds(market.book) == list(range(6))
    assert drawn_rounds(Book()) == []
    many = huge(200, 100, 1200).book
    picked = drawn_rounds(many)
    assert 5 <= len(picked) < 60
    last = replace(many.pages[-1].history, steps={State.OPEN: NOW})
    going = replace(many, pages=(*many.pages[:-1], replace(many.pages[-1], history=last)))
    assert {198, 199} <= set(drawn_rounds(going))


# --- the ring, words, the command -----------------------------------------------------------------


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


def test_the_command_writes_a_page_as_private_as_the_ledger(path, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    command(str(path), output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "4 settled rounds, 9 institutions" in capsys.readouterr().out
    command(str(path), output)  # over an earlier one
    with pytest.raises(ReportError, match="is there, and no report"):
        command(str(path), path)
    with pytest.raises(ReportError, match="is a folder"):
        command(str(path), tmp_path)


def test_the_command_writes_slides(path, tmp_path):
    pytest.importorskip("resvg_py", reason="pip install 'ipfl-flower[report]'")
    command(str(path), tmp_path / "report.html", tmp_path / "slides")
    found = sorted(file.name for file in (tmp_path / "slides").iterdir())
    assert found == ["accuracy.png", "balances.png", "graph.png", "utility.png"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in (tmp_path / "slides").iterdir())


def test_the_command_says_that_a_ledger_does_not_verify(copy, tmp_path):
    with attacker(copy) as raw:
        raw.execute("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 3")
    output = tmp_path / "report.html"
    done = subprocess.run(
        [sys.executable, IPFL, "report", copy, "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "copy.db does NOT verify" in done.stderr
    assert "does NOT verify" in output.read_text(encoding="utf-8")


def test_a_report_of_a_ledger_on_either_database(place):
    with Ledger.open(place) as ledger:
        cm.play(ledger)
        market = read_market(ledger, now=NOW)
        assert market.verified
        assert (market.payments.sum(axis=0) - market.payments.sum(axis=1)).tolist() == list(
            ledger.balances().values()
        )
