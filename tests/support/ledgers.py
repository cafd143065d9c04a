"""A small market of three institutions in a ledger."""

import numpy as np

from ipfl_flower.ledger import Report, Settlement
from ipfl_flower.market import Rules, Terms, clear

RULES = Rules()
NAMES = ("alpha", "beta", "gamma")


def play(ledger, rounds=4):
    """Settle round 0, abandon round 1, settle round 2, and leave round 3 open."""
    ledger.begin({"mechanism": "truthful"})
    for name in NAMES:
        ledger.enrol(name, name.encode(), samples_cap=1000)
    for number in range(rounds):
        ledger.open_round(number, [0, 1, 2], 30.0, 2)
        if number == 3:
            return
        if number == 1:
            ledger.abandon(1, "nobody came")
            continue
        if number == 2:
            ledger.deliver(0)
        settle(ledger, number)


def settle(ledger, number):
    """Bring an open round to SETTLED."""
    ledger.collect(number)
    ledger.refuse(number, 2, "a damaged reply")
    terms = tuple(Terms(100 + 10 * i, 1.0, 1e5, 100.0) for i in range(3))
    for i in range(3):
        ledger.report(Report(number, i, terms[i], f"digest-{i}", False, {"loss": 0.5}))
    distances = 0.25 * (1 - np.eye(3))
    active = np.ones(3, bool)
    clearing = clear(terms, distances, RULES, active)
    assert clearing.transfers.any()
    digests = tuple(f"digest-{i}" for i in range(3))
    metrics = ({"loss": 0.5},) * 3
    arguments = (tuple(range(3)), terms, distances, active, RULES, clearing, digests, metrics)
    ledger.commit(Settlement(number, *arguments))
