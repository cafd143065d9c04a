"""Settings, institutions and the steps of a round: what is recorded, repeated and refused."""

import dataclasses
import re
from itertools import count
from math import inf, nan

import numpy as np
import pytest

from ipfl_flower.ledger import Ledger, LedgerError, Report, Settlement, State, tables
from ipfl_flower.market import Rules, Terms, clear

NAMES = ("alpha", "beta", "gamma")
SETTINGS = {"rules": {"distance_weight": 1.0, "mechanism": "truthful"}, "micro": 1_000_000}
RULES = Rules()


@pytest.fixture
def ledger(place):
    with Ledger.open(place, clock=count(1000.0).__next__) as opened:
        opened.begin(SETTINGS)
        for name in NAMES:
            opened.enrol(name, name.encode(), samples_cap=500)
        yield opened


def report(number, institution, **changes):
    terms = Terms(samples=100 + institution, cost=1.0, eagerness=1e5, budget=inf)
    made = Report(number, institution, terms, f"digest-{institution}", False, {"loss": 0.5})
    return dataclasses.replace(made, **changes)


def settle(reports, **changes):
    m = len(reports)
    terms = tuple(r.terms for r in reports)
    distances = np.full((m, m), 0.25)
    np.fill_diagonal(distances, 0.0)
    active = np.array([not r.leaving for r in reports])
    made = Settlement(
        round=reports[0].round,
        participants=tuple(r.institution for r in reports),
        terms=terms,
        distances=distances,
        active=active,
        rules=RULES,
        clearing=clear(terms, distances, RULES, active),
        model_digests=tuple(r.model_digest for r in reports),
        metrics=tuple(r.metrics for r in reports),
    )
    return dataclasses.replace(made, **changes)


def collect(ledger, number=0, reporters=(0, 1, 2), quorum=2):
    ledger.open_round(number, [0, 1, 2], 30.0, quorum)
    ledger.collect(number)
    reports = [report(number, i) for i in reporters]
    for item in reports:
        ledger.report(item)
    return reports


def refused(words):
    return pytest.raises(LedgerError, match=re.escape(words))


# --- settings -------------------------------------------------------------------------------------


def test_settings_are_recorded_once_and_repeating_them_changes_nothing(ledger):
    head = ledger.head()
    ledger.begin(dict(reversed(SETTINGS.items())))
    assert ledger.settings == SETTINGS
    assert ledger.head() == head


def test_other_settings_are_refused_naming_every_change(ledger):
    other = {"rules": {"mechanism": "paper"}, "micro": 1_000_000, "new": [1]}
    with pytest.raises(LedgerError) as caught:
        ledger.begin(other)
    message = str(caught.value)
    assert "new is new ([1])" in message
    assert "rules.distance_weight is missing (was 1.0)" in message
    assert 'rules.mechanism was "truthful", is "paper"' in message
    assert "micro" not in message
    assert ledger.settings == SETTINGS


@pytest.mark.parametrize("value", [nan, inf, {1, 2}, b"x"])
def test_a_setting_that_is_not_json_is_refused_by_name(ledger, value):
    with refused("setting 'lambda' is not JSON"):
        ledger.begin({"lambda": value})


def test_before_it_begins_a_market_has_no_head_and_no_rounds(tmp_path):
    with Ledger.open(tmp_path / "new.db") as ledger:
        assert ledger.settings is None
        assert ledger.state() is None
        assert ledger.rounds() == []
        assert ledger.balances() == {}
        assert ledger.verify() == []
        with refused("call begin(settings) first"):
            ledger.head()
        with refused("call begin(settings) first"):
            ledger.open_round(0, [], 1.0, 0)


# --- institutions ---------------------------------------------------------------------------------


def test_an_institution_is_known_by_its_key(ledger):
    assert ledger.enrol("beta", b"beta") == 1
    assert ledger.enrol("beta", b"beta", samples_cap=500) == 1
    assert ledger.enrol("delta", b"\x00\xff") == 3
    last = ledger.institutions()[-1]
    assert (last.id, last.name, last.public_key, last.samples_cap) == (
        3,
        "delta",
        b"\x00\xff",
        None,
    )
    assert [i.name for i in ledger.institutions()] == [*NAMES, "delta"]


@pytest.mark.parametrize(
    ("name", "key", "cap", "words"),
    [
        ("beta", b"other", None, "the name 'beta' belongs to an institution with another"),
        ("stolen", b"beta", None, "the public key given for 'stolen' is enrolled as 'beta'"),
        ("beta", b"beta", 7, "enrolled with samples_cap 500, not 7"),
        ("", b"new", None, "printable characters, not ''"),
        ("a\nb", b"new", None, "printable characters"),
        ("a" * 201, b"new", None, "1 to 200 printable"),
        ("delta", b"", None, "'delta' has an empty public key"),
        ("delta", b"new", -1, "samples_cap of 'delta' is -1"),
        ("delta", b"new", 2**63, "samples_cap of 'delta'"),
    ],
)
def test_enrolment_refuses(ledger, name, key, cap, words):
    with refused(words):
        ledger.enrol(name, key, samples_cap=cap)
    assert len(ledger.institutions()) == 3


# --- opening and collecting -----------------------------------------------------------------------


def test_the_state_says_whom_it_waits_for_and_until_when(ledger):
    ledger.open_round(0, [2, 0, 1], 30.0, 2)
    opened = ledger.state()
    assert (opened.number, opened.state, opened.deadline_at) == (0, State.OPEN, None)
    assert opened.waiting == (0, 1, 2)
    ledger.collect(0)
    ledger.report(report(0, 1))
    ledger.refuse(0, 2, "its model holds a NaN")
    ledger.refuse(0, 2, "no answer")
    state = ledger.state()
    assert (state.state, state.quorum, state.deadline_s) == (State.COLLECTING, 2, 30.0)
    started = ledger._clock() - 4  # collect, report, two refusals
    assert state.deadline_at == started + 30.0
    assert (state.asked, state.reported, state.waiting) == ((0, 1, 2), (1,), (0,))
    assert state.failed == {2: "no answer"}
    ledger.report(report(0, 2))
    assert ledger.state().failed == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, [0], 1.0, 0), "round 1 cannot be opened: the next round is 0"),
        ((0, [0, 3], 1.0, 0), "no institution is enrolled as 3"),
        ((0, [0, 0], 1.0, 0), "asks an institution twice"),
        ((0, [0], 0.0, 0), "the deadline of 0.0 s"),
        ((0, [0], inf, 0), "the deadline of inf s"),
        ((0, [0], nan, 0), "the deadline of nan s"),
        ((0, [0], 1.0, 2), "a quorum of 2 among 1 asked"),
        ((0, [0], 1.0, -1), "a quorum of -1"),
    ],
)
def test_opening_refuses(ledger, arguments, words):
    with refused(words):
        ledger.open_round(*arguments)
    assert ledger.state() is None


def test_opening_can_be_repeated_but_not_changed(ledger):
    ledger.open_round(0, [0, 1], 30.0, 1)
    ledger.open_round(0, [1, 0], 30.0, 1)
    with refused("round 0 is OPEN: it cannot be opened again"):
        ledger.open_round(0, [0, 1], 30.0, 2)
    ledger.collect(0)
    ledger.collect(0)
    with refused("round 0 is COLLECTING: it cannot be opened again"):
        ledger.open_round(0, [0, 1], 30.0, 1)
    with refused("round 0 is still COLLECTING: settle or abandon it first"):
        ledger.open_round(1, [0, 1], 30.0, 1)


def test_a_settled_round_is_delivered_with_the_next_rounds_messages(ledger):
    ledger.commit(settle(collect(ledger)))
    ledger.open_round(1, [0, 1, 2], 30.0, 2)
    with refused("round 1 cannot collect: deliver round 0 first"):
        ledger.collect(1)
    ledger.deliver(0)
    ledger.deliver(0)
    ledger.collect(1)
    assert [r.state for r in ledger.rounds()] == [State.DELIVERED, State.COLLECTING]
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda ledger: ledger.deliver(0), "round 0 is OPEN and cannot become DELIVERED, only"),
        (lambda ledger: ledger.deliver(1), "there is no round 1"),
        (lambda ledger: ledger.collect(7), "there is no round 7"),
        (lambda ledger: ledger.report(report(0, 0)), "'alpha' in round 0 reports, but the round"),
        (lambda ledger: ledger.report(report(1, 0)), "there is no round 1"),
        (lambda ledger: ledger.report(report(0, 9)), "round 0 did not ask institution 9"),
        (lambda ledger: ledger.refuse(0, 9, "x"), "round 0 did not ask institution 9"),
        (lambda ledger: ledger.refuse(0, 0, ""), "without a reason"),
        (lambda ledger: ledger.abandon(0, ""), "without a reason"),
        (lambda ledger: ledger.settlement(0), "round 0 is not settled"),
    ],
)
def test_an_open_round_refuses(ledger, step, words):
    ledger.open_round(0, [0, 1], 30.0, 1)
    with refused(words):
        step(ledger)
    assert ledger.state().state is State.OPEN


# --- reports --------------------------------------------------------------------------------------


def test_a_report_can_be_repeated_but_not_changed(ledger):
    reports = collect(ledger)
    ledger.report(reports[0])
    with refused("'alpha' in round 0 has already reported other model_digest, metrics"):
        ledger.report(report(0, 0, model_digest="other", metrics={"loss": 0.25}))
    assert ledger.reports(0) == reports


def test_odd_numbers_in_a_report_come_back_as_they_were(ledger):
    collect(ledger, reporters=())
    terms = Terms(samples=500, cost=inf, eagerness=0.1 + 0.2, budget=5e-324)
    odd = report(0, 2, terms=terms, metrics={"loss": nan, "worst": inf}, leaving=True)
    ledger.report(odd)
    ledger.report(odd)  # a NaN is the same report, too
    [back] = ledger.reports(0)
    assert back.terms == terms
    assert back.leaving
    assert np.isnan(back.metrics["loss"])
    assert back.metrics["worst"] == inf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terms": Terms(501, 1.0, 1.0)}, "'beta' in round 0 reports 501 samples, its contract"),
        ({"model_digest": ""}, "'beta' in round 0 reports no model digest"),
    ],
)
def test_a_report_is_refused(ledger, changes, words):
    collect(ledger, reporters=())
    with refused(words):
        ledger.report(report(0, 1, **changes))
    assert ledger.state().reported == ()


def test_who_leaves_needs_no_model(ledger):
    collect(ledger, reporters=(0, 1))
    ledger.report(report(0, 2, leaving=True, model_digest=""))
    reports = ledger.reports(0)
    ledger.commit(settle(reports))
    assert not ledger.settlement(0).active[2]
    assert ledger.verify() == []


def test_a_late_reply_settles_nothing(ledger):
    reports = collect(ledger, reporters=(0, 1))
    head = ledger.commit(settle(reports))
    with refused("'gamma' in round 0 reports, but the round is SETTLED: the reply is too late"):
        ledger.report(report(0, 2))
    with refused("'gamma' in round 0 cannot be refused: the round is SETTLED"):
        ledger.refuse(0, 2, "late")
    assert ledger.head() == head


def test_a_refusal_beside_a_report_is_kept_and_changes_nothing(ledger):
    collect(ledger)
    ledger.refuse(0, 1, "a second, damaged reply")
    ledger.refuse(0, 1, "a second, damaged reply")
    with ledger._read() as connection:
        assert len(connection.execute(tables.refusals.select()).all()) == 1
    assert ledger.state().failed == {}
    assert ledger.state().reported == (0, 1, 2)


# --- settling -------------------------------------------------------------------------------------


def test_a_settlement_comes_back_whole(ledger):
    distances = np.array([[0.0, 0.25, nan], [0.25, 0.0, 0.5], [nan, 0.5, 0.0]])
    reports = collect(ledger)
    clearing = clear([r.terms for r in reports], distances, RULES, None)
    settlement = settle(reports, distances=distances, clearing=clearing)
    head = ledger.commit(settlement)
    back = ledger.settlement(0)
    assert ledger.head() == head
    assert settlement.clearing.imports.any()
    assert (back.round, back.participants, back.terms) == (0, (0, 1, 2), settlement.terms)
    assert (back.rules, back.model_digests) == (RULES, settlement.model_digests)
    assert back.metrics == settlement.metrics
    for name in ("distances", "active"):
        np.testing.assert_array_equal(getattr(back, name), getattr(settlement, name))
    for name in ("imports", "transfers", "net", "gains", "utilities", "declined"):
        ours, theirs = getattr(back.clearing, name), getattr(settlement.clearing, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert back.clearing.fallbacks == settlement.clearing.fallbacks


def test_the_same_settlement_again_is_the_same_head(ledger):
    reports = collect(ledger)
    head = ledger.commit(settle(reports))
    assert ledger.commit(settle(reports)) == head
    ledger.deliver(0)
    assert ledger.commit(settle(reports)) == head
    assert len(ledger.statement("alpha").lines) == 4
    with refused("round 0 is settled already, with other settlements"):
        ledger.commit(settle(reports, rules=Rules(distance_weight=1.0, max_volume_ratio=9.0)))
    with refused("model_digest of institution 1 differ from its report"):
        ledger.commit(settle([reports[0], report(0, 1, model_digest="x"), reports[2]]))
    assert ledger.head() == head


def test_an_import_that_costs_nothing_is_recorded(ledger):
    collect(ledger, reporters=())
    free = [report(0, i, terms=Terms(100, 0.0, 1e5)) for i in range(3)]
    for item in free:
        ledger.report(item)
    settlement = settle(free)
    imports = settlement.clearing.imports
    assert imports.any()
    nothing = np.zeros_like(settlement.clearing.transfers)
    clearing = dataclasses.replace(settlement.clearing, transfers=nothing, net=nothing[0].copy())
    ledger.commit(dataclasses.replace(settlement, clearing=clearing))
    np.testing.assert_array_equal(ledger.settlement(0).clearing.imports, imports)
    assert ledger.rounds()[0].edges == imports.sum()
    assert ledger.rounds()[0].volume_micro == 0


def broken(settlement, **arrays):
    return dataclasses.replace(
        settlement, clearing=dataclasses.replace(settlement.clearing, **arrays)
    )


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (lambda s: dataclasses.replace(s, participants=(2, 1, 0)), "are not ascending"),
        (lambda s: dataclasses.replace(s, terms=s.terms[:2]), "2 terms for 3 participants"),
        (lambda s: dataclasses.replace(s, distances=np.zeros((2, 3))), "distances is float64 (2,"),
        (lambda s: broken(s, net=s.clearing.net.astype(float)), "net is float64 (3,), not int64"),
        (lambda s: broken(s, gains=np.full(3, nan)), "gains are not finite"),
        (lambda s: broken(s, imports=np.ones((3, 3), bool)), "institution 0 buys from itself"),
        (
            lambda s: dataclasses.replace(s, active=np.array([True, False, True])),
            "institution 1 is not active but trades",
        ),
        (lambda s: broken(s, declined=np.ones(3, bool)), "institution 0 declined but buys"),
        (
            lambda s: broken(s, transfers=-s.clearing.transfers),
            "from 0 to 1 is negative or follows no",
        ),
        (
            lambda s: broken(s, imports=np.zeros((3, 3), bool)),
            "from 2 to 1 is negative or follows no import",
        ),
        (lambda s: broken(s, net=s.clearing.net + 1), "net payments sum to 3, not 0"),
        (lambda s: broken(s, net=np.array([1, -1, 0])), "institution 0 has net 1, its transfers"),
        (lambda s: dataclasses.replace(s, participants=(0, 1, 7)), "are not those that reported"),
        (
            lambda s: dataclasses.replace(s, terms=(*s.terms[:2], Terms(1, 1.0, 1e5))),
            "samples of institution 2 differ from its report",
        ),
        (lambda s: dataclasses.replace(s, round=4), "there is no round 4"),
    ],
)
def test_a_settlement_that_contradicts_itself_or_the_reports_is_refused(ledger, breaking, words):
    settlement = settle(collect(ledger))
    before = ledger.head()
    with refused(words):
        ledger.commit(breaking(settlement))
    assert ledger.head() == before
    assert ledger.state().state is State.COLLECTING
    ledger.commit(settlement)
    assert ledger.verify() == []


def test_without_a_quorum_a_round_is_abandoned_and_counts(ledger):
    reports = collect(ledger, reporters=(1,))
    with refused("round 0 has 1 reports and a quorum of 2: collect more, or abandon it"):
        ledger.commit(settle(reports))
    head = ledger.abandon(0, "1 of 2 reports by the deadline")
    assert ledger.abandon(0, "1 of 2 reports by the deadline") == head == ledger.head()
    with refused("round 0 is ABANDONED and cannot become ABANDONED, only nothing else"):
        ledger.abandon(0, "another reason")
    with refused("round 0 is ABANDONED and cannot become SETTLED"):
        ledger.commit(settle(reports, participants=(1,)))
    assert ledger.state().detail == "1 of 2 reports by the deadline"
    ledger.open_round(1, [0], 30.0, 0)
    assert ledger.abandon(1, "stopped") != head
    assert [r.state for r in ledger.rounds()] == [State.ABANDONED, State.ABANDONED]
    assert ledger.verify() == []


def test_a_market_of_nobody_settles(ledger):
    ledger.open_round(0, [], 30.0, 0)
    ledger.collect(0)
    empty = np.zeros((0, 0))
    active = np.zeros(0, bool)
    clearing = clear((), empty, RULES, active)
    ledger.commit(Settlement(0, (), (), empty, active, RULES, clearing, (), ()))
    assert ledger.settlement(0).participants == ()
    assert ledger.verify() == []


# --- reading --------------------------------------------------------------------------------------


def test_statements_and_summaries_agree_with_the_settlement(ledger):
    settlement = settle(collect(ledger))
    ledger.commit(settlement)
    [summary] = ledger.rounds()
    assert (summary.number, summary.state, summary.participants) == (0, State.SETTLED, 3)
    assert summary.edges == settlement.clearing.imports.sum()
    assert summary.volume_micro == settlement.clearing.transfers.sum() > 0
    assert summary.welfare == pytest.approx(settlement.clearing.utilities.sum())
    assert summary.head == ledger.head()
    for i, name in enumerate(NAMES):
        statement = ledger.statement(name)
        assert statement.paid == settlement.clearing.transfers[i].sum()
        assert statement.earned == settlement.clearing.transfers[:, i].sum()
        assert statement.net == -ledger.balances()[name] == settlement.clearing.net[i]
        assert statement.lines[-1].balance_micro == statement.balance
        bought = {line.counterparty for line in statement.lines if line.direction == "paid"}
        assert bought == {NAMES[j] for j in np.flatnonzero(settlement.clearing.imports[i])}


def test_the_journal_keeps_events_and_the_last_acknowledgements(ledger):
    ledger.log_event("started", "run 7")
    ledger.log_event("failed", "beta: no answer")
    events = [(event.kind, event.text) for event in ledger.events()]
    assert events == [("started", "run 7"), ("failed", "beta: no answer")]
    assert ledger.events()[0].at < ledger.events()[1].at
    head = ledger.head()
    ledger.acknowledge(3, 1, {"accuracy": 0.5})
    ledger.acknowledge(3, 0, {"accuracy": nan})
    ledger.acknowledge(3, 1, {"accuracy": 0.75})
    assert ledger.acknowledgements()[1] == {"accuracy": 0.75}
    assert np.isnan(ledger.acknowledgements()[0]["accuracy"])
    with refused("no institution is enrolled as 9"):
        ledger.acknowledge(3, 9, {})
    assert ledger.head() == head
    assert ledger.verify() == []


def test_who_has_never_reported_is_a_newcomer(ledger):
    collect(ledger, reporters=(0, 2))
    assert [ledger.has_reported(i) for i in range(3)] == [True, False, True]


def test_an_unknown_name_is_answered_with_those_known(ledger, tmp_path):
    with refused("no institution is called 'delta'; in this market: alpha, beta, gamma"):
        ledger.statement("delta")
    with Ledger.open(tmp_path / "empty.db") as empty, refused("in this market: nobody yet"):
        empty.statement("delta")


def test_wall_clock_and_order_of_arrival_are_not_in_the_chain(tmp_path):
    heads = set()
    for start, order in ((0.0, (0, 1, 2)), (5e8, (2, 0, 1))):
        with Ledger.open(tmp_path / f"{start}.db", clock=count(start).__next__) as ledger:
            ledger.begin(SETTINGS)
            for name in NAMES:
                ledger.enrol(name, name.encode(), samples_cap=500)
            collect(ledger, reporters=order)
            heads.add(ledger.commit(settle([report(0, i) for i in range(3)])))
    assert len(heads) == 1


def test_text_that_no_database_keeps_is_escaped(ledger):
    odd, kept = "a\0b\ud800c é", "a\\x00b\\ud800c é"
    ledger.log_event("note", odd)
    assert ledger.events()[-1].text == kept
    ledger.open_round(0, [0, 1, 2], 30.0, 2)
    for _ in range(2):
        ledger.refuse(0, 1, odd)
    assert ledger.state().failed == {1: kept}
    assert ledger.abandon(0, odd) == ledger.abandon(0, odd)
    assert ledger.state().detail == kept
    assert ledger.verify() == []
