"""The strategy over a fake Grid: whole markets in no time; test_fault_seeds.py has the rest."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0

from ipfl_flower import strategy as strategy_module
from ipfl_flower.ledger import Ledger, LedgerError, State
from ipfl_flower.market import Terms
from ipfl_flower.protocol import PROTOCOL, array_record
from ipfl_flower.receipts import SignedReceipt, check, verify_signature
from ipfl_flower.receipts.encoding import canonical
from ipfl_flower.resume import ResumeError
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL, MarketError

NAMES = ["alder", "birch", "cedar", "elm"]


@pytest.fixture
def market(tmp_path):
    """Run a market of institutions over a fake Grid; return the grid and the open ledger."""
    ledgers = []

    def run(institutions, *, prepare=None, **values):
        grid = FakeGrid(institutions)
        folder = tmp_path / str(len(ledgers))
        settings = Settings.read(
            {
                "rounds": 3,
                "quorum": 1,
                "institutions-min": len(institutions),
                "deadline-s": 60.0,
                "ledger": str(folder / "ledger.db"),
                "models-dir": str(folder / "models"),
                "initial-model": str(folder / "theta0.npz"),
                "receipt-key": str(tmp_path / "receipt.key"),
                **values,
            }
        )
        folder.mkdir()
        ledger = Ledger.open(settings.ledger)
        ledgers.append(ledger)
        if prepare is not None:
            prepare(grid, ledger)
        IPFL(settings, ledger, grid.clock).start(grid, array_record(theta0()))
        return grid, ledger

    yield run
    for ledger in ledgers:
        ledger.close()


def four(**of_one):
    """Return four institutions in two groups; `of_one` changes the first."""
    return {name: FakeInstitution(i, **(of_one if i == 0 else {})) for i, name in enumerate(NAMES)}


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


def silence(grid, name):
    """Let a node take messages and answer none."""
    node = next(node.node_id for node in grid.nodes.values() if node.name == name)
    answer = grid._answer
    grid._answer = lambda message: None if message.metadata.dst_node_id == node else answer(message)


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


def test_an_institution_may_leave_and_come_back(market):
    institutions = four(leaves_in_round=1)
    calls = {"birch": 0}

    def prepare(grid, _):
        birch = institutions["birch"]

        def handler(message):
            calls["birch"] += 1
            if calls["birch"] == 3:  # in round 2 the leaver starts its node anew
                grid.come_back("alder")
            return birch(message)

        grid.handlers[1001] = handler

    _, ledger = market(institutions, prepare=prepare, rounds=4)
    assert [item.participants for item in ledger.rounds()] == [4, 4, 3, 4]
    assert not ledger.settlement(1).active[0]
    assert not ledger.settlement(1).clearing.imports[:, 0].any()
    assert ledger.verify() == []


def test_a_newcomer_starts_from_the_initial_model(market):
    institutions = four()

    def prepare(grid, _):
        late = grid.nodes.pop(1003)
        elm = institutions["birch"]

        def handler(message):
            reply = elm(message)
            if len(elm.requests) == 2:
                grid.nodes[1003] = late
            return reply

        grid.handlers[1001] = handler

    _, ledger = market(institutions, prepare=prepare, **{"institutions-min": 3})
    assert [item.participants for item in ledger.rounds()] == [3, 3, 4]
    assert [request.round for request in institutions["elm"].requests] == [2, 3]
    assert institutions["elm"].requests[0].role == "initial"


def test_a_node_that_restarts_within_a_round_is_asked_again(market):
    institutions = four()

    def prepare(grid, _):
        silence_first_message(grid, "alder")
        grid.at(3.0, lambda: grid.go_offline("alder"))
        grid.at(10.0, lambda: grid.come_back("alder"))

    grid, ledger = market(institutions, prepare=prepare)
    assert ledger.settlement(0).participants == (0, 1, 2, 3)
    assert 10 < grid.now < 60
    assert [event.text for event in ledger.events() if event.kind == "resent"] == [
        "round 0: alder is asked again"
    ]


def silence_first_message(grid, name):
    """Let a node take its first message and not answer it: its process will be killed."""
    node, answer, lost = grid.node(name).node_id, grid._answer, []

    def lose_one(message):
        if message.metadata.dst_node_id == node and not lost:
            lost.append(message)
        else:
            answer(message)

    grid._answer = lose_one


def test_a_reply_is_not_lost_when_its_node_goes_offline_before_it_is_pulled(market):
    institutions = four()

    def prepare(grid, _):
        institution = institutions["elm"]

        def answer_and_vanish(message):
            reply = institution(message)
            if len(institution.requests) == 1:
                grid.go_offline("elm")
                grid.at(grid.now + 5, lambda: grid.come_back("elm"))
            return reply

        grid.handlers[grid.node("elm").node_id] = answer_and_vanish

    _, ledger = market(institutions, prepare=prepare)
    assert ledger.settlement(0).participants == (0, 1, 2, 3)
    trained = [request for request in institutions["elm"].requests if request.round == 0]
    assert len(trained) in (1, 2)  # its trainer answers the second one from its disk


def test_who_stays_away_is_not_waited_for_until_the_deadline(market):
    def prepare(grid, _):
        silence(grid, "alder")
        grid.at(1.0, lambda: grid.go_offline("alder"))

    grid, ledger = market(four(), prepare=prepare, **{"deadline-s": 600.0, "absence-s": 30.0})
    assert [item.participants for item in ledger.rounds()] == [3, 3, 3]
    assert 30 < grid.now < 60


def test_a_buyer_who_was_away_gets_its_centre_when_it_is_back(market):
    institutions = four()

    def prepare(grid, ledger):
        commit = ledger.commit

        def commit_and_vanish(settlement):
            head = commit(settlement)
            if settlement.round == 1:
                grid.go_offline("alder")
            if settlement.round == 2:
                grid.come_back("alder")
            return head

        ledger.commit = commit_and_vanish

    _, ledger = market(institutions, prepare=prepare, rounds=4)
    assert [item.participants for item in ledger.rounds()] == [4, 4, 3, 4]
    bought = ledger.settlement(1).clearing.imports[0].any()
    assert bought
    by_round = {request.round: request for request in institutions["alder"].requests}
    assert sorted(by_round) == [0, 1, 3, 4]
    assert by_round[3].role == "centre"
    assert by_round[3].statement["receipt"]["round"] == 1


def test_a_buyer_who_never_comes_back_is_said_and_the_market_ends(market):
    def prepare(grid, ledger):
        commit = ledger.commit

        def commit_and_vanish(settlement):
            head = commit(settlement)
            if settlement.round == 2:
                grid.go_offline("alder")
            return head

        ledger.commit = commit_and_vanish

    grid, ledger = market(four(), prepare=prepare)
    assert ledger.settlement(2).clearing.imports[0].any()
    assert [event.text for event in ledger.events() if event.kind == "undelivered"] == [
        "alder has not taken its centre"
    ]
    assert grid.now < 120


def test_a_node_that_was_unregistered_is_refused_and_the_round_goes_on(market):
    def prepare(grid, ledger):
        open_round = ledger.open_round

        def unregister_and_open(*arguments):
            open_round(*arguments)
            grid.nodes.pop(1000, None)

        ledger.open_round = unregister_and_open

    _, ledger = market(four(), prepare=prepare)
    assert ledger.settlement(0).participants == (1, 2, 3)
    assert ledger.state(0).failed == {0: "its SuperNode is not registered"}


def test_when_too_many_leave_the_market_ends_early_and_owes_nothing(market):
    institutions = four()
    for name in ("alder", "birch", "cedar"):
        institutions[name].leaves_in_round = 1
    _, ledger = market(institutions, quorum=2)
    assert [item.state for item in ledger.rounds()] == [State.DELIVERED, State.ABANDONED]
    assert "left: alder, birch, cedar" in ledger.state().detail
    assert "3 institutions left" in next(e.text for e in ledger.events() if e.kind == "ended early")
    # What they bought in round 0 came with round 1's message.
    assert institutions["alder"].requests[1].statement["receipt"]["round"] == 0
    assert ledger.verify() == []


def test_an_institution_that_lost_its_disk_is_sent_the_initial_model_again(market):
    institutions = four(terms=Terms(100, 0.05, 0.0))  # buys nothing: no centre to start from

    def prepare(grid, _):
        alder = institutions["alder"]

        def handler(message):
            if len(alder.requests) == 1 and alder.model is not None:
                alder.model = None
                alder.requests.append(None)
                raise RuntimeError("no model yet")
            return alder(message)

        grid.handlers[1000] = handler

    market(institutions, prepare=prepare, rounds=4)
    roles = [request.role for request in institutions["alder"].requests if request is not None]
    assert roles[:2] == ["initial", "initial"]


@pytest.mark.parametrize(
    ("back_after_s", "participants"), [(20.0, [4, 4, 4, 4]), (500.0, [4, 3, 3, 3])]
)
def test_a_node_that_restarts_between_two_rounds_is_waited_for_once(
    market, back_after_s, participants
):
    began = []

    def prepare(grid, ledger):
        commit = ledger.commit

        def committing(settlement):
            commit(settlement)
            if settlement.round == 0:
                grid.go_offline("alder")
                grid.at(grid.now + back_after_s, lambda: grid.come_back("alder"))
            began.append(grid.now)

        ledger.commit = committing

    _, ledger = market(four(), prepare=prepare, rounds=4, **{"absence-s": 90.0})
    assert [item.participants for item in ledger.rounds()] == participants
    assert began[1] - began[0] == pytest.approx(min(back_after_s, 90.0), abs=5.0)
    assert began[3] - began[1] < 10.0
    assert ledger.verify() == []


@pytest.mark.parametrize("goes", ["left", "expelled"])
def test_who_went_for_good_is_not_waited_for_between_two_rounds(market, goes):
    def prepare(grid, ledger):
        commit = ledger.commit

        def committing(settlement):
            commit(settlement)
            if settlement.round == 1:
                grid.go_offline("alder")
                if goes == "expelled":
                    ledger.expel("alder", "sold noise")

        ledger.commit = committing

    leaves = {"leaves_in_round": 1} if goes == "left" else {}
    grid, ledger = market(four(**leaves), prepare=prepare, rounds=4, **{"absence-s": 90.0})
    assert [item.participants for item in ledger.rounds()][2:] == [3, 3]
    assert grid.now < 30.0


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


def test_a_node_that_is_away_when_another_has_left_is_waited_for(market):
    institutions = four()
    institutions["elm"].leaves_in_round = 0

    def prepare(grid, ledger):
        commit = ledger.commit

        def commit_and_vanish(settlement):
            head = commit(settlement)
            if settlement.round == 0:
                grid.go_offline("birch")
                grid.at(grid.now + 20, lambda: grid.come_back("birch"))
            return head

        ledger.commit = commit_and_vanish

    _, ledger = market(institutions, prepare=prepare, quorum=3)
    assert [item.participants for item in ledger.rounds()] == [4, 3, 3]


def test_models_of_another_market_are_not_touched(market, tmp_path):
    with pytest.raises(DiedError):
        market(four(), prepare=die_after("commit", 0))
    models = tmp_path / "0" / "models"
    with pytest.raises(MarketError, match=r"holds models of another market \(round-000000\.bank\)"):
        market(four(), **{"models-dir": str(models)})
    _, ledger = market(four(), **again(tmp_path, resume=True))
    assert ledger.verify() == []


@pytest.mark.parametrize(("deaths", "participants"), [(2, 4), (3, 3)])
def test_an_institution_whose_process_was_killed_is_asked_again(market, deaths, participants):
    def prepare(grid, _):
        answer, died = grid._answer, []

        def crash(message):
            if message.metadata.dst_node_id == 1000 and len(died) < deaths:
                died.append(message)
                reply = Message(Error(code=8, reason="ClientApp crashed"), reply_to=message)
                grid._ready.append((grid.now, reply))
            else:
                answer(message)

        grid._answer = crash

    _, ledger = market(four(), prepare=prepare, rounds=1)
    assert ledger.rounds()[0].participants == participants


def test_nothing_of_a_round_stays_on_disk_once_it_is_delivered(market, tmp_path):
    market(four())
    assert list((tmp_path / "0" / "models").iterdir()) == []
