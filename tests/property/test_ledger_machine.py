"""The ledger beside a model of plain dicts: whatever is said, repeated, refused or restarted."""

import dataclasses
import shutil
import tempfile
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ipfl_flower.ledger import Ledger, LedgerError, Report, Settlement, State
from ipfl_flower.market import Rules, Terms, clear

INSTITUTIONS_MAX = 6
TERMS = st.builds(
    Terms,
    samples=st.sampled_from([0, 50, 400]),
    cost=st.sampled_from([0.0, 0.125, 1.0]),
    eagerness=st.sampled_from([0.0, 1e4, 1e6]),
    budget=st.sampled_from([0.0, 3.0, float("inf")]),
)
SEALED = (State.SETTLED, State.DELIVERED, State.ABANDONED)


def settlement_of(number, reports, seed):
    """Clear the market of those who reported, at distances of a seed."""
    m = len(reports)
    upper = np.triu(np.random.default_rng(seed).uniform(0.0, 0.3, (m, m)), 1)
    terms = tuple(r.terms for r in reports)
    active = np.array([not r.leaving for r in reports], dtype=bool)
    distances = upper + upper.T
    return Settlement(
        round=number,
        participants=tuple(r.institution for r in reports),
        terms=terms,
        distances=distances,
        active=active,
        rules=Rules(),
        clearing=clear(terms, distances, Rules(), active),
        model_digests=tuple(r.model_digest for r in reports),
        metrics=tuple(r.metrics for r in reports),
    )


class LedgerMachine(RuleBasedStateMachine):
    """Every step a server may take, in any order; the ledger's file is all that a restart keeps."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "0" / "ledger.db"
        self.path.parent.mkdir()
        self.lives = 1
        self.ledger = Ledger.open(self.path)
        self.names = []
        self.rounds = []  # a dict each: state, asked, quorum, reports, failed, head
        self.lines = {}  # name -> [(round, counterparty, direction, amount)]
        self.acknowledged = {}
        self.said = []  # (step, arguments, result, (round, state) in which alone it repeats)

    def teardown(self):
        assert self.ledger.verify() == []
        self.ledger.close()
        self.folder.cleanup()

    # --- helpers ----------------------------------------------------------------------------------

    def say(self, step, *arguments, only_in=None):
        result = getattr(self.ledger, step)(*arguments)
        self.said.append((step, arguments, result, only_in))
        return result

    def view(self):
        """Return all that a reader can see."""
        see = self.ledger
        return (
            see.institutions(),
            [see.state(n) for n in range(len(self.rounds))],
            see.state(),
            see.rounds(),
            [see.reports(n) for n in range(len(self.rounds))],
            see.head(),
            [see.statement(name) for name in self.names],
            see.acknowledgements(),
            see.last_heard(),
        )

    def refused(self, step, *arguments):
        with pytest.raises(LedgerError) as caught:
            getattr(self.ledger, step)(*arguments)
        assert "\n" not in str(caught.value)

    @contextmanager
    def nothing_changes(self):
        before = self.view()
        yield
        assert self.view() == before

    @property
    def last(self):
        return self.rounds[-1] if self.rounds else None

    def last_is(self, *states):
        return self.last is not None and self.last["state"] in states

    def reports_of_last(self):
        return [self.last["reports"][i] for i in sorted(self.last["reports"])]

    # --- steps ------------------------------------------------------------------------------------

    @initialize(leaver=st.sampled_from([None, 0, 2]), seed=st.integers(0, 9))
    def begin(self, leaver, seed):
        """Begin with a round that has a bit of everything: chance alone seldom gets so far."""
        self.say("begin", {"market": "of a test"})
        for _ in range(5):
            self.enrol()
        self.open_for((0, 1, 2, 3), 3)
        self.collect()
        for i in range(3):
            self.settle(seed)  # refused: below the quorum
            self.tell(i, Terms(50 + i, 0.125, 1e6), leaving=i == leaver)
            with self.nothing_changes():
                self.come_uninvited()
                self.hurry()
        self.fail(0)  # its first reply counts all the same
        self.fail(3)
        self.settle(seed)
        assert any(self.lines.values())
        self.open_for((0, 1, 2), 2)
        self.collect()  # refused until the round before is delivered

    @precondition(lambda self: len(self.names) < INSTITUTIONS_MAX)
    @rule()
    def enrol(self):
        number = len(self.names)
        name = f"institution {number}"
        assert self.say("enrol", name, bytes([number])) == number
        self.names.append(name)
        self.lines[name] = []

    @rule(data=st.data())
    def go_on(self, data):
        """Take the next step of the round's own path: one rule, so that examples get far."""
        if self.last_is(State.OPEN):
            self.collect()
        elif self.last_is(State.COLLECTING):
            self.settle(data.draw(st.integers(0, 9)))
        else:
            self.open_round(data)

    def open_round(self, data):
        everybody = range(len(self.names))
        some = st.sets(st.sampled_from(everybody)) | st.just({*everybody})
        asked = tuple(sorted(data.draw(some)))
        self.open_for(asked, data.draw(st.integers(0, min(2, len(asked)))))

    def open_for(self, asked, quorum):
        number = len(self.rounds)
        self.say("open_round", number, asked, 10.0, quorum, only_in=(number, State.OPEN))
        self.rounds.append(
            {
                "state": State.OPEN,
                "asked": asked,
                "quorum": quorum,
                "reports": {},
                "failed": {},
                "head": None,
            }
        )

    def collect(self):
        number = len(self.rounds) - 1
        if any(known["state"] is State.SETTLED for known in self.rounds):
            with self.nothing_changes():
                self.refused("collect", number)
            self.deliver()
        self.say("collect", number, only_in=(number, State.COLLECTING))
        self.last["state"] = State.COLLECTING

    @precondition(lambda self: self.last_is(State.COLLECTING) and self.last["asked"])
    @rule(data=st.data())
    def report(self, data):
        for i in sorted(data.draw(st.sets(st.sampled_from(self.last["asked"]), min_size=1))):
            self.tell(i, data.draw(TERMS), leaving=data.draw(st.sampled_from([False, False, True])))

    def tell(self, i, terms, *, leaving):
        number = len(self.rounds) - 1
        new = Report(number, i, terms, f"model {number}/{i}", leaving, {"loss": 0.5})
        if self.last["reports"].get(i, new) == new:
            self.say("report", new)
            self.last["reports"][i] = new
        else:
            self.refused("report", new)

    @precondition(lambda self: self.last_is(State.OPEN, State.COLLECTING) and self.last["asked"])
    @rule(data=st.data())
    def refuse(self, data):
        self.fail(data.draw(st.sampled_from(self.last["asked"])))

    def fail(self, i):
        number = len(self.rounds) - 1
        self.say("refuse", number, i, f"{i} failed")
        self.last["failed"][i] = f"{i} failed"

    def settle(self, seed):
        number = len(self.rounds) - 1
        settlement = settlement_of(number, self.reports_of_last(), seed)
        with self.nothing_changes():
            self.settle_something_else()
        if len(self.last["reports"]) < self.last["quorum"]:
            self.refused("commit", settlement)
            return
        self.last["head"] = self.say("commit", settlement)
        self.last["state"] = State.SETTLED
        cleared, ids = settlement.clearing, settlement.participants
        for buyer, seller in np.argwhere(cleared.imports):
            amount = int(cleared.transfers[buyer, seller])
            payer, payee = self.names[ids[buyer]], self.names[ids[seller]]
            self.lines[payer].append((number, payee, "paid", amount))
            self.lines[payee].append((number, payer, "earned", amount))
        self.come_too_late()

    @precondition(lambda self: self.last_is(State.OPEN, State.COLLECTING))
    @rule()
    def abandon(self):
        number = len(self.rounds) - 1
        self.last["head"] = self.say("abandon", number, "stopped")
        self.last["state"] = State.ABANDONED
        self.come_too_late()

    @precondition(lambda self: any(known["state"] is State.SETTLED for known in self.rounds))
    @rule()
    def deliver(self):
        states = [known["state"] for known in self.rounds]
        number = states.index(State.SETTLED)
        self.say("deliver", number)
        self.rounds[number]["state"] = State.DELIVERED

    @rule(data=st.data(), loss=st.floats(allow_nan=False))
    def acknowledge(self, data, loss):
        i = data.draw(st.sampled_from(range(len(self.names))))
        self.ledger.acknowledge(len(self.rounds), i, {"loss": loss})
        self.acknowledged[i] = {"loss": loss}

    # --- crashes, replays, nonsense ---------------------------------------------------------------

    @rule(crash=st.booleans())
    def restart(self, crash):
        with self.nothing_changes():
            if crash:  # what lies on the disk at this moment is all that is left
                there = Path(self.folder.name) / str(self.lives)
                self.path = shutil.copytree(self.path.parent, there) / self.path.name
                self.lives += 1
            self.ledger.close()
            self.ledger = Ledger.open(self.path, create=False)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def replay(self, data):
        step, arguments, result, only_in = data.draw(st.sampled_from(self.said))
        if only_in is not None and self.rounds[only_in[0]]["state"] is not only_in[1]:
            self.refused(step, *arguments)
            return
        with self.nothing_changes():
            assert getattr(self.ledger, step)(*arguments) == result

    @rule(data=st.data())
    def talk_nonsense(self, data):
        with self.nothing_changes():
            self.enrol_as_another(data)
            self.skip_a_round()
            self.come_uninvited()
            self.settle_again()
            if self.last_is(State.OPEN, State.COLLECTING):
                self.hurry()

    def enrol_as_another(self, data):
        name = data.draw(st.sampled_from(self.names))
        self.refused("enrol", name, b"another key")
        self.refused("enrol", "another name", bytes([self.names.index(name)]))

    def skip_a_round(self):
        self.refused("open_round", len(self.rounds) + 1, (), 10.0, 0)
        self.refused("collect", len(self.rounds))
        self.refused("begin", {"market": "another"})

    def come_uninvited(self):
        """Who joined after a round was opened, or was not asked, is not in it."""
        number = len(self.rounds) - 1
        for i in range(len(self.names)):
            if i not in self.last["asked"]:
                uninvited = Report(number, i, Terms(7, 0.5, 0.25), "x", leaving=False, metrics={})
                self.refused("report", uninvited)
                self.refused("refuse", number, i, "it was not asked")

    def settle_again(self):
        """A round is settled once: not with other distances, and not without one of its reports."""
        for number, known in enumerate(self.rounds):
            if known["state"] not in SEALED:
                continue
            reports = [known["reports"][i] for i in sorted(known["reports"])]
            other = settlement_of(number, reports, 10)
            if len(reports) > 1 or known["state"] is State.ABANDONED:
                self.refused("commit", other)
            if reports:
                self.refused("commit", settlement_of(number, reports[1:], 0))

    def hurry(self):
        number = len(self.rounds) - 1
        self.refused("open_round", number + 1, (), 10.0, 0)
        self.refused("deliver", number)
        if self.last_is(State.OPEN):
            self.refused("commit", settlement_of(number, [], 0))

    def come_too_late(self):
        with self.nothing_changes():
            self.say_what_is_too_late()

    def say_what_is_too_late(self):
        number, asked = len(self.rounds) - 1, self.last["asked"]
        self.refused("collect", number)
        self.refused("abandon", number, "another reason")
        for i in asked:
            late = Report(number, i, Terms(7, 0.5, 0.25), "late", leaving=False, metrics={})
            self.refused("report", late)
            self.refused("refuse", number, i, "another reason")

    def settle_something_else(self):
        number, reports = len(self.rounds) - 1, self.reports_of_last()
        if not reports:
            return
        right = settlement_of(number, reports, 0)
        self.refused("commit", settlement_of(number, reports[1:], 0))
        self.refused("commit", dataclasses.replace(right, model_digests=("x",) * len(reports)))
        net = right.clearing.net.copy()
        net[0] += 1
        paid = dataclasses.replace(right.clearing, net=net)
        self.refused("commit", dataclasses.replace(right, clearing=paid))

    # --- what must hold after every step ----------------------------------------------------------

    @invariant()
    def rounds_agree(self):
        summaries = self.ledger.rounds()
        assert [s.state for s in summaries] == [known["state"] for known in self.rounds]
        assert [s.head for s in summaries] == [known["head"] for known in self.rounds]
        for number, known in enumerate(self.rounds):
            state = self.ledger.state(number)
            reported = {*known["reports"]}
            assert state.asked == known["asked"]
            assert state.reported == tuple(sorted(reported))
            assert state.failed == {i: w for i, w in known["failed"].items() if i not in reported}
            gone = reported | {*known["failed"]}
            assert state.waiting == tuple(i for i in known["asked"] if i not in gone)
            assert {r.institution: r for r in self.ledger.reports(number)} == known["reports"]

    @invariant()
    def accounts_agree(self):
        expected = {}
        for name in self.names:
            statement = self.ledger.statement(name)
            lines = [
                (s.round, s.counterparty, s.direction, s.amount_micro) for s in statement.lines
            ]
            assert lines == self.lines[name]
            signs = {"paid": -1, "earned": 1}
            amounts = [signs[how] * amount for _, _, how, amount in lines]
            assert [s.balance_micro for s in statement.lines] == list(accumulate(amounts))
            expected[name] = sum(amounts)
            assert statement.balance == expected[name]
        assert self.ledger.balances() == expected
        assert sum(expected.values()) == 0
        assert self.ledger.acknowledgements() == self.acknowledged


LedgerMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)


TestLedgerMachine = LedgerMachine.TestCase
