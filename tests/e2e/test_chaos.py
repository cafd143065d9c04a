"""Real processes are killed at random moments of a real market; see support/chaos.py.

A bounded number here, for as long as you like with ``make chaos MINUTES=10``.
"""

import random
import time

import pytest
from support.chaos import chaos

from ipfl_flower.cli.demo import DemoOptions

KILLS = 5
ROUNDS = 12


@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_a_market_survives_random_kills(tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)  # with which `make chaos ARGS='--seed …'` begins
    options = DemoOptions(rounds=ROUNDS, institutions=3)
    until = time.monotonic() + 300
    killed, rounds = chaos(tmp_path, options, seed, KILLS, 5.0, until, print)
    assert killed.total() == KILLS
    assert rounds == ROUNDS
