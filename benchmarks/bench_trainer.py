"""Peak memory of an institution's trainer, beside the size of its model.

Usage: python benchmarks/bench_trainer.py [--quick]
       python benchmarks/bench_trainer.py --one [--parameters N] [--momentum M] …

Every line is a process of its own, that trains a perceptron on the digits for two rounds: the first
from θ⁰, the second with a prox-centre. What is held besides is what any caller holds: the arrays
of the request. `--one` measures in this process, and prints JSON.
"""

import argparse
import gc
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.market import Terms
from ipfl_flower.tasks.base import seeded
from ipfl_flower.tasks.digits import Digits
from ipfl_flower.tasks.images import CLASSES, SliceOptions
from ipfl_flower.trainer import FitRequest, Institution, Trainer
from ipfl_flower.trainer.arrays import to_arrays
from ipfl_flower.trainer.proximal import AdamW, Sgd

QUICK = [(20, "own"), (20, "centre"), (50, "own")]
FULL = [*QUICK, (125, "own"), (125, "centre")]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WideOptions(SliceOptions):
    """A slice of the digits, and how large the model is."""

    parameters: int
    layers: int
    dtype: Literal["float32", "bfloat16", "float16"]


class WideDigits(Digits):
    """The digits with a perceptron of about any number of parameters, in layers of one size."""

    name: ClassVar[str] = "wide"
    options_type = WideOptions
    options: WideOptions

    def build_model(self, seed: int) -> nn.Module:
        """Build a perceptron whose hidden layers hold nearly all of its parameters."""
        options = self.options
        width = round((options.parameters / options.layers) ** 0.5)
        sizes = [64, *[width] * (options.layers + 1), CLASSES]
        layers: list[nn.Module] = []
        with seeded(seed):
            for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
                layers += [nn.ReLU()] if i else []
                layers += [nn.Linear(inputs, outputs, dtype=DTYPES[options.dtype])]
        return nn.Sequential(*layers)

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Give the pixels in the model's dtype."""
        return super().inputs(images).to(DTYPES[self.options.dtype])


def memory_mib(field: str) -> float:
    """Return VmRSS or VmHWM, the present or the peak memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024


def forget_peak() -> None:
    """Let the peak memory be the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train two rounds; return the sizes in MiB and the seconds."""
    options: dict[str, Any] = {"split": "clusters", "institution": 0, "institutions": 6}
    options |= {"samples": 64, "validation": 32, "test": 32, "dtype": given.dtype}
    options |= {"parameters": int(given.parameters * 1e6), "layers": given.layers}
    institution = Institution(
        name="bench",
        state_dir=folder / "state",
        device=given.device,
        threads=given.threads,
        leaving=False,
        terms=Terms(samples=64, cost=0.05, eagerness=5000.0),
        sgd=AdamW(iterations=2, batch_size=16)
        if given.adamw
        else Sgd(iterations=2, batch_size=16, learning_rate=0.01, momentum=given.momentum),
        task=WideDigits.from_options(**options),
    )
    imported = memory_mib("VmRSS")
    entries = institution.task.build_model(0).state_dict()
    start = {name: array.copy() for name, array in to_arrays(entries).items()}
    del entries
    trainer = Trainer(institution)
    model = sum(array.nbytes for array in start.values()) / 2**20
    request = FitRequest(round=0, initial=start)
    trainer.fit(request)
    first = memory_mib("VmHWM")
    del request
    for array in start.values():  # a centre near θ⁰, made in place, read-only as one that came
        if array.dtype != np.int16:
            np.multiply(array, 0.99, out=array)
        array.flags.writeable = False
    gc.collect()
    forget_peak()
    if given.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    request = FitRequest(round=1, centre=start, coefficient=0.025, start=given.start)
    began = time.perf_counter()
    trainer.fit(request)
    seconds = time.perf_counter() - began
    peak = memory_mib("VmHWM")
    return {
        "model_mib": model,
        "imports_mib": imported,
        "first_peak_mib": first,
        "peak_mib": peak,
        "gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20
        if given.device == "cuda"
        else 0.0,
        "fit_s": seconds,
    }


def main() -> None:
    """Print a table, a line for each case, or one case as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="models of up to 200 MB")
    parser.add_argument("--one", action="store_true", help="one case, in this process, as JSON")
    parser.add_argument("--parameters", type=float, default=20, help="in millions")
    parser.add_argument("--layers", type=int, default=8, help="that these are spread over")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--start", choices=["own", "centre"], default="own")
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--adamw", action="store_true", help="in place of SGD")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(given, Path(folder))))
        return
    cases = [(size, start, ()) for size, start in (QUICK if given.quick else FULL)]
    largest = cases[-1][0]
    cases += [
        (largest, "own", ("--momentum", "0.9")),
        (largest, "own", ("--adamw",)),
        (largest, "own", ("--layers", "1")),
        (1, "own", ("--dtype", "bfloat16")),  # a CPU multiplies it slowly
    ]
    print("peak memory of the whole process, MiB; × model: all of it; net: without the imports")
    print(
        "10⁶ parameters, start, options           | model imports | θ⁰ peak  × | centre  × net ×"
        " | GPU × | fit s"
    )
    for size, start, more in cases:
        command = [sys.executable, __file__, "--one", "--parameters", str(size), "--start", start]
        command += ["--device", given.device]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
        case = json.loads(done.stdout)
        model, net = case["model_mib"], case["peak_mib"] - case["imports_mib"]
        print(
            f"{size:14} {start:7} {' '.join(more):20} | {model:5.0f} {case['imports_mib']:7.0f}"
            f" | {case['first_peak_mib']:5.0f} {case['first_peak_mib'] / model:4.2f}"
            f" | {case['peak_mib']:5.0f} {case['peak_mib'] / model:4.2f} {net / model:5.2f}"
            f" | {case['gpu_peak_mib'] / model:5.2f} | {case['fit_s']:5.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
