"""What the Prometheus collector says of a ledger, on both databases."""

import dataclasses
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.exc import DBAPIError
from support import rounds
from support.fault_markets import Arena, Plan
from support.ledgers import play, settle
from support.scraping import samples
from support.tampering import attacker

from ipfl_flower import settlement as settlement_module
from ipfl_flower.console import verifier as verifier_module
from ipfl_flower.console.metrics import LedgerCollector, market_registry, render
from ipfl_flower.console.tally import BUCKETS_S, Durations, Outcome, outcome
from ipfl_flower.console.verifier import Verifier
from ipfl_flower.ledger import MICRO, Ledger, LedgerError, Problem, Report, State
from ipfl_flower.ledger import verify as verify_module
from ipfl_flower.market import Rules, Terms
from ipfl_flower.market.invariants import Violation
from ipfl_flower.quorum import short_of_quorum
from ipfl_flower.settings import Settings

T0 = 1_000_000.0


@pytest.fixture
def ledger(place):
    """An empty ledger whose clock goes on by a second with every step."""
    now = [T0]

    def clock():
        now[0] += 1.0
        return now[0]

    with Ledger.open(place, clock=clock) as opened:
        opened.now = now
        yield opened


def test_it_says_what_the_ledger_says(ledger):
    play(ledger)
    found = samples(render(ledger))
    summaries = ledger.rounds()
    settled = [item for item in summaries if item.state in (State.SETTLED, State.DELIVERED)]
    assert len(settled) == 2
    last = settled[-1]
    assert found["ipfl_ledger_readable",] == 1
    assert found["ipfl_market_served",] == 0
    assert found["ipfl_institutions",] == 3
    assert found["ipfl_rounds_total", "settled"] == 2
    assert found["ipfl_rounds_total", "other"] == 1
    assert found["ipfl_rounds_total", "quorum"] == found["ipfl_rounds_total", "invariant"] == 0
    assert found["ipfl_last_round_outcome", "settled"] == 1
    assert found["ipfl_round_number",] == 3
    assert found["ipfl_round_state", "OPEN"] == 1
    assert found["ipfl_market_purchases",] == last.edges == 6
    assert found["ipfl_market_density_ratio",] == 1
    assert found["ipfl_market_participants",] == 3
    assert found["ipfl_market_welfare_credits",] == pytest.approx(last.welfare)
    assert found["ipfl_market_volume_credits",] == last.volume_micro / MICRO
    assert found["ipfl_purchases_total",] == sum(item.edges for item in settled)
    assert found["ipfl_payments_credits_total",] == sum(i.volume_micro for i in settled) / MICRO
    assert found["ipfl_payments_imbalance_credits",] == 0
    assert found["ipfl_ledger_head_fits",] == 1


def test_institutions_have_the_sums_of_their_statements(ledger):
    play(ledger)
    found = samples(render(ledger))
    for name in ("alpha", "beta", "gamma"):
        account = ledger.statement(name)
        assert account.paid > 0
        assert found["ipfl_institution_paid_credits_total", name] == account.paid / MICRO
        assert found["ipfl_institution_earned_credits_total", name] == account.earned / MICRO
        assert found["ipfl_institution_balance_credits", name] == account.balance / MICRO
        assert found["ipfl_institution_replies_total", name] == 2
        assert found["ipfl_institution_last_reply_round", name] == 2
    assert found["ipfl_institution_failures_total", "gamma"] == 2
    decided = [ledger.settlement(number).clearing for number in (0, 2)]
    utilities = sum(item.utilities[1] for item in decided)
    assert found["ipfl_institution_utility_credits", "beta"] == pytest.approx(utilities)


def test_a_registry_that_is_kept_says_the_same_as_a_new_one_after_every_step(ledger):
    kept = market_registry(ledger)

    def agree():
        assert samples(generate_latest(kept)) == pytest.approx(samples(render(ledger)))

    agree()
    ledger.begin({"distance-weight": 5.0})
    for name in ("alpha", "beta", "gamma"):
        ledger.enrol(name, name.encode())
    agree()
    for number in range(5):
        ledger.open_round(number, [0, 1, 2], 30.0, 2)
        agree()
        if number == 2:
            ledger.abandon(2, "stopped")
            agree()
            continue
        if number and number != 3:
            ledger.deliver(number - 1)
            agree()
        settle(ledger, number)
        agree()
        agree()
        if number == 1:
            ledger.deliver(1)
            agree()
    found = samples(generate_latest(kept))
    assert found["ipfl_rounds_total", "settled"] == 4
    assert found["ipfl_distance_weight_credits",] == 5
    paid = sum(ledger.statement(name).paid for name in ("alpha", "beta", "gamma"))
    assert found["ipfl_payments_credits_total",] == paid / MICRO


def test_phases_are_measured_by_the_ledgers_clock(ledger):
    play(ledger)
    found = samples(render(ledger))
    name = "ipfl_round_phase_duration_seconds"
    # collect, refuse, three reports, commit: a second each.
    assert found[f"{name}_sum", "collecting"] == 10
    assert found[f"{name}_count", "collecting"] == 2
    assert found[f"{name}_bucket", "2.5", "collecting"] == 0
    assert found[f"{name}_bucket", "5.0", "collecting"] == 2
    assert found[f"{name}_bucket", "+Inf", "collecting"] == 2
    assert found[f"{name}_count", "inviting"] == 2
    # Round 2 is not delivered yet.
    assert found[f"{name}_count", "delivering"] == 1


def test_a_duration_falls_into_one_bucket_and_a_clock_set_back_makes_none_negative():
    durations = Durations()
    for seconds in (-5.0, BUCKETS_S[0], BUCKETS_S[-1] + 1):
        durations.observe(seconds)
    counts = [count for _, count in durations.buckets()]
    assert counts == [2] * len(BUCKETS_S) + [3]
    assert durations.sum_s == BUCKETS_S[0] + BUCKETS_S[-1] + 1


def test_it_says_whom_a_round_waits_for_and_until_when(ledger):
    play(ledger, rounds=1)
    ledger.deliver(0)
    ledger.open_round(1, [0, 1, 2], 60.0, 2)
    assert ("ipfl_round_deadline_timestamp_seconds",) not in samples(render(ledger))
    ledger.collect(1)
    began = ledger.now[0]
    ledger.report(Report(1, 0, Terms(10, 1.0, 1.0), "digest", leaving=False, metrics={}))
    ledger.refuse(1, 2, "damaged")
    found = samples(render(ledger))
    assert found["ipfl_round_deadline_timestamp_seconds",] == began + 60.0
    assert found["ipfl_round_state_entered_timestamp_seconds",] == began
    of = {name: found[f"ipfl_round_{name}",] for name in ("asked", "replied", "failed", "waiting")}
    assert of == {"asked": 3, "replied": 1, "failed": 1, "waiting": 1}
    awaited = [found["ipfl_institution_awaited", name] for name in ("alpha", "beta", "gamma")]
    assert awaited == [0, 1, 0]
    ledger.now[0] += 1000.0
    ledger.log_event("resumed", "at round 1")
    found = samples(render(ledger))
    assert found["ipfl_round_deadline_timestamp_seconds",] == ledger.now[0] + 60.0
    assert found["ipfl_events_total", "resumed"] == 1


def test_who_left_or_was_expelled_is_not_active(ledger):
    play(ledger, rounds=1)
    ledger.deliver(0)
    ledger.open_round(1, [0, 1, 2], 60.0, 2)
    ledger.collect(1)
    ledger.report(Report(1, 1, Terms(10, 1.0, 1.0), "", leaving=True, metrics={}))
    ledger.expel("gamma", "sold noise")
    found = samples(render(ledger))
    active = [found["ipfl_institution_active", name] for name in ("alpha", "beta", "gamma")]
    assert active == [1, 0, 0]
    assert found["ipfl_institutions",] == 1


def test_more_institutions_than_have_lines_are_summed_under_other(ledger):
    play(ledger)
    registry = CollectorRegistry()
    registry.register(LedgerCollector(ledger, institutions_max=1))
    few, all_ = samples(generate_latest(registry)), samples(render(ledger))
    paid = "ipfl_institution_paid_credits_total"
    assert few[paid, "alpha"] == all_[paid, "alpha"]
    assert few[paid, "other"] == pytest.approx(all_[paid, "beta"] + all_[paid, "gamma"])
    assert {key[1] for key in few if key[0].startswith("ipfl_institution_")} == {"alpha", "other"}
    assert ("ipfl_institution_active", "other") not in few


def test_a_metric_that_an_institution_made_up_is_not_exposed(ledger):
    made_up = rounds.settled(0, rounds.four_terms(), rounds.four_distances(), Rules())
    metrics = ({"fit_seconds": 3.0, "x" * 90: 1.0},) * 4
    made_up = dataclasses.replace(made_up, metrics=metrics)
    rounds.play(ledger, [made_up], {"a": 1})
    text = render(ledger)
    assert samples(text)["ipfl_trainer_fit_seconds", "institution 2"] == 3
    assert b"xxx" not in text


def test_it_says_when_distance_alone_keeps_everyone_from_trading(ledger):
    terms, far = rounds.four_terms(), 0.5 * (1 - np.eye(4))
    too_large, fine = Rules(distance_weight=1e6), Rules(distance_weight=1e-3)
    played = [rounds.settled(n, terms, far, rule) for n, rule in enumerate((fine, too_large))]
    played.append(rounds.settled(2, terms, far, too_large))
    rounds.play(ledger, played, {"distance-weight": 1e6})
    found = samples(render(ledger))
    assert found["ipfl_market_purchases",] == 0
    assert found["ipfl_market_rounds_without_purchases",] == 2
    without = found["ipfl_market_purchases_without_distance",]
    assert without == played[0].clearing.imports.sum() > 0


def test_what_nobody_wants_at_any_price_is_not_the_distances_fault(ledger):
    terms = [Terms(100, 1e9, 1.0) for _ in range(4)]
    played = rounds.settled(0, terms, rounds.four_distances(), Rules())
    rounds.play(ledger, [played], {"distance-weight": 1.0})
    assert samples(render(ledger))["ipfl_market_purchases_without_distance",] == 0


def test_the_reasons_of_abandoned_rounds_are_told_apart(tmp_path, monkeypatch):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        play(ledger)
        short = short_of_quorum(ledger.state(), {}, {0: "alpha"}, 2)
    assert outcome(short.reason) is Outcome.QUORUM
    violation = Violation("balance", (0,), "it is not zero")
    monkeypatch.setattr(settlement_module.market, "check", lambda *_: [violation])
    reports = {i: Report(0, i, Terms(9, 1.0, 1.0), "d", leaving=False, metrics={}) for i in (0, 1)}
    values = {"ledger": "/l", "models-dir": "/m", "initial-model": "/i"}
    with pytest.raises(settlement_module.InvariantError) as raised:
        settlement_module.settle(0, reports, np.eye(2), Settings.read(values))
    assert outcome(str(raised.value)) is Outcome.INVARIANT
    assert outcome("nobody came") is Outcome.OTHER


def test_of_markets_in_which_much_goes_wrong_it_says_what_their_ledgers_say(tmp_path):
    """Quorums are lost, servers die and resume, institutions leave: outcomes and sums still fit."""
    arena = Arena(tmp_path)
    seen = Counter()
    for seed in range(40):
        played = arena.play(Plan.of(seed))
        found = samples(render(played.ledger))
        states = Counter(item.state for item in played.rounds)
        seen += states
        settled = states[State.SETTLED] + states[State.DELIVERED]
        assert found["ipfl_rounds_total", "settled"] == settled, seed
        assert found["ipfl_rounds_total", "quorum"] == states[State.ABANDONED], seed
        edges = sum(item.edges for item in played.rounds)
        assert found["ipfl_purchases_total",] == edges, seed
        volume = sum(item.volume_micro for item in played.rounds)
        assert found["ipfl_payments_credits_total",] == volume / MICRO, seed
        assert found["ipfl_payments_imbalance_credits",] == 0, seed
        for name, balance in played.ledger.balances().items():
            assert found["ipfl_institution_balance_credits", name] == balance / MICRO, seed
    assert min(seen[State.ABANDONED], seen[State.DELIVERED]) > 5
    arena.close()


@pytest.mark.parametrize(
    ("sql", "metric", "value"),
    [
        ("UPDATE outcomes SET utility = utility + 1 WHERE round = 2", "ipfl_ledger_head_fits", 0),
        ("UPDATE chain SET previous = head WHERE round = 2", "ipfl_ledger_head_fits", 0),
        ("UPDATE chain SET head = previous WHERE round = 2", "ipfl_ledger_head_fits", 0),
        ("UPDATE outcomes SET net_micro = net_micro + 7 WHERE institution = 0 AND round = 0",
         "ipfl_payments_imbalance_credits", 7 / MICRO),
    ],
)  # fmt: skip
def test_a_ledger_that_was_tampered_with_shows(tmp_path, sql, metric, value):
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:
        play(ledger)
    with attacker(path) as raw:
        raw.execute(sql)
    with Ledger.open(path, create=False) as ledger:
        verifier = Verifier(ledger, 60.0, clock=lambda: T0)
        registry = market_registry(ledger, verifier)
        assert ("ipfl_ledger_verified",) not in samples(generate_latest(registry))
        verifier.verify()
        found = samples(generate_latest(registry))
    assert found[metric,] == pytest.approx(value)
    assert found["ipfl_ledger_verified",] == 0
    assert sum(value for key, value in found.items() if key[0] == "ipfl_ledger_problems") >= 1
    assert found["ipfl_ledger_verified_timestamp_seconds",] == T0


def test_the_verifier_verifies_beside_and_ends_with_its_context(ledger):
    play(ledger)
    with Verifier(ledger, 0.001) as verifier:
        registry = market_registry(ledger, verifier)
        end, found = time.monotonic() + 30.0, {}
        while ("ipfl_ledger_verified",) not in found and time.monotonic() < end:
            found = samples(generate_latest(registry))
    assert not verifier._thread.is_alive()
    assert found["ipfl_ledger_verified",] == 1


class Lossy:
    """A ledger whose verifications come to what it is made with, one after the other."""

    def __init__(self, *results):
        self.results = list(results)
        self.asked = threading.Event()

    def verify(self):
        found = self.results.pop(0) if self.results else []
        if not self.results:
            self.asked.set()
        if isinstance(found, Exception):
            raise found
        return found


def test_what_can_not_be_read_but_once_is_not_wrong():
    lost = [Problem("readable", "settlements", "server closed the connection")]
    assert Verifier(Lossy(lost, []), 60.0).verify().problems == ()
    assert Verifier(Lossy(lost, lost), 60.0).verify().problems == tuple(lost)
    verifier = Verifier(Lossy([], lost, LedgerError("can't connect")), 60.0)
    before = verifier.verify()
    with pytest.raises(LedgerError, match="can't connect"):
        verifier.verify()
    assert verifier.last is before


@pytest.mark.parametrize("step", ["round_digests", "read_settlement"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_connection_that_is_cut_while_verifying_is_no_damage(postgres, monkeypatch, step, number):
    database = postgres.new_database()
    read, cuts = getattr(verify_module, step), []

    def cut(connection, round_number):
        if round_number == number and not cuts:
            cuts.append(number)
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database}'"
            )
        return read(connection, round_number)

    with Ledger.open(postgres.url(database)) as writer:
        play(writer)
    monkeypatch.setattr(verify_module, step, cut)
    with Ledger.open(postgres.url(database), create=False) as ledger:
        verifier = Verifier(ledger, 60.0)
        with pytest.raises(LedgerError, match="the connection to the server was lost"):
            verifier.verify()
        assert cuts == [number]
        assert verifier.last is None
        assert verifier.verify().problems == ()


def test_who_asks_on_after_the_connection_was_lost_is_told_so(postgres):
    database = postgres.new_database()
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"

    def ask_on(ledger):
        with ledger._read() as connection:
            postgres.execute(cut)
            for _ in range(2):
                with suppress(DBAPIError):
                    connection.exec_driver_sql("SELECT 1")

    with Ledger.open(postgres.url(database)) as ledger:
        with pytest.raises(LedgerError, match="the connection to the server was lost"):
            ask_on(ledger)
        assert ledger.rounds() == []


def test_verifying_goes_on_after_whatever_error():
    lossy = Lossy(IndexError("a row names no institution"), LedgerError("can't connect"), [])
    with Verifier(lossy, 0.001):
        assert lossy.asked.wait(30.0)


def test_a_long_verification_does_not_keep_the_process_from_ending(monkeypatch):
    monkeypatch.setattr(verifier_module, "GRACE_S", 0.01)
    begun, release = threading.Event(), threading.Event()

    class Slow:
        def verify(self):
            begun.set()
            release.wait(60.0)
            return []

    with Verifier(Slow(), 60.0) as verifier:
        assert begun.wait(30.0)
    assert verifier._thread.is_alive()
    assert verifier._thread.daemon
    release.set()
    verifier._thread.join(30.0)
    assert not verifier._thread.is_alive()


def test_a_ledger_that_cannot_be_read_is_a_metric_and_no_error(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.db")
    play(ledger)
    registry = market_registry(ledger, Verifier(ledger, 60.0))
    assert samples(generate_latest(registry))["ipfl_ledger_readable",] == 1
    ledger.close()
    assert samples(generate_latest(registry)) == {("ipfl_ledger_readable",): 0.0}


def test_nothing_is_written(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:
        play(ledger)
    before = path.read_bytes()
    with Ledger.open(path, create=False) as ledger:
        render(ledger)
    assert path.read_bytes() == before
