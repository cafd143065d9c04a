"""A market with something of everything, for what shows markets: all cleared for real.

Nine institutions. After round 0: elm's budget is nothing, fir does not sell, hazel does not buy,
yew leaves, larch has no samples, oak has no model that could be traded. Round 2 is abandoned, in
round 3 cedar's reply is refused, and round 5 is waiting for birch.
"""

from math import inf, nan

import numpy as np

from ipfl_flower.ledger import Report, Settlement
from ipfl_flower.market import Rules, Terms, clear

NAMES = ("alder", "birch", "cedar", "elm", "fir", "hazel", "larch", "oak", "yew")
ALDER, BIRCH, CEDAR, ELM, FIR, HAZEL, LARCH, OAK, YEW = range(len(NAMES))
WAITING_FOR = "birch"
DEADLINE_S = 600.0


def terms(selective=True):
    """Return everybody's terms; without `selective` they are all alike but for volume and cost."""
    found = [Terms(100 + 30 * i, 0.05 + 0.05 * i, 2e4, 100.0) for i in range(len(NAMES))]
    if selective:
        found[ELM] = Terms(190, 0.2, 2e4, 0.001)
        found[FIR] = Terms(220, inf, 2e4, 100.0)
        found[HAZEL] = Terms(250, 0.3, 0.0, 100.0)
        found[LARCH] = Terms(0, 0.3, 2e4, 100.0)
    return tuple(found)


def distances(number):
    """Return distances of two groups, those of even id and those of odd id."""
    m = len(NAMES)
    rng = np.random.default_rng(number)
    apart = 0.05 + 0.5 * (np.add.outer(np.arange(m), np.arange(m)) % 2)
    upper = np.triu(apart * rng.uniform(0.8, 1.2, (m, m)), 1)
    found = upper + upper.T
    found[OAK, :] = found[:, OAK] = nan
    return found


def metrics(number, institution):
    """Return accuracies that rise; oak shares none."""
    if institution == OAK:
        return {}
    trained = 0.55 + 0.03 * institution + 0.3 * (1 - 0.7**number) - 0.02 * (number % 2)
    best = 0.55 + 0.03 * institution + 0.3 * (1 - 0.7**number)
    return {"test_accuracy": trained, "best_test_accuracy": best, "fit_seconds": 1.5}


def settlement(number, missing=(), rules=None):
    """Clear a round for real."""
    ids = tuple(i for i in range(len(NAMES)) if i not in missing)
    index = np.ix_(ids, ids)
    everybody = terms(selective=number > 0)
    chosen, apart = tuple(everybody[i] for i in ids), distances(number)[index]
    active = np.array([not (number and i == YEW) for i in ids])
    rules = Rules(distance_weight=5.0) if rules is None else rules
    return Settlement(
        round=number,
        participants=ids,
        terms=chosen,
        distances=apart,
        active=active,
        rules=rules,
        clearing=clear(chosen, apart, rules, active),
        model_digests=tuple(f"model {number}/{i}" for i in ids),
        metrics=tuple(metrics(number, i) for i in ids),
    )


def report(ledger, found):
    """Report what a settlement is made of, in a round that is collecting."""
    for k, i in enumerate(found.participants):
        parts = found.terms[k], found.model_digests[k], not found.active[k], found.metrics[k]
        ledger.report(Report(found.round, i, *parts))


def settle(ledger, found):
    """Report and commit a round that is collecting."""
    report(ledger, found)
    ledger.commit(found)


def begin(ledger):
    """Enrol everybody."""
    ledger.begin({"mechanism": "truthful"})
    for name in NAMES:
        ledger.enrol(name, f"key of {name}".encode())


def play(ledger, rounds=5):
    """Play `rounds` rounds, and leave one more waiting for birch."""
    begin(ledger)
    everybody = range(len(NAMES))
    for number in range(rounds):
        ledger.open_round(number, everybody, DEADLINE_S, 2)
        if number == 2:
            ledger.abandon(2, "the operator stopped it")
            continue
        ledger.collect(number)
        if number == 3:
            ledger.refuse(3, CEDAR, "tensor 'w' is missing")
        settle(ledger, settlement(number, missing=(CEDAR,) if number == 3 else ()))
        ledger.deliver(number)
    ledger.open_round(rounds, everybody, DEADLINE_S, 2)
    ledger.collect(rounds)
    report(ledger, settlement(rounds, missing=(BIRCH,)))
    ledger.expel("yew", "sold noise")
