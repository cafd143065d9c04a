"""How long one clearing takes, by the number of institutions, mechanism and cost level.

Run as ``python benchmarks/bench_clear.py [--quick]``. It prints and asserts nothing; the aim is
100 institutions in under 0.1 s and 1000 in under 5 s on one ordinary core.
"""

import argparse
import platform
import time
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.market import Rules, Terms, check, clear

Market = tuple[list[Terms], NDArray[np.float64], float]


def make_market(m: int, cost: float, spread: str, seed: int) -> Market:
    """Draw N log-uniform in 50 … 5000, V about 10, c about `cost`, λ in 1 … 5.

    `spread` "random" draws d uniform in [0, 2]; "groups" gives hidden groups of about ten, close
    within and far apart, the case the market is for.
    """
    rng = np.random.default_rng(seed)
    samples = np.exp(rng.uniform(np.log(50), np.log(5000), m)).astype(int)
    terms = [
        Terms(int(n), cost * rng.uniform(0.5, 1.5), 100.0 * n * rng.uniform(0.5, 1.5))
        for n in samples
    ]
    distances = rng.uniform(0, 2, (m, m))
    if spread == "groups":
        group = rng.integers(0, max(2, m // 10), m)
        distances = np.where(group[:, None] == group, 0.05, 0.5) * distances
    return terms, (distances + distances.T) / 2, float(rng.uniform(1, 5))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100 institutions")
    sizes = (10, 30, 100) if parser.parse_args().quick else (10, 30, 100, 300, 1000)
    mechanisms: tuple[Literal["paper", "truthful"], ...] = ("paper", "truthful")
    print(f"clear(), seconds, best of 3; numpy {np.__version__}, {platform.machine()}")
    print(
        f"{'m':>5} {'mechanism':>10} {'d':>7} {'c':>5} {'clear':>9} {'check':>9} "
        f"{'edges':>7} {'fallbacks':>9} {'wrong':>6}"
    )
    for m in sizes:
        for mechanism in mechanisms:
            for spread in ("random", "groups"):
                for cost in (1.0, 0.05):
                    terms, distances, weight = make_market(m, cost, spread, seed=m)
                    rules = Rules(mechanism, distance_weight=weight)
                    clear_s = []
                    for _ in range(3):
                        began = time.perf_counter()
                        clearing = clear(terms, distances, rules)
                        clear_s.append(time.perf_counter() - began)
                    began = time.perf_counter()
                    wrong = check(terms, distances, rules, clearing)
                    check_s = time.perf_counter() - began
                    print(
                        f"{m:>5} {mechanism:>10} {spread:>7} {cost:>5} {min(clear_s):>9.4f} "
                        f"{check_s:>9.4f} {clearing.imports.sum():>7} {clearing.fallbacks:>9} "
                        f"{len(wrong):>6}"
                    )


if __name__ == "__main__":
    main()
