"""A trainer's memory is that of its model, the centre that came, and little more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_trainer.py"


def least_peak(*arguments):
    """Return the least peak of three processes: what the system adds differs when it is busy."""
    return min(peak(*arguments) for _ in range(3))


def peak(*arguments):
    """Return the peak of a process that trains, without its imports, in models."""
    command = [sys.executable, str(BENCHMARK), "--one", "--parameters", "40", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    case = json.loads(done.stdout)
    assert case["model_mib"] > 150
    return (case["peak_mib"] - case["imports_mib"]) / case["model_mib"]


# Model, centre and one gradient in eight; about 60 MiB of what torch loads to compute.
@pytest.mark.timeout(300)  # a machine that others use takes minutes
@pytest.mark.parametrize("start", ["own", "centre"])
def test_a_round_with_a_centre_takes_less_than_three_models(start):
    assert 2 < least_peak("--start", start) < 3


# Layers above 32 MiB: smaller blocks stay with malloc when they are freed.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("more", "arguments"), [(1, ["--momentum", "0.9"]), (2, ["--adamw"])])
def test_momentum_takes_one_more_and_adamw_two(more, arguments):
    assert 2 + more < least_peak(*arguments, "--layers", "4") < 3 + more
