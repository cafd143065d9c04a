"""Time to commit a round of 100 institutions with some 10⁴ transfers, and to verify and read it.

On SQLite, and on a PostgreSQL server that is started for it, which like SQLite waits for the disk
at each commit.

Usage: python benchmarks/bench_ledger.py [ROUNDS]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ipfl_flower.ledger import Ledger, Report, Settlement
from ipfl_flower.market import Rules, Terms, clear

INSTITUTIONS = 100


def make(number: int, rng: np.random.Generator) -> tuple[list[Report], Settlement]:
    """Make a round in which almost everybody buys from everybody."""
    m = INSTITUTIONS
    terms = tuple(Terms(int(n), 0.001, 5e5) for n in rng.integers(100, 1000, m))
    half = np.triu(rng.uniform(0.0, 1e-4, (m, m)), 1)
    distances, active, rules = half + half.T, np.ones(m, bool), Rules()
    digests = tuple(f"{number:032x}{i:032x}" for i in range(m))
    metrics = ({"loss": 0.5, "accuracy": 0.9},) * m
    reports = [Report(number, i, terms[i], digests[i], False, metrics[i]) for i in range(m)]
    clearing = clear(terms, distances, rules, active)
    participants = tuple(range(m))
    return reports, Settlement(
        number, participants, terms, distances, active, rules, clearing, digests, metrics
    )


def timed(action: Callable[[], object]) -> float:
    """Return how many milliseconds `action` takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def measure(name: str, address: str, rounds: int) -> None:
    """Print medians over `rounds` rounds in a new ledger."""
    rng = np.random.default_rng(0)
    with Ledger.open(address, serve=True) as ledger:
        ledger.begin({"bench": "ledger"})
        for i in range(INSTITUTIONS):
            ledger.enrol(f"institution {i}", bytes([i]))
        commits, reporting, edges = [], [], []
        for number in range(rounds):
            ledger.open_round(number, range(INSTITUTIONS), 60.0, 1)
            if number:
                ledger.deliver(number - 1)
            ledger.collect(number)
            reports, settlement = make(number, rng)
            reporting += [timed(lambda r=report: ledger.report(r)) for report in reports]
            commits.append(timed(lambda s=settlement: ledger.commit(s)))
            edges.append(int(settlement.clearing.imports.sum()))
        seconds, most = statistics.median(commits) / 1e3, max(commits) / 1e3
        print(f"{name}, {INSTITUTIONS} institutions, {min(edges)}-{max(edges)} transfers a round")
        print(f"  commit a round     {seconds:8.3f} s (max {most:.3f})")
        print(f"  record a report    {statistics.median(reporting):8.1f} ms")
        print(f"  verify a round     {timed(ledger.verify) / rounds:8.1f} ms (clears it again)")
        print(f"  list all rounds    {timed(ledger.rounds):8.1f} ms for {rounds} rounds")
        statement = timed(lambda: ledger.statement("institution 0"))
        print(f"  read a statement   {statement:8.1f} ms")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.db"
            took = timed(lambda: ledger.backup(copy))
            print(f"  back up            {took:8.1f} ms, {copy.stat().st_size / 2**20:.1f} MiB")


def main(rounds: int) -> None:
    """Measure both databases."""
    with tempfile.TemporaryDirectory() as folder:
        measure("SQLite", str(Path(folder) / "ledger.db"), rounds)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    try:
        from support.postgres import find_binaries, running  # noqa: PLC0415  # may be missing
    except ImportError:
        print("PostgreSQL: skipped, no driver: pip install 'ipfl-flower[postgres]'")
        return
    binaries = find_binaries()
    if binaries is None:
        print("PostgreSQL: skipped, not installed: apt-get install postgresql")
        return
    with running(binaries, durable=True) as server:
        measure("PostgreSQL", server.url(server.new_database()), rounds)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    main(numbers[0] if numbers else 3 if "--quick" in sys.argv else 10)
