"""Institutions that leave, come late, restart or stay away: whom a market waits for."""

import pytest
from flwr.app import Error, Message
from support import strategy_markets
from support.strategy_markets import four, silence

from ipfl_flower.ledger import State
from ipfl_flower.market import Terms

market = strategy_markets.market


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
