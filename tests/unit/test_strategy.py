"""The strategy over a fake Grid: whole markets in no time; test_fault_seeds.py has the rest."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from support import strategy_markets
from support.fake_grid import FakeGrid
from support.institutions import theta0
from support.strategy_markets import NAMES, four, silence

from ipfl_flower import strategy as strategy_module
from ipfl_flower.ledger import Ledger, State
from ipfl_flower.market import Terms
from ipfl_flower.protocol import PROTOCOL, array_record
from ipfl_flower.receipts import SignedReceipt, check, verify_signature
from ipfl_flower.receipts.encoding import canonical
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL, MarketError

market = strategy_markets.market


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_a_market_trades_settles_and_delivers(market, preset):
    institutions = four()
    _, ledger = market(institutions, preset=preset)
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 3
    assert ledger.verify() == []
    assert sum(item.edges for item in ledger.rounds()) > 0
    assert sum(ledger.balances().values()) == 0
    for number in range(3):
        settlement = ledger.settlement(number)
        assert (settlement.clearing.utilities > -1e-4).all()
        for position, i in enumerate(settlement.participants):
            bought = settlement.clearing.imports[position].any()
            request = institutions[NAMES[i]].requests[number + 1]
            assert (request.role == "centre") == bought
            assert (request.coefficient > 0) == bought


def test_the_first_message_brings_the_initial_model_and_the_last_asks_for_no_training(market):
    institutions = four()
    market(institutions)
    for institution in institutions.values():
        first, *middle, last = institution.requests
        assert (first.role, first.round, first.train) == ("initial", 0, True)
        assert all(np.array_equal(first.arrays[name], value) for name, value in theta0().items())
        assert [request.train for request in middle] == [True, True]
        assert (last.round, last.train) == (3, False)
        assert all(request.role != "initial" for request in middle)


def test_the_recommended_centre_is_the_weighted_mean_of_buyer_and_sellers(market):
    institutions = four(terms=Terms(200, 0.05, 1e4))
    sent = {}

    def remember(name, institution):
        def handler(message):
            reply = institution(message)
            sent[name, len(institution.requests) - 1] = dict(institution.model)
            return reply

        return handler

    handlers = {name: remember(name, institution) for name, institution in institutions.items()}
    _, ledger = market(handlers)
    settlement = ledger.settlement(1)
    terms = settlement.terms
    bought = 0
    for position, i in enumerate(settlement.participants):
        sellers = np.flatnonzero(settlement.clearing.imports[position])
        if not len(sellers):
            continue
        bought += 1
        mixed = [position, *sellers]
        weights = np.array([terms[j].samples for j in mixed], dtype=float)
        request = institutions[NAMES[i]].requests[2]
        for name, value in request.arrays.items():
            models = [sent[NAMES[settlement.participants[j]], 1][name] for j in mixed]
            np.testing.assert_allclose(
                value, np.average(models, axis=0, weights=weights), rtol=1e-5
            )
        assert request.coefficient == 0.05 / 2
    assert bought > 0


def test_a_statement_tells_each_institution_what_it_paid_and_earned(market):
    institutions = four()
    _, ledger = market(institutions)
    for i, name in enumerate(NAMES):
        for number in range(3):
            said = institutions[name].requests[number + 1].statement
            settlement = ledger.settlement(number)
            position = settlement.participants.index(i)
            signed = SignedReceipt.from_json(canonical(dict(said)))
            assert verify_signature(signed, ledger.settings["operator-key"])
            receipt = signed.receipt
            assert (receipt.round, receipt.institution) == (number, name)
            assert receipt.net == settlement.clearing.net[position]
            assert receipt.balance == ledger.balances(number)[name]
            assert receipt.head == ledger.rounds()[number].head
            assert check(receipt, institutions[name].terms) == []


def spoil_with_nan(arrays):
    return {**arrays, "layer.bias": np.full(4, np.nan, dtype=np.float32)}


def spoil_shape(arrays):
    return {**arrays, "layer.bias": np.zeros(5, dtype=np.float32)}


def spoil_name(arrays):
    return {"layer.weight": arrays["layer.weight"], "bias": arrays["layer.bias"]}


def spoil_dtype(arrays):
    return {**arrays, "layer.bias": arrays["layer.bias"].astype(np.float64)}


@pytest.mark.parametrize("spoil", [spoil_with_nan, spoil_shape, spoil_name, spoil_dtype])
def test_the_round_goes_on_without_a_model_that_is_no_model(market, spoil):
    _, ledger = market(four(spoil=spoil))
    assert ledger.verify() == []
    for number in range(3):
        assert ledger.settlement(number).participants == (1, 2, 3)
    assert "bias" in ledger.state().failed[0]


def test_an_institution_that_fails_is_named_and_does_not_stop_the_others(market):
    institutions = four()

    def broken(message):
        raise RuntimeError("the data has moved")

    _, ledger = market({**institutions, "alder": broken})
    assert ledger.state().failed[0] == "the institution failed: RuntimeError: the data has moved"
    assert ledger.settlement(2).participants == (1, 2, 3)


def test_an_institution_that_never_answers_costs_the_round_its_deadline(market):
    grid, ledger = market(four(), prepare=lambda grid, _: silence(grid, "alder"))
    assert ledger.settlement(2).participants == (1, 2, 3)
    # Three rounds and the last delivery, a minute each.
    assert 240 <= grid.now < 250


def test_below_the_quorum_the_market_stops_and_says_who_is_missing(market):
    def prepare(grid, ledger):
        silence(grid, "alder")
        silence(grid, "elm")

    institutions = four()
    institutions["birch"].spoil = spoil_with_nan
    with pytest.raises(MarketError) as stopped:
        market(institutions, prepare=prepare, quorum=2)
    said = str(stopped.value)
    assert "1 of 4 institutions" in said
    assert "the quorum is 2" in said
    assert "birch" in said
    assert "no answer within the deadline: alder, elm" in said


def test_too_few_institutions_is_said_with_who_is_there(market):
    with pytest.raises(MarketError, match=r"4 of 6 institutions came within 120 s \(alder, birch"):
        market(four(), **{"institutions-min": 6})


def test_the_messages_live_as_long_as_the_round_waits(market, tmp_path):
    grid = FakeGrid(four())
    settings = Settings.read(
        {
            "rounds": 1,
            "ledger": str(tmp_path / "ledger.db"),
            "models-dir": str(tmp_path / "models"),
            "initial-model": str(tmp_path / "theta0.npz"),
        }
    )
    with Ledger.open(settings.ledger) as ledger:
        strategy = IPFL(settings, ledger, grid.clock)
        strategy.start(grid, array_record(theta0()), timeout=7200.0)
    assert all(message.metadata.ttl > 7200 for message in grid.sent)


def test_a_stolen_name_is_not_admitted(market):
    def prepare(grid, _):
        grid.nodes[1003].name = "alder"

    with pytest.raises(MarketError, match="3 of 4"):
        market(four(), prepare=prepare)


def speaking(records, protocol):
    records["config"] = ConfigRecord({**dict(records["config"]), "protocol": protocol})


@pytest.mark.parametrize("end", ["reply", "request"])
def test_an_institution_of_another_protocol_fails_by_name_and_the_market_goes_on(market, end):
    institutions = four()
    behind = PROTOCOL + 1 if end == "request" else PROTOCOL - 1

    def other(message):
        # Until it is upgraded, in round 2.
        upgraded = message.content["config"]["round"] == 2
        if end == "request" and not upgraded:
            speaking(message.content, behind)
        reply = institutions["alder"](message)
        if end == "reply" and not upgraded:
            speaking(reply.content, behind)
        return reply

    _, ledger = market({**institutions, "alder": other})
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 3
    assert [item.participants for item in ledger.rounds()] == [3, 3, 4]
    for number in (0, 1):
        assert list(ledger.state(number).failed) == [0]
        reason = ledger.state(number).failed[0]
        assert f"protocol {PROTOCOL}" in reason
        assert "upgrade the SuperNode's bundle" in reason
    assert ledger.verify() == []


def test_more_samples_than_the_contract_allows_are_refused(market):
    _, ledger = market(four(terms=Terms(5000, 0.05, 1e4)), **{"samples-max": 1000})
    assert ledger.settlement(0).participants == (1, 2, 3)
    assert "5000" in ledger.state().failed[0]


def test_a_violated_invariant_stops_the_settlement_not_the_market(market, monkeypatch):
    real = strategy_module.settle

    def break_round_one(number, reports, gram, settings):
        if number == 1:
            raise strategy_module.InvariantError("invariant violated: made up")
        return real(number, reports, gram, settings)

    monkeypatch.setattr(strategy_module, "settle", break_round_one)
    institutions = four()
    _, ledger = market(institutions)
    assert [item.state for item in ledger.rounds()] == [
        State.DELIVERED,
        State.ABANDONED,
        State.DELIVERED,
    ]
    assert ledger.verify() == []
    assert all(item.requests[2].role == "none" for item in institutions.values())


def test_nothing_of_a_round_stays_on_disk_once_it_is_delivered(market, tmp_path):
    market(four())
    assert list((tmp_path / "0" / "models").iterdir()) == []
