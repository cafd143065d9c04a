"""The console of a market, and who asks it: nobody, the operator, an institution.

A test file names the fixtures that it takes: ``file = console_clients.file``.
"""

import pytest
from fastapi.testclient import TestClient
from support import console_market as cm

from ipfl_flower.console.access import Gate, digest_of
from ipfl_flower.console.app import make_app
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger

OPERATOR, ALDER = "the-operators-token-" * 2, "the-token-of-alder-" * 2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("api") / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger)
    return file


@pytest.fixture(scope="module")
def app(file):
    gate = Gate([digest_of(OPERATOR)], {digest_of(ALDER): "alder"})
    with Ledger.open(file, create=False) as ledger:
        yield make_app(gate, Follower(ledger, str(file), verify=False))


@pytest.fixture
def nobody(app):
    with TestClient(app, base_url="http://market.example") as client:
        yield client


@pytest.fixture
def operator(nobody):
    nobody.headers["Authorization"] = f"Bearer {OPERATOR}"
    return nobody


@pytest.fixture
def alder(nobody):
    nobody.headers["Authorization"] = f"Bearer {ALDER}"
    return nobody
