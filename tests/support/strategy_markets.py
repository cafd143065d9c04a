"""Markets of four institutions, played by the strategy over a fake Grid.

A test file names the fixture: ``market = strategy_markets.market``.
"""

import pytest
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0

from ipfl_flower.ledger import Ledger
from ipfl_flower.protocol import array_record
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL

NAMES = ["alder", "birch", "cedar", "elm"]


@pytest.fixture
def market(tmp_path):
    """Run a market of institutions over a fake Grid; return the grid and the open ledger."""
    ledgers = []

    def run(institutions, *, prepare=None, **values):
        grid = FakeGrid(institutions)
        folder = tmp_path / str(len(ledgers))
        settings = Settings.read(
            {
                "rounds": 3,
                "quorum": 1,
                "institutions-min": len(institutions),
                "deadline-s": 60.0,
                "ledger": str(folder / "ledger.db"),
                "models-dir": str(folder / "models"),
                "initial-model": str(folder / "theta0.npz"),
                "receipt-key": str(tmp_path / "receipt.key"),
                **values,
            }
        )
        folder.mkdir()
        ledger = Ledger.open(settings.ledger)
        ledgers.append(ledger)
        if prepare is not None:
            prepare(grid, ledger)
        IPFL(settings, ledger, grid.clock).start(grid, array_record(theta0()))
        return grid, ledger

    yield run
    for ledger in ledgers:
        ledger.close()


def four(**of_one):
    """Return four institutions in two groups; `of_one` changes the first."""
    return {name: FakeInstitution(i, **(of_one if i == 0 else {})) for i, name in enumerate(NAMES)}


def silence(grid, name):
    """Let a node take messages and answer none."""
    node = next(node.node_id for node in grid.nodes.values() if node.name == name)
    answer = grid._answer
    grid._answer = lambda message: None if message.metadata.dst_node_id == node else answer(message)
