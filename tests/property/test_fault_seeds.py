"""Thousands of small markets over a Grid that loses, delays and damages: the ledger holds in all.

IPFL_FAULT_SEEDS=10000 IPFL_FAULT_OFFSET=50000 pytest tests/property/test_fault_seeds.py
"""

import os
import re
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from support.fault_markets import (
    ABSENCE_S,
    DEADLINE_S,
    JOIN_S,
    NAMES,
    Arena,
    Market,
    Plan,
)
from support.institutions import theta0

from ipfl_flower.audit import audit
from ipfl_flower.ledger import State
from ipfl_flower.models import Layout
from ipfl_flower.models.layout import model_digest
from ipfl_flower.receipts import SignedReceipt, Stored, check
from ipfl_flower.receipts.encoding import canonical

SEEDS = int(os.environ.get("IPFL_FAULT_SEEDS", "2000"))
OFFSET = int(os.environ.get("IPFL_FAULT_OFFSET", "0"))
BLOCK = 250
LAYOUT = Layout.of(theta0())
# What happens in every whole block, by far: a fault that never happens tests nothing.
HAPPENS = (
    *("delay", "drop", "duplicate", "corrupt", "stray", "offline", "back", "resent", "failed"),
    *("left", "nan", "huge", "unchanged", "death", "resumed", "calm"),
    *("DELIVERED", "ABANDONED", "market error", "undelivered"),
)


@pytest.fixture(scope="module")
def arena():
    """Ledger and banks in memory, where there is a file system for that; banks are not synced."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(dir=memory) as folder:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "fdatasync", lambda _: None)
        made = Arena(Path(folder))
        yield made
        made.close()


@contextmanager
def named(seed):
    """Say in every failure which seed it was, and how to play that one alone."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"seed {seed}: {error or type(error).__name__}; play it alone: "
            f"IPFL_FAULT_SEEDS=1 IPFL_FAULT_OFFSET={seed} pytest tests/property/test_fault_seeds.py"
        ) from error


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(OFFSET, OFFSET + SEEDS, BLOCK))
def test_whatever_happens_the_ledger_holds(arena, first):
    happened = Counter()
    for seed in range(first, min(first + BLOCK, OFFSET + SEEDS)):
        with named(seed):
            plan = Plan.of(seed)
            outcome = arena.play(plan)
            happened += outcome.happened
            check_ledger(outcome)
            check_reports(outcome)
            check_receipts(outcome)
            check_deliveries(outcome)
            check_end(outcome)
            if plan.calm:
                head = outcome.ledger.head()
                assert head == undisturbed_head(arena, plan.market), "another chain"
    if SEEDS >= BLOCK:
        assert [kind for kind in HAPPENS if not happened[kind]] == []


@cache
def undisturbed_head(arena: Arena, market: Market) -> str:
    return arena.play(Plan(0, market)).ledger.head()


def check_ledger(outcome):
    """The books balance, every state is legal, and each settled round was settled once."""
    ledger = outcome.ledger
    assert ledger.verify() == []
    assert sum(ledger.balances().values()) == 0
    settled = {item.number: item for item in outcome.rounds if item.number in outcome.settlements}
    assert {number: {item.head} for number, item in settled.items()} == outcome.heads
    for item in outcome.rounds:
        assert item.state in (State.DELIVERED, State.ABANDONED), item
    for number, item in settled.items():
        assert item.volume_micro == outcome.settlements[number].clearing.transfers.sum()


def check_reports(outcome):
    """What counts in a round is what an institution said in that round, and no other."""
    for item in outcome.rounds:
        for report in outcome.ledger.reports(item.number):
            name = NAMES[report.institution]
            institution = outcome.institutions[name]
            assert report.terms == institution.terms
            assert report.leaving == (outcome.plan.leaves.get(name) == item.number)
            if not report.leaving:
                models = institution.sent[item.number]
                assert report.model_digest in {model_digest(LAYOUT, model) for model in models}
                assert all(np.isfinite(v).all() for model in models for v in model.values())


def check_receipts(outcome):
    """Every receipt is the ledger's, fits what the institution knows, and is the only one."""
    files = []
    for name, institution in outcome.institutions.items():
        texts = {canonical(dict(request.statement)) for request in institution.requests}
        signed = [SignedReceipt.from_json(text) for text in sorted(texts - {"{}"})]
        receipts = sorted((item.receipt for item in signed), key=lambda receipt: receipt.round)
        assert len({receipt.round for receipt in receipts}) == len(receipts)
        assert {receipt.institution for receipt in receipts} <= {name}
        for previous, receipt in zip([None, *receipts], receipts, strict=False):
            assert check(receipt, institution.terms, previous) == []
        files += [Stored(Path(name), item, (), alarm=False) for item in signed]
    assert audit(outcome.ledger, files) == []


def check_deliveries(outcome):
    """Who paid gets its centre, or the ledger says that it has not; nobody gets one unpaid."""
    bought: dict[str, list[int]] = {name: [] for name in outcome.institutions}
    latest: dict[str, int] = {}
    for number, settlement in outcome.settlements.items():
        for position, i in enumerate(settlement.participants):
            latest[NAMES[i]] = number
            if settlement.clearing.imports[position].any():
                bought[NAMES[i]].append(number)
    undelivered = {e.text for e in outcome.events if e.kind == "undelivered"}
    for name, institution in outcome.institutions.items():
        centres = [r.round for r in institution.requests if r.role == "centre"]
        for number in centres:
            assert any(paid < number for paid in bought[name]), f"{name}: a centre nobody paid"
        if name in latest and latest[name] in bought[name]:
            came = any(number > latest[name] for number in centres)
            assert came or f"{name} has not taken its centre" in undelivered, name
    if not undelivered:
        assert outcome.models_left == []


def check_end(outcome):
    """It ended within its deadlines, and if before its last round, it said why."""
    rounds, market = outcome.rounds, outcome.plan.market
    a_round = DEADLINE_S + ABSENCE_S + JOIN_S + 5.0
    assert outcome.grid.now <= outcome.lives * (market.rounds + 1) * a_round
    if outcome.said is not None:
        last = outcome.ledger.state()
        absent = re.match(r"\d of \d institutions came within 10 s", outcome.said)
        assert absent or last.detail == outcome.said, outcome.said
    elif len(rounds) < market.rounds:
        assert outcome.happened["ended early"], "it ended early without a word"
    else:
        assert [item.number for item in rounds] == list(range(market.rounds))
