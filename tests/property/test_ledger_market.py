"""Random markets, committed: the ledger verifies, and everything derived from it agrees."""

import tempfile
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfl_flower.ledger import Ledger, Report, Settlement, State
from ipfl_flower.market import Rules, Terms, clear

AMOUNTS = st.floats(0.0, 1e3) | st.sampled_from([0.0, 0.1, inf])
TERMS = st.builds(
    Terms,
    samples=st.integers(1, 10_000),
    cost=st.floats(0.0, 5.0) | st.sampled_from([0.0, inf]),
    eagerness=st.floats(0.0, 1e7) | st.just(0.0),
    budget=AMOUNTS,
)
RULES = st.builds(
    Rules,
    mechanism=st.sampled_from(["truthful", "paper"]),
    distance_weight=st.floats(0.0, 10.0),
)
METRICS = st.dictionaries(st.text(max_size=3), st.floats(), max_size=2)


@dataclass(frozen=True)
class Played:
    """One round of a random market: settled if it has a settlement, else abandoned."""

    reports: list[Report]
    settlement: Settlement | None


@st.composite
def a_round(draw, number, institutions):
    reporters = sorted(draw(st.sets(st.integers(0, institutions - 1))))
    m = len(reporters)
    reports = [
        Report(number, i, draw(TERMS), f"{number}/{i}", draw(st.booleans()), draw(METRICS))
        for i in reporters
    ]
    if draw(st.integers(0, 5)) == 0:
        return Played(reports, None)
    cells = st.floats(0.0, 2.0) | st.sampled_from([0.0, nan])
    upper = draw(st.lists(cells, min_size=m * m, max_size=m * m))
    distances = np.triu(np.array(upper, dtype=np.float64).reshape(m, m), 1)
    distances = distances + distances.T
    terms = tuple(r.terms for r in reports)
    active = np.array([not r.leaving for r in reports], dtype=bool)
    rules = draw(RULES)
    settlement = Settlement(
        round=number,
        participants=tuple(reporters),
        terms=terms,
        distances=distances,
        active=active,
        rules=rules,
        clearing=clear(terms, distances, rules, active),
        model_digests=tuple(r.model_digest for r in reports),
        metrics=tuple(r.metrics for r in reports),
    )
    return Played(reports, settlement)


@st.composite
def markets(draw):
    institutions = draw(st.integers(1, 4))
    rounds = [draw(a_round(n, institutions)) for n in range(draw(st.integers(0, 3)))]
    return institutions, rounds


def play(ledger, institutions, rounds, *, times):
    """Say every step `times` times over, as a server does that crashes and resumes."""

    def say(step, *arguments):
        for _ in range(times):
            step(*arguments)

    say(ledger.begin, {"institutions": institutions})
    for i in range(institutions):
        say(ledger.enrol, f"institution {i}", bytes([i]))
    for number, played in enumerate(rounds):
        say(ledger.open_round, number, range(institutions), 10.0, 0)
        if number and rounds[number - 1].settlement is not None:
            say(ledger.deliver, number - 1)
        say(ledger.collect, number)
        for report in played.reports:
            say(ledger.report, report)
        if played.settlement is None:
            say(ledger.abandon, number, "stopped")
        else:
            say(ledger.commit, played.settlement)


@settings(max_examples=30, deadline=None)
@given(markets())
def test_a_random_market_verifies_and_its_accounts_agree(market):
    with tempfile.TemporaryDirectory() as folder:
        assert_a_market_is_kept(market, Path(folder) / "ledger.db")


@settings(max_examples=15, deadline=None)
@given(markets())
def test_a_random_market_has_the_same_chain_on_postgresql(postgres, market):
    database = postgres.new_database()
    url = postgres.url(database)
    assert_a_market_is_kept(market, url)
    with tempfile.TemporaryDirectory() as folder, Ledger.open(url, create=False) as ledger:
        with Ledger.open(Path(folder) / "ledger.db") as other:
            play(other, *market, times=1)
            assert ledger.head() == other.head()
        ledger.backup(Path(folder) / "copy.db")
        with Ledger.open(Path(folder) / "copy.db", create=False) as copy:
            assert (copy.head(), copy.verify()) == (ledger.head(), [])
    postgres.drop(database)


def assert_a_market_is_kept(market, path):
    institutions, rounds = market
    nets = np.zeros(institutions, dtype=object)
    for played in rounds:
        if played.settlement is not None:
            nets[list(played.settlement.participants)] += played.settlement.clearing.net
    with Ledger.open(path) as ledger:
        play(ledger, institutions, rounds, times=1)
        head = ledger.head()
        assert ledger.verify() == []
        assert list(ledger.balances().values()) == list(-nets)
        for name, balance in ledger.balances().items():
            statement = ledger.statement(name)
            signed = [
                line.amount_micro * (1 if line.direction == "earned" else -1)
                for line in statement.lines
            ]
            assert sum(signed) == statement.balance == -statement.net == balance
            assert [line.balance_micro for line in statement.lines] == np.cumsum(
                signed, dtype=object
            ).tolist()
        summaries = ledger.rounds()
    with Ledger.open(path, create=False) as again:
        assert (again.head(), again.rounds(), again.verify()) == (head, summaries, [])
        assert_rounds_are_recorded(again, rounds)


def assert_rounds_are_recorded(ledger, rounds):
    for played, summary in zip(rounds, ledger.rounds(), strict=True):
        assert summary.participants == len(played.reports)
        if played.settlement is None:
            assert summary.state is State.ABANDONED
            continue
        expected, stored = played.settlement, ledger.settlement(summary.number)
        assert stored.terms == expected.terms
        assert stored.participants == expected.participants
        assert stored.rules == expected.rules
        np.testing.assert_array_equal(stored.distances, expected.distances)
        for name in ("imports", "transfers", "net", "gains", "utilities", "declined"):
            np.testing.assert_array_equal(
                getattr(stored.clearing, name), getattr(expected.clearing, name)
            )
        assert summary.volume_micro == expected.clearing.transfers.sum()
        assert summary.edges == expected.clearing.imports.sum()


@settings(max_examples=10, deadline=None)
@given(markets())
def test_repeating_every_step_gives_the_same_chain(market):
    with tempfile.TemporaryDirectory() as folder:
        told = []
        for times in (1, 2):
            with Ledger.open(Path(folder) / f"{times}.db", clock=lambda: 0.0) as ledger:
                play(ledger, *market, times=times)
                assert ledger.verify() == []
                told.append((ledger.head(), ledger.rounds(), ledger.balances()))
        assert told[0] == told[1]
