"""The server is really killed before and after every write, fsync, commit and send, then resumed.

Crash points are found, not placed: a first run counts every call that changes something outside the
process; then the market is run once for each of them, and killed there.
"""

import os
import shutil
import signal
import sqlite3

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0

from ipfl_flower.ledger import Ledger
from ipfl_flower.protocol import array_record
from ipfl_flower.receipts import load_or_make_key
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL

NAMES = ["alder", "birch"]
CALLS = ["pwrite", "fsync", "fdatasync", "replace", "link", "unlink", "ftruncate"]
# One of this many points is tried, another choice with each value of IPFL_CRASH_OFFSET.
STRIDE = int(os.environ.get("IPFL_CRASH_STRIDE", "3"))
OFFSET = int(os.environ.get("IPFL_CRASH_OFFSET", "0"))


class Points:
    """Names the crash points as they are passed, and kills the process at one of them."""

    def __init__(self, kill_at):
        self.kill_at = kill_at
        self.passed = []

    def __call__(self, name):
        if len(self.passed) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(name)

    def around(self, owner, name):
        real = getattr(owner, name)

        def call(*arguments, **named):
            self(f"before {name}")
            result = real(*arguments, **named)
            self(f"after {name}")
            return result

        setattr(owner, name, call)


def play(folder, points, *, resume):
    """Run the market in this process, from the start or from where it stands."""
    for name in CALLS:
        points.around(os, name)
    event.listen(Engine, "commit", lambda _: points("before commit"))
    institutions = {}
    for i, name in enumerate(NAMES):
        disk = folder / name
        disk.mkdir(exist_ok=True)
        institutions[name] = FakeInstitution(seed=2 * i, disk=disk)
    grid = FakeGrid(institutions)
    points.around(grid, "push_messages")
    settings = Settings.read(
        {
            "rounds": 2,
            "ledger": str(folder / "ledger.db"),
            "models-dir": str(folder / "models"),
            "initial-model": str(folder / "theta0.npz"),
            "resume": resume,
        }
    )
    with Ledger.open(settings.ledger, clock=lambda: 0.0) as ledger:
        IPFL(settings, ledger, grid.clock).start(grid, array_record(theta0()))
        points("end")


def in_a_child(folder, *, kill_at=None, resume=False):
    """Play in a process of its own; return the points it passed, or None if it was killed."""
    record = folder / "points"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            points = Points(kill_at)
            play(folder, points, resume=resume)
            record.write_text("\n".join(points.passed))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.waitstatus_to_exitcode(status) == 0
    return record.read_text().split("\n")


def contents(folder):
    """Return every row of the ledger, but for the events that tell of the crash itself."""
    connection = sqlite3.connect(folder / "ledger.db")
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    rows = {
        table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}")))
        for table in sorted(tables)
        if table != "events"
    }
    connection.close()
    return rows


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """The operator's key, the same for all: it is part of the market, and so of the chain."""
    file = tmp_path_factory.mktemp("key") / "receipt.key"
    load_or_make_key(file)
    return file


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, key):
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(key, folder)
    points = in_a_child(folder)
    return points, contents(folder)


def test_the_points_are_before_and_after_every_kind_of_change(undisturbed):
    points, rows = undisturbed
    for name in ("pwrite", "fdatasync", "fsync", "push_messages", "unlink"):
        assert f"before {name}" in points
        assert f"after {name}" in points
    assert points.count("before commit") > 15
    assert len(rows["settlements"]) == 2
    assert len(rows["entries"]) > 0


@pytest.mark.timeout(600)
def test_a_market_killed_anywhere_ends_with_the_same_ledger(undisturbed, key, tmp_path):
    points, expected = undisturbed
    tried = range(OFFSET % STRIDE, len(points), STRIDE)
    assert len(tried) > 10
    for kill_at in tried:
        where = f"killed {points[kill_at]} (point {kill_at} of {len(points)})"
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        shutil.copy(key, folder)
        assert in_a_child(folder, kill_at=kill_at) is None, where
        in_a_child(folder, resume=True)
        assert contents(folder) == expected, where
        with Ledger.open(folder / "ledger.db", create=False) as ledger:
            assert ledger.verify() == [], where
        assert list((folder / "models").iterdir()) == [], where


def test_a_market_killed_again_and_again_ends_with_the_same_ledger(undisturbed, key, tmp_path):
    points, expected = undisturbed
    shutil.copy(key, tmp_path)
    rng = np.random.default_rng(3)
    deaths = 0
    while in_a_child(tmp_path, kill_at=int(rng.integers(5, len(points) // 2)), resume=True) is None:
        deaths += 1
        assert deaths < 100
    assert deaths > 2
    assert contents(tmp_path) == expected
