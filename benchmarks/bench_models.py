"""Gram matrix and prox-centres of a bank on disk, beside the floor measured in the same run.

Usage: python benchmarks/bench_models.py [--quick] [--threads N] [--folder DIR]

The floor of a pass is the larger of two times:
  its operations at the rate of one large square float32 product on as many threads: m²D for the
  Gram matrix (it is symmetric: m(m+1)/2 products of D multiplications and additions), 2m²D for
  the centres of m buyers;
  its bytes, 4mD, at the rate of a memory copy by as many threads (the centres read and write 4mD,
  which is what copying 4mD does).
"""

import argparse
import itertools
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ipfl_flower.models import Layout, ModelBank

QUICK = [(10, 10**5), (10, 10**7), (100, 10**6), (1000, 10**5)]
FULL = [*QUICK, (10, 10**8), (30, 3 * 10**7), (100, 10**7), (300, 3 * 10**6), (1000, 10**6)]
SQUARE = 4096
COPIED = 2**27  # float32: 512 MiB


@dataclass(frozen=True)
class Rates:
    """What this machine does at best, on the threads that are used."""

    operations: float
    bytes: float

    def floor_s(self, operations: float, bytes_: float) -> float:
        """Return the least seconds that so many operations and bytes take."""
        return max(operations / self.operations, bytes_ / self.bytes)


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def memory_mib(field: str) -> float:
    """Return VmRSS or VmHWM, the present or the peak memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024


def forget_peak() -> None:
    """Let the peak memory be the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_rates(threads: int) -> Rates:
    """Multiply two large square matrices and copy a large array; the best of three."""
    rng = np.random.default_rng(0)
    square = rng.random((SQUARE, SQUARE), dtype=np.float32)
    other, product = square.copy(), np.empty_like(square)
    with threadpool_limits(threads, user_api="blas"):
        product_s = min(timed(lambda: np.matmul(square, other, out=product)) for _ in range(3))
    source, copy = np.ones(COPIED, np.float32), np.zeros(COPIED, np.float32)
    cuts = np.linspace(0, COPIED, threads + 1, dtype=int)
    spans = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    with ThreadPoolExecutor(threads) as pool:

        def copy_all() -> None:
            list(pool.map(lambda span: np.copyto(copy[span], source[span]), spans))

        copy_s = min(timed(copy_all) for _ in range(3))
    return Rates(2.0 * SQUARE**3 / product_s, 4.0 * COPIED / copy_s)


def plain_product_s(m: int, size: int, threads: int) -> float:
    """Time ``X @ X.T`` of an X in memory."""
    matrix = np.empty((m, size), np.float32)
    matrix[:] = np.random.default_rng(0).random(size, dtype=np.float32)
    with threadpool_limits(threads, user_api="blas"):
        return timed(lambda: matrix @ matrix.T)


def measure(m: int, size: int, threads: int, rates: Rates, folder: Path) -> None:
    """Print one line for m models of `size` parameters."""
    rng = np.random.default_rng(m)
    theta = rng.standard_normal(size, dtype=np.float32)
    noise = rng.standard_normal(size, dtype=np.float32) * np.float32(1e-3)
    reference = {"theta": theta}
    layout = Layout.of(reference)
    path = folder / "bench.bank"

    def model(i: int) -> dict[str, NDArray[np.float32]]:
        return {"theta": theta + np.roll(noise, 997 * i)}

    forget_peak()
    before = memory_mib("VmRSS")
    with ModelBank(path, layout, m, reference, threads=threads) as bank:
        put_s = 0.0
        for i in range(m):
            arrays = model(i)
            put_s += timed(lambda a=arrays, k=i: bank.put(k, a))
        rest_s = timed(bank.gram)
    put_peak = memory_mib("VmHWM")
    forget_peak()
    with ModelBank(path, layout, m, reference, threads=threads) as bank:
        gram_s = timed(bank.gram)
        gram_peak = memory_mib("VmHWM")
        mixing = rng.random((m, m)) / m
        centres_s = timed(lambda: bank.write_centres(mixing))
        centres_peak = memory_mib("VmHWM")
    bank.delete()
    plain_s = plain_product_s(m, size, threads)
    gram_floor_s = rates.floor_s(float(m) * m * size, 4.0 * m * size)
    centres_floor_s = rates.floor_s(2.0 * m * m * size, 4.0 * m * size)
    print(
        f"{m:5} {size:10.0e} {4 * m * size / 2**20:7.0f}"
        f" | {put_s + rest_s:8.2f} {rest_s:6.2f}"
        f" | {gram_s:7.3f} {gram_floor_s:7.3f} {gram_s / gram_floor_s:5.1f}x"
        f" | {plain_s:7.3f} {plain_s / gram_floor_s:5.1f}x"
        f" | {centres_s:7.3f} {centres_floor_s:7.3f} {centres_s / centres_floor_s:5.1f}x"
        f" | {before:6.0f} {put_peak:6.0f} {gram_peak:6.0f} {centres_peak:7.0f}",
        flush=True,
    )


def main() -> None:
    """Print a table, a line for each size of market and model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 10⁸ parameters in all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="of the temporary files (8 GB for all)")
    given = parser.parse_args()
    rates = measure_rates(given.threads)
    print(
        f"{given.threads} threads; floor: a {SQUARE}² float32 product at "
        f"{rates.operations / 1e9:.0f} Gflop/s, a memory copy at {rates.bytes / 1e9:.1f} GB/s; "
        "operations: m²D for the Gram matrix, 2m²D for the centres; bytes: 4mD"
    )
    print("put + gram: with hashing and fsync of every model, gram() at the end is `of it`")
    print(
        "    m          D     MiB | put+gram  of it |    gram   floor  ratio |  X @ X.T  ratio"
        " | centres   floor  ratio |  MiB before, peak put, gram, centres"
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for m, size in QUICK if given.quick else FULL:
            measure(m, size, given.threads, rates, Path(folder))


if __name__ == "__main__":
    main()
