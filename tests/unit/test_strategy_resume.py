"""A market whose server died is played on from its ledger and models."""

import pytest
from support import strategy_markets
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0
from support.strategy_markets import NAMES, four

from ipfl_flower.ledger import Ledger, LedgerError, State
from ipfl_flower.market import Terms
from ipfl_flower.protocol import array_record
from ipfl_flower.resume import ResumeError
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL, MarketError

market = strategy_markets.market


def again(tmp_path, **values):
    """Name the ledger and the models of the test's first market."""
    folder = tmp_path / "0"
    return {"ledger": str(folder / "ledger.db"), "models-dir": str(folder / "models"), **values}


def test_a_ledger_that_holds_a_market_is_played_on_only_when_told_so(market, tmp_path):
    institutions = four()
    market(institutions)
    with pytest.raises(MarketError, match=r"up to round 3: resume it \(--resume\), or name a new"):
        market(institutions, **again(tmp_path))
    _, ledger = market(institutions, **again(tmp_path, resume=True, rounds=5))
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 5
    assert ledger.verify() == []
    assert [request.round for request in institutions["elm"].requests] == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"distance-weight": 2.0}, "distance-weight was 5.0, is 2.0"),
        ({"mechanism": "paper"}, 'selection was "exact", is "greedy"'),
        ({"eta": 0.25}, 'eta was "auto", is 0.25'),
        ({"reference": "mean"}, r'reference is new \("mean"\)'),
    ],
)
def test_a_market_is_not_resumed_under_other_rules(market, tmp_path, changed, said):
    market(four())
    with pytest.raises(LedgerError, match=said):
        market(four(), **again(tmp_path, resume=True, rounds=5, **changed))


def test_a_ledger_from_before_there_was_a_reference_is_resumed(market, tmp_path):
    institutions = four()
    _, ledger = market(institutions)
    # What a version wrote that knew no reference.
    assert sorted(ledger.settings) == [
        *("centre", "distance", "distance-weight", "eta", "initial-model", "layout"),
        *("max-volume-ratio", "micro-per-credit", "operator-key", "payment", "prox-weight"),
        *("samples-max", "selection", "start"),
    ]
    values = again(tmp_path, resume=True, rounds=4, reference="initial")
    _, ledger = market(institutions, **values)
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 4


def test_a_market_measured_from_the_mean_stays_so(market, tmp_path):
    """Two groups of two; the server dies before it has sent what a round brought."""
    institutions = four()
    market(institutions, reference="mean")
    with pytest.raises(LedgerError, match=r'reference is missing \(was "mean"\)'):
        market(institutions, **again(tmp_path, resume=True, rounds=5))
    values = again(tmp_path, resume=True, rounds=5, reference="mean")
    with pytest.raises(DiedError):
        market(institutions, prepare=die_after("commit", 3), **values)
    _, ledger = market(institutions, **values)
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 5
    for number in range(5):
        apart = ledger.settlement(number).distances
        assert apart[0, 2] < 1 < apart[0, 1]
        assert apart[1, 3] < 1 < apart[2, 3]


def test_a_market_is_not_resumed_with_another_model(market, tmp_path):
    market(four())
    other = {name: value + 1 for name, value in theta0().items()}
    settings = Settings.read(
        {"initial-model": str(tmp_path / "t.npz"), **again(tmp_path, resume=True, rounds=5)}
    )
    grid = FakeGrid(four())
    with (
        Ledger.open(settings.ledger) as ledger,
        pytest.raises(LedgerError, match="initial-model was"),
    ):
        IPFL(settings, ledger, grid.clock).start(grid, array_record(other))


class DiedError(Exception):
    """What the server died of."""


def die_after(what, number):
    """Return a preparation that lets the server die after `what` of round `number`."""

    def prepare(grid, ledger):
        real = getattr(ledger, what)

        def do_and_die(argument, *more):
            result = real(argument, *more)
            if getattr(argument, "round", argument) == number:
                raise DiedError
            return result

        setattr(ledger, what, do_and_die)

    return prepare


def test_a_damaged_model_of_an_undelivered_round_is_named(market, tmp_path):
    with pytest.raises(DiedError):
        market(four(), prepare=die_after("commit", 1))
    bank = tmp_path / "0" / "models" / "round-000001.bank"
    with bank.open("r+b") as file:
        file.seek(-4096, 2)
        byte = file.read(1)
        file.seek(-4096, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ResumeError, match=r"round-000001\.bank gives other distances than round 1"):
        market(four(), **again(tmp_path, resume=True))


@pytest.mark.parametrize("what", ["commit", "open_round", "deliver", "collect"])
def test_a_market_with_a_pure_seller_and_a_leaver_is_resumed(market, tmp_path, what):
    """Who bought nothing is owed no centre, and the bank that it is not in may be gone."""
    institutions = four(terms=Terms(100, 0.05, 0.0))
    institutions["elm"].leaves_in_round = 1
    number = 1 if what == "deliver" else 2
    with pytest.raises(DiedError):
        market(institutions, prepare=die_after(what, number), rounds=4)
    _, ledger = market(institutions, **again(tmp_path, resume=True, rounds=4))
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED] * 4
    assert ledger.verify() == []
    assert not [event.text for event in ledger.events() if event.kind == "undelivered"]


def test_a_market_in_which_nobody_buys_is_resumed(market, tmp_path):
    institutions = {name: FakeInstitution(i, Terms(100, 1e6, 1e4)) for i, name in enumerate(NAMES)}
    with pytest.raises(DiedError):
        market(institutions, prepare=die_after("deliver", 1))
    _, ledger = market(institutions, **again(tmp_path, resume=True))
    assert [item.edges for item in ledger.rounds()] == [0, 0, 0]


def test_what_is_bought_after_an_early_end_and_a_resume_is_delivered(market, tmp_path):
    institutions = four()
    for name in ("alder", "birch", "cedar"):
        institutions[name].leaves_in_round = 1
    market(institutions, quorum=2, rounds=5)
    for institution in institutions.values():
        institution.leaves_in_round = None
    _, ledger = market(institutions, **again(tmp_path, resume=True, rounds=5, quorum=2))
    last = institutions["alder"].requests[-1]
    assert ledger.settlement(4).clearing.imports[0].any()
    assert (last.train, last.role) == (False, "centre")
    assert not [event.text for event in ledger.events() if event.kind == "undelivered"]


def test_a_round_with_its_quorum_is_settled_though_most_nodes_are_gone(market, tmp_path):
    institutions = four()

    def die_before_commit(grid, ledger):
        def die(settlement):
            raise DiedError

        ledger.commit = die

    with pytest.raises(DiedError):
        market(institutions, prepare=die_before_commit, rounds=1, quorum=3)

    def only_alder(grid, _):
        for name in NAMES[1:]:
            grid.go_offline(name)

    _, ledger = market(
        institutions, prepare=only_alder, **again(tmp_path, resume=True, rounds=1, quorum=3)
    )
    assert ledger.settlement(0).participants == (0, 1, 2, 3)
    assert institutions["alder"].requests[-1].role == "centre"


def test_models_of_another_market_are_not_touched(market, tmp_path):
    with pytest.raises(DiedError):
        market(four(), prepare=die_after("commit", 0))
    models = tmp_path / "0" / "models"
    with pytest.raises(MarketError, match=r"holds models of another market \(round-000000\.bank\)"):
        market(four(), **{"models-dir": str(models)})
    _, ledger = market(four(), **again(tmp_path, resume=True))
    assert ledger.verify() == []
