"""Whole rounds in a ledger, without messages: for tests of what is read from it."""

import numpy as np

from ipfl_flower.ledger import Report, Settlement
from ipfl_flower.market import Terms, clear


def settled(number, terms, distances, rules):
    """Return a settlement in which everybody in `terms` takes part."""
    m = len(terms)
    active = np.ones(m, bool)
    return Settlement(
        round=number,
        participants=tuple(range(m)),
        terms=tuple(terms),
        distances=distances,
        active=active,
        rules=rules,
        clearing=clear(terms, distances, rules, active),
        model_digests=tuple(f"model {number}/{i}" for i in range(m)),
        metrics=({},) * m,
    )


def play(ledger, settlements, settings, *, abandoned=()):
    """Settle rounds in a ledger, one after another; those in `abandoned` come to nothing."""
    count = len(settlements[0].participants)
    ledger.begin(settings)
    for i in range(count):
        ledger.enrol(f"institution {i}", f"key of institution {i}".encode())
    for number, settlement in enumerate(settlements):
        ledger.open_round(number, range(count), 10.0, 0)
        if number in abandoned:
            ledger.abandon(number, "stopped")
            continue
        ledger.collect(number)
        for i, terms in enumerate(settlement.terms):
            digest, metrics = settlement.model_digests[i], settlement.metrics[i]
            ledger.report(Report(number, i, terms, digest, leaving=False, metrics=metrics))
        ledger.commit(settlement)
        ledger.deliver(number)


def four_terms(cost=0.125):
    return [Terms(100 + 40 * i, cost + 0.125 * i, 2e4) for i in range(4)]


def four_distances(number=0):
    rng = np.random.default_rng(number)
    upper = np.triu(rng.uniform(0.0, 0.3, (4, 4)), 1)
    return upper + upper.T
