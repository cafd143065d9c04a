"""Who may take part, on both databases, also beside the server that writes the ledger."""

import pytest
from support.ledgers import play

from ipfl_flower.ledger import EnrolmentError, Ledger, LedgerError


@pytest.fixture
def ledger(place):
    with Ledger.open(place) as ledger:
        play(ledger)
        yield ledger


def kinds(ledger):
    return [(event.kind, event.text) for event in ledger.events()]


def test_who_was_never_admitted_nor_expelled_may_take_part(ledger):
    assert ledger.expelled() == {}


def test_an_institution_is_out_until_it_is_admitted_again(ledger):
    ledger.admit(1)
    ledger.expel("beta", "sold noise")
    assert ledger.expelled() == {1: "sold noise"}
    ledger.admit(1)
    assert ledger.expelled() == {}
    ledger.expel("beta")
    assert ledger.expelled() == {1: ""}
    assert kinds(ledger) == [
        ("admitted", "beta"),
        ("expelled", "beta: sold noise"),
        ("admitted", "beta"),
        ("expelled", "beta"),
    ]


def test_saying_it_again_changes_nothing(place):
    times = iter(range(100, 200))
    with Ledger.open(place, clock=lambda: float(next(times))) as ledger:
        assert ledger.enrol("beta", b"beta") == 0
        since = ledger.admit(0)
        assert ledger.admit(0) == since
        ledger.expel("beta", "sold noise")
        ledger.expel("beta", "and again")
        assert ledger.expelled() == {0: "sold noise"}
        assert [kind for kind, _ in kinds(ledger)] == ["admitted", "expelled"]


def test_the_account_and_the_chain_stay_as_they_are(ledger):
    balances, head = ledger.balances(), ledger.head()
    ledger.expel("alpha", "sold noise")
    assert (ledger.balances(), ledger.head(), ledger.verify()) == (balances, head, [])
    with pytest.raises(EnrolmentError, match="belongs to an institution with another public key"):
        ledger.enrol("alpha", b"another key")


def test_nobody_else_is_admitted_or_expelled(ledger):
    with pytest.raises(LedgerError, match="no institution is enrolled as 7"):
        ledger.admit(7)
    with pytest.raises(LedgerError, match="called 'delta'; in this market: alpha, beta, gamma"):
        ledger.expel("delta")


def test_it_works_beside_the_server_that_writes(place):
    with Ledger.open(place, serve=True) as server, Ledger.open(place, create=False) as operator:
        play(server, rounds=1)
        number = operator.enrol("delta", b"delta")
        operator.admit(number)
        operator.expel("beta", "sold noise")
        assert server.expelled() == {1: "sold noise"}
        server.deliver(0)
        server.open_round(1, [0, 2, number], 30.0, 2)
        assert [item.name for item in server.institutions()] == ["alpha", "beta", "gamma", "delta"]
        assert operator.verify() == []
