"""How long the console takes to answer, of a ledger of 100 institutions × 1,000 rounds.

A real console serves the ledger from a process of its own; each endpoint is asked again and
again, most with questions that differ, of which nothing is kept yet. CPU time is the console's own
for each answer, whatever else the machine does. Making the ledger takes
minutes, where there is no /dev/shm many: `--keep FILE` keeps it for the next time.

Usage: python benchmarks/bench_console.py [--quick] [--keep FILE] [--requests 100]
"""

import argparse
import contextlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil

from ipfl_flower.ledger import Ledger, Report, Settlement
from ipfl_flower.market import Rules, Terms, clear

INSTITUTIONS = 100
ROUNDS = 1000
START_DEADLINE_S = 300.0
AIM_MS = 100.0


def make(number: int, rng: np.random.Generator) -> Settlement:
    """Clear a round in which everybody buys from some ten others."""
    m = INSTITUTIONS
    terms = tuple(Terms(int(n), 0.02, 2e4) for n in rng.integers(100, 400, m))
    half = np.triu(rng.uniform(0.2, 1.0, (m, m)), 1)
    distances, active, rules = half + half.T, np.ones(m, bool), Rules(distance_weight=0.2)
    metrics = [
        {
            "test_accuracy": 0.5 + 0.4 * number / (number + 50) + 0.05 * float(rng.uniform()),
            "best_test_accuracy": 0.55 + 0.4 * number / (number + 50),
            **{f"measure_{k}": float(rng.uniform()) for k in range(20)},
        }
        for _ in range(m)
    ]
    digests = tuple(f"{number:032x}{i:032x}" for i in range(m))
    clearing = clear(terms, distances, rules, active)
    return Settlement(
        number, tuple(range(m)), terms, distances, active, rules, clearing, digests, tuple(metrics)
    )


def fill(path: Path, rounds: int) -> None:
    """Write the ledger; ten different rounds again and again, for clearing each takes a while."""
    rng = np.random.default_rng(0)
    distinct = [make(number, rng) for number in range(10)]
    with Ledger.open(path) as ledger:
        ledger.begin({"bench": "console"})
        for i in range(INSTITUTIONS):
            ledger.enrol(f"institution {i}", bytes([i]))
        for number in range(rounds):
            some = distinct[number % len(distinct)]
            found = Settlement(
                number,
                some.participants,
                some.terms,
                some.distances,
                some.active,
                some.rules,
                some.clearing,
                some.model_digests,
                some.metrics,
            )
            ledger.open_round(number, range(INSTITUTIONS), 60.0, 1)
            ledger.collect(number)
            for i in found.participants:
                told = found.terms[i], found.model_digests[i], False, found.metrics[i]
                ledger.report(Report(number, i, *told))
            ledger.commit(found)
            ledger.deliver(number)
        print(f"{rounds} rounds, {sum(item.edges for item in ledger.rounds())} purchases")


@contextlib.contextmanager
def console(path: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """Serve the ledger; give the address, the process, and how long it took to read the ledger."""
    code = "from ipfl_flower.cli.main import app; app()"
    command = [sys.executable, "-c", code, "console", str(path), "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"http://[\d.]+:\d+", line):
                    took = time.perf_counter() - began
                    yield found[0], psutil.Process(process.pid), took
                    break
            else:
                raise SystemExit("the console did not start")
        finally:
            process.terminate()


def timed(ask: Callable[[], httpx.Response]) -> tuple[float, int]:
    """Return how many milliseconds an answer takes, and its bytes."""
    began = time.perf_counter()
    answer = ask()
    took = (time.perf_counter() - began) * 1e3
    answer.raise_for_status()
    return took, len(answer.content)


def cpu_ms(process: psutil.Process) -> float:
    """Return the CPU time that a process has taken, without that of its children."""
    times = process.cpu_times()
    return float(times.user + times.system) * 1e3


def measure(
    client: httpx.Client, process: psutil.Process, rounds: int, requests: int
) -> tuple[float, float]:
    """Print every endpoint's times; return the largest p95 and CPU time but for whole downloads."""
    rng = np.random.default_rng(1)

    def some() -> int:
        return int(rng.integers(rounds))

    def name() -> str:
        return f"institution {int(rng.integers(INSTITUTIONS))}"

    def pair() -> str:
        buyer, seller = rng.choice(INSTITUTIONS, 2, replace=False)
        return f"institution {buyer}/institution {seller}"

    endpoints: dict[str, Callable[[], str]] = {
        "status": lambda: "status",
        "rounds": lambda: "rounds",
        "rounds?before=": lambda: f"rounds?before={some()}",
        "rounds/N": lambda: f"rounds/{some()}",
        "rounds/N/market": lambda: f"rounds/{some()}/market",
        "rounds/N/market/BUYER/SELLER": lambda: f"rounds/{some()}/market/{pair()}",
        "money": lambda: "money",
        "money?points=": lambda: f"money?points={200 + int(rng.integers(100))}",
        "accounts/NAME/statement": lambda: f"accounts/{name()}/statement?last={some()}",
        "learning": lambda: "learning",
        "learning?points=": lambda: f"learning?points={200 + int(rng.integers(100))}",
        "accounts.csv": lambda: "accounts.csv",
        "accounts/NAME/statement.csv": lambda: f"accounts/{name()}/statement.csv",
    }
    print(f"{'endpoint':32} {'CPU ms':>8} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8} {'kB':>8}")
    slowest = dearest = 0.0
    for label, path in endpoints.items():
        asked = [path() for _ in range(requests)]
        before = cpu_ms(process)
        times, sizes = zip(*(timed(lambda p=p: client.get(p)) for p in asked), strict=True)
        cpu = (cpu_ms(process) - before) / requests
        p95 = statistics.quantiles(times, n=20)[-1]
        size = statistics.median(sizes) / 1e3
        print(
            f"{label:32} {cpu:8.1f} {statistics.median(times):8.1f} {p95:8.1f} {max(times):8.1f} "
            f"{size:8.1f}"
        )
        if not label.endswith("statement.csv"):
            slowest, dearest = max(slowest, p95), max(dearest, cpu)
    return slowest, dearest


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 rounds")
    parser.add_argument("--keep", type=Path, help="the ledger; made if it is not there")
    parser.add_argument("--requests", type=int, default=100, help="to each endpoint")
    options = parser.parse_args()
    rounds = 50 if options.quick else ROUNDS
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # 10⁵ transactions wait for no disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = options.keep or Path(folder) / "ledger.db"
        if not path.exists():
            fill(path, rounds)
        with Ledger.open(path, create=False) as ledger:
            rounds = len(ledger.rounds())
        with (
            console(path) as (address, process, took),
            httpx.Client(base_url=f"{address}/api/v1/", timeout=60.0) as client,
        ):
            print(f"{INSTITUTIONS} institutions x {rounds} rounds, read in {took:.1f} s")
            slowest, dearest = measure(client, process, rounds, options.requests)
        print(
            f"largest p95 but for a whole statement: {slowest:.1f} ms (aim: {AIM_MS:g}), "
            f"most CPU time: {dearest:.1f} ms"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"the console's peak memory, or its verifier's: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
