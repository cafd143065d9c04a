"""A server's part of one round at a given scale, in a process of its own: its time and its memory.

Imports neither torch nor Flower: the memory is what market and bank need.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower import market
from ipfl_flower.experiment.studies.synthetic import Synthetic
from ipfl_flower.models import Layout, ModelBank
from ipfl_flower.settings import PRESETS

VALUE: Final = 10.0
COSTS: Final = {"paper": 1.0, "cheap": 0.05}


def play(scene: Synthetic, folder: Path) -> dict[str, Any]:
    """Play the server's part of a round: models into the bank, distances, clearings, centres.

    Returns
    -------
    dict
        ``put_s`` (all models, the Gram matrix included), ``distances_s``, ``clearings`` by
        economics and preset, ``centres_s``; ``memory_start`` and ``memory_peak``, bytes.
    """
    memory_start = memory()["VmRSS"]
    reference = np.random.default_rng([scene.seed, 9]).standard_normal(scene.parameters)
    origin = {"model": reference.astype(np.float32)}
    took: dict[str, Any] = {}
    clock = time.perf_counter()
    with ModelBank(
        folder / "bank", Layout.of(origin), scene.institutions, origin, threads=1
    ) as bank:
        for i, update in enumerate(scene.updates()):
            bank.put(i, {"model": origin["model"] + update})
        gram = bank.gram()
        took["put_s"] = time.perf_counter() - clock
        apart, took["distances_s"] = _timed(lambda: market.distances(gram, "cosine"))
        took["clearings"] = [
            _clear(scene, apart, economics, preset) for economics in COSTS for preset in PRESETS
        ]
        cleared = market.clear(scene.terms(VALUE, COSTS["cheap"]), apart, _rules("recommended"))
        mixing = market.mixing_matrix(
            gram,
            scene.terms(VALUE, COSTS["cheap"]),
            cleared.imports,
            kind="l2",
            eta="auto",
        )
        written, took["centres_s"] = _timed(lambda: bank.write_centres(mixing.weights))
    assert len(written) == int(cleared.imports.any(axis=1).sum())  # noqa: S101 - all who paid
    # The kernel counts roughly: a peak can seem a few pages less than what was there before it.
    return took | {
        "memory_start": memory_start,
        "memory_peak": max(memory_start, memory()["VmHWM"]),
    }


def memory() -> dict[str, int]:
    """Return what the kernel says of this process's memory, bytes by name (VmRSS, VmHWM)."""
    # Not getrusage: its peak includes what the process was before it became this program.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    parts = [line.split() for line in lines if line.endswith("kB")]
    return {name.rstrip(":"): 1024 * int(count) for name, count, _ in parts}


def _clear(
    scene: Synthetic, apart: NDArray[np.float64], economics: str, preset: str
) -> dict[str, Any]:
    rules = _rules(preset)
    terms = scene.terms(VALUE, COSTS[economics])
    cleared, seconds = _timed(lambda: market.clear(terms, apart, rules))
    groups = np.arange(scene.institutions) % scene.groups
    same = groups[:, None] == groups
    volumes = np.where(cleared.imports, scene.samples[None, :], 0)
    bought = float(volumes.sum())
    pairs = scene.institutions * (scene.institutions - 1)
    return {
        "economics": economics,
        "preset": preset,
        "seconds": seconds,
        "edges": int(cleared.imports.sum()),
        "buyers": int(cleared.imports.any(axis=1).sum()),
        "density": float(cleared.imports.sum()) / pairs,
        "own_group": float(volumes[same].sum()) / bought if bought else None,
        "utility": float(cleared.utilities.mean()),
        "fallbacks": cleared.fallbacks,
    }


def _rules(preset: str) -> market.Rules:
    values = PRESETS[preset]
    return market.Rules(
        mechanism=values["mechanism"], distance_weight=float(values["distance-weight"])
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began


def main() -> None:
    """Play what standard input describes in JSON, and print what it took."""
    with TemporaryDirectory(prefix="ipfl-scale-") as folder:
        print(json.dumps(play(Synthetic(**json.load(sys.stdin)), Path(folder))))  # noqa: T201


if __name__ == "__main__":
    main()
