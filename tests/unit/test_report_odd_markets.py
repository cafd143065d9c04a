"""Reports of markets that are hostile, tampered with, early or large."""

from dataclasses import replace

import numpy as np
import pytest
from support import console_market as cm
from support import reports
from support.reports import HOSTILE, NOW, Read
from support.tampering import attacker

from ipfl_flower.charts.graph import RING_MAX
from ipfl_flower.console.book import Book, Page
from ipfl_flower.console.shapes import Edge, Graph, Node
from ipfl_flower.ledger import Event, Institution, Ledger, Line, RoundHistory, State, Statement
from ipfl_flower.market import Terms
from ipfl_flower.report import gather, market_page, read_market, slides
from ipfl_flower.report.gather import MarketReport, drawn_rounds

path, market, copy = reports.path, reports.market, reports.copy

LONG = "&" * 200


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
