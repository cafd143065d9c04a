"""Random markets: every receipt of an honest operator passes, any single change is found."""

import dataclasses
from math import inf, nextafter

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounds import settled

from ipfl_flower.ledger import Institution
from ipfl_flower.market import Rules, Terms
from ipfl_flower.notary import Minutes
from ipfl_flower.receipts import SignedReceipt, check, sign, verify_signature

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
TERMS = st.builds(
    Terms,
    samples=st.integers(0, 10_000) | st.sampled_from([1, 10**12]),
    cost=st.floats(0.0, 5.0) | st.sampled_from([0.0, inf]),
    eagerness=st.floats(0.0, 1e7) | st.just(0.0),
    budget=st.floats(0.0, 1e2) | st.just(inf),
)
RULES = st.builds(
    Rules,
    mechanism=st.sampled_from(["truthful", "paper"]),
    distance_weight=st.floats(0.0, 10.0),
    max_volume_ratio=st.floats(0.1, 100.0) | st.just(inf),
    selection=st.sampled_from([None, "greedy", "skip", "exact"]),
    payment=st.sampled_from([None, "marginal", "critical"]),
)


def minutes_of(settlement, number, balances):
    """Write down a round as if it had been committed: heads are made up, balances are not."""
    heads = [f"{n:064x}" for n in range(number + 2)]
    nets = settlement.clearing.net.tolist()
    for i, net in enumerate(nets):
        balances[f"institution {i}"] = balances.get(f"institution {i}", 0) - net
    known = {i: Institution(i, f"institution {i}", bytes([i]), None) for i in range(len(nets))}
    market, previous, head = heads[0], heads[number], heads[number + 1]
    return Minutes(settlement, market, previous, head, known, dict(balances))


@st.composite
def markets(draw):
    """Two rounds of one market: their settlements, and the minutes of both."""
    m, rules = draw(st.integers(1, 5)), draw(RULES)
    rounds, balances = [], {}
    for number in range(2):
        terms = draw(st.lists(TERMS, min_size=m, max_size=m))
        cells = draw(st.lists(st.floats(0.0, 2.0), min_size=m * m, max_size=m * m))
        upper = np.triu(np.array(cells).reshape(m, m), 1)
        settlement = settled(number, terms, upper + upper.T, rules)
        rounds.append(minutes_of(settlement, number, balances))
    return rounds


@settings(max_examples=150, deadline=None)
@given(markets())
def test_every_receipt_of_a_market_passes_and_reads_back(market):
    for i in range(len(market[0].settlement.participants)):
        before = None
        for minutes in market:
            receipt = minutes.receipt(i)
            assert check(receipt, minutes.settlement.terms[i], before) == []
            signed = sign(receipt, KEY)
            assert signed == sign(receipt, KEY)
            read = SignedReceipt.from_json(signed.to_json())
            assert read == signed
            assert verify_signature(read, signed.key)
            assert not verify_signature(dataclasses.replace(read, key=sign(receipt, OTHER_KEY).key))
            before = receipt


def changed_line(draw, lines):
    """Change the amount of one of `lines`."""
    k = draw(st.integers(0, len(lines) - 1))
    amount = draw(st.integers(0, 2**40).filter(lambda value: value != lines[k].amount))
    return (*lines[:k], dataclasses.replace(lines[k], amount=amount), *lines[k + 1 :])


def changed_terms(draw, terms):
    name = draw(st.sampled_from(["samples", "cost", "eagerness", "budget"]))
    value = getattr(terms, name)
    if name == "samples":
        return dataclasses.replace(terms, samples=value + 1)
    other = 1.0 if value == inf else nextafter(value, inf)
    return dataclasses.replace(terms, **{name: other})


@settings(max_examples=300, deadline=None)
@given(markets(), st.data())
def test_any_single_change_of_a_receipt_is_found(market, data):
    i = data.draw(st.integers(0, len(market[0].settlement.participants) - 1))
    first, receipt = (minutes.receipt(i) for minutes in market)
    own = market[1].settlement.terms[i]
    fields = ["terms", "previous", "net", "balance", "round", "rules"]
    fields += ["bought"] * (2 * bool(receipt.bought)) + ["sold"] * (2 * bool(receipt.sold))
    field = data.draw(st.sampled_from(fields))
    value = getattr(receipt, field)
    if field in ("bought", "sold"):
        value = changed_line(data.draw, value)
    elif field == "terms":
        value = changed_terms(data.draw, value)
    elif field == "previous":
        value = data.draw(st.sampled_from([receipt.market, receipt.head, "f" * 64]))
    elif field == "rules":
        value = dataclasses.replace(value, distance_weight=value.distance_weight + 1.0)
    elif field == "round":
        value = 0  # a later round can only be told from the ledger
    else:
        value += data.draw(st.sampled_from([-1, 1]))
    forged = dataclasses.replace(receipt, **{field: value})
    assert check(forged, own, first) != []
    signed = sign(receipt, KEY)
    assert not verify_signature(dataclasses.replace(signed, receipt=forged))


@settings(max_examples=100, deadline=None)
@given(markets(), st.integers(1, 10**6))
def test_a_buyer_finds_prices_outside_what_the_market_can_ask_even_if_the_sums_agree(market, more):
    for i in range(len(market[0].settlement.participants)):
        receipt = market[0].receipt(i)
        extra = more if receipt.rules.payment == "marginal" else 10**13
        for line in receipt.bought:
            dearer = dataclasses.replace(line, amount=line.amount + extra)
            forged = dataclasses.replace(
                receipt,
                bought=tuple(dearer if item == line else item for item in receipt.bought),
                net=receipt.net + extra,
                balance=receipt.balance - extra,
            )
            findings = check(forged, receipt.terms)
            assert any(f"pays {line.seller} " in finding for finding in findings)
