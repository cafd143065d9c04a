"""What the market is compared with: training alone, and FedAvg, with the same budget of steps.

Both start at θ⁰, draw the same batches and take the same steps a round as the market's
institutions, and each institution reports the test accuracy at the round that its own validation
data finds best.

python -m ipfl_flower.trainer.baselines --institution a.toml --institution b.toml --rounds 8
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipfl_flower.tasks import TaskDataError, TaskError
from ipfl_flower.trainer.arrays import Arrays, read_arrays, to_arrays
from ipfl_flower.trainer.errors import ArraysError, InstitutionError, TrainingError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.learner import Learner, Scores
from ipfl_flower.trainer.parts import Parts


def local_only(
    institutions: Sequence[Institution], rounds: int, initial: Arrays | None = None
) -> list[float]:
    """Let every institution train alone.

    Parameters
    ----------
    institutions
        Of one task.
    rounds
        Rounds of each institution's own number of steps.
    initial
        θ⁰; the task's model with seed 0 by default.

    Returns
    -------
    list of float
        Test accuracy of each institution.

    Raises
    ------
    TrainingError
        Training diverged.
    """
    start = _initial(institutions) if initial is None else initial
    accuracies = []
    for institution in institutions:
        learner = Learner(institution)
        learner.put(start)
        best = None
        for number in range(rounds):
            learner.train(round_number=number)
            best = _best(best, learner.trained_scores(round_number=number))
        accuracies.append(best.test_accuracy if best else float("nan"))
    return accuracies


def fedavg(
    institutions: Sequence[Institution], rounds: int, initial: Arrays | None = None
) -> list[float]:
    """Average all models after every round, weighted by training samples, into the next start.

    Parameters and result are as in :func:`local_only`; what is judged is the averaged model
    (McMahan et al., AISTATS 2017, with every institution in every round).
    """
    shared = _initial(institutions) if initial is None else initial
    learners = [Learner(institution) for institution in institutions]
    weights = np.array([learner.sizes["samples_train"] for learner in learners])
    weights /= weights.sum()
    best: list[Scores | None] = [None] * len(learners)
    for number in range(rounds):
        for learner in learners:
            learner.put(shared)
            learner.train(round_number=number)
        shared = _mean([learner.shared for learner in learners], weights)
        for i, learner in enumerate(learners):
            learner.put(shared)
            best[i] = _best(best[i], learner.trained_scores(round_number=number))
    return [scores.test_accuracy if scores else float("nan") for scores in best]


def _mean(models: Sequence[Mapping[str, Tensor]], weights: NDArray[np.float64]) -> Arrays:
    """Average models in float64, each entry then rounded to its own dtype."""
    mean = {}
    for name, tensor in models[0].items():
        entries = [model[name].double().cpu().numpy() for model in models]
        mean[name] = torch.as_tensor(np.tensordot(weights, entries, 1)).to(tensor.dtype)
    return to_arrays(mean)


def _best(best: Scores | None, scores: Scores) -> Scores:
    return scores if best is None or scores.beats(best) else best


def _initial(institutions: Sequence[Institution]) -> Arrays:
    task = institutions[0].task
    return to_arrays(Parts(task, task.build_model(0)).shared)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both baselines as JSON, by the institutions' names; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ipfl_flower.trainer.baselines")
    parser.add_argument("--institution", type=Path, action="append", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument(
        "--initial", type=Path, help="θ⁰ as .npz; the task's with seed 0 if left out"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds must be ≥ 1, is {given.rounds}")
    try:
        institutions = [Institution.load(path) for path in given.institution]
        initial = None
        if given.initial is not None:
            initial = read_arrays(given.initial)
            Learner(institutions[0]).check(initial)
        names = [institution.name for institution in institutions]
        result = {
            "local": dict(zip(names, local_only(institutions, given.rounds, initial), strict=True)),
            "fedavg": dict(zip(names, fedavg(institutions, given.rounds, initial), strict=True)),
        }
    except (InstitutionError, TaskError, TaskDataError, ArraysError, TrainingError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
