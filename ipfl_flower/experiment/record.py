"""What is kept of one method on one setting and seed: JSON, enough for every table and plot."""

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from math import isfinite
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.methods.base import Judgement
from ipfl_flower.experiment.play import Play
from ipfl_flower.experiment.world import World
from ipfl_flower.market import Terms
from ipfl_flower.tasks import Task

Record: TypeAlias = dict[str, Any]

DIGITS: Final = 6
"""Significant digits of what is kept: accuracies of few samples and credits need no more."""


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = ("flwr", "numpy", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def make_record(world: World, method: str, play: Play, *, local_trainings: int) -> Record:
    """Put together what is kept of a play.

    Returns
    -------
    dict
        ``institutions``: by position, what each is and came to: ``round`` is the round that its
        validation data chose, ``test_accuracy`` what is reported. ``rounds``: by round, lists by
        institution; ``imports`` are positions of sellers, by buyer. What has no prefix is the
        method's own model, as its authors define it; ``trained_`` is the one that was trained,
        ``centre_`` the market's prox-centre, and ``better_`` the better of own and trained by
        validation data, in each round and then over rounds: the same choice for every method.
        ``validation_looks`` is how many models were judged for all that, at most. ``samples``,
        ``cost`` and so on are true, ``reported`` is what was said. Accuracies in [0, 1], money in
        credits; what is infinite or NaN is None.
    """
    setting = world.setting
    best = [_chosen([r.judged[i] for r in play.rounds]) for i in range(len(setting.seats))]
    better = [_chosen([r.better[i] for r in play.rounds]) for i in range(len(setting.seats))]
    utilities = sum((r.books.utilities for r in play.rounds), np.zeros(len(best)))
    institutions = [
        {
            "name": seat.name,
            "group": seat.group,
            "role": seat.role,
            "honest": bool(world.honest[i]),
            **_terms(world.truth[i]),
            "reported": _terms(world.terms[i]),
            "test_samples": len(world.institutions[i].task.data().test),
            "round": best[i],
            "validation_accuracy": play.rounds[best[i]].judged[i].validation_accuracy,
            "test_accuracy": play.rounds[best[i]].judged[i].test_accuracy,
            "better_round": better[i],
            "better_test_accuracy": play.rounds[better[i]].better[i].test_accuracy,
            "last_test_accuracy": play.rounds[-1].judged[i].test_accuracy,
            "utility": _number(utilities[i]),
            "net": _number(play.net[i]),
        }
        for i, seat in enumerate(setting.seats)
    ]
    return {
        "setting": setting.name,
        "title": setting.title,
        "method": method,
        "engine": play.engine,
        "seed": setting.seed,
        "data": setting.data,
        "stand_in": setting.stand_in,
        "data_digest": data_digest(world),
        "economics": setting.economics,
        "parameters": world.layout.size,
        "local_trainings": local_trainings,
        "institutions": institutions,
        "rounds": [
            {
                "validation_accuracy": [j.validation_accuracy for j in r.judged],
                "test_accuracy": [j.test_accuracy for j in r.judged],
                **_accuracies("trained", r.trained),
                **_accuracies("better", r.better),
                **_accuracies("centre", r.centre),
                "imports": [np.flatnonzero(row).tolist() for row in r.imports],
                # By methods without a market they decide nothing.
                "distances": [_numbers(row) for row in r.distances] if play.ledger else None,
                "gains": _numbers(r.books.gains),
                "utilities": _numbers(r.books.utilities),
                "welfare": _number(r.books.welfare),
            }
            for r in play.rounds
        ],
        "bought": _bought(world, play),
        "validation_looks": play.looks,
        "ledger": dict(play.ledger),
        "seconds": round(play.seconds, 3),
        "cpu_seconds": round(play.cpu_seconds, 3),
        "versions": versions(),
    }


def summary(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of a record that tables show.

    Returns
    -------
    dict
        Means over honest institutions; ``utility_all`` and ``welfare`` over all of them, in which
        payments cancel. Money is summed over rounds.
        ``better`` is ``accuracy`` where each institution takes the better of the method's model and
        the one that it trained, whatever the method is.
    """
    honest = [item for item in record["institutions"] if item["honest"]]
    accuracies = [item["test_accuracy"] for item in honest]
    return {
        "accuracy": float(np.mean(accuracies)),
        "better": float(np.mean([item["better_test_accuracy"] for item in honest])),
        "worst": float(np.min(accuracies)),
        "last": float(np.mean([item["last_test_accuracy"] for item in honest])),
        "utility": _mean([item["utility"] for item in honest]),
        "utility_all": _mean([item["utility"] for item in record["institutions"]]),
        "welfare": _per_head(record),
        "own_group": record["bought"]["own_group"],
        "dishonest": record["bought"]["dishonest"],
        "cpu_seconds": record["cpu_seconds"],
    }


def _per_head(record: Mapping[str, Any]) -> float | None:
    """Return W over all rounds by institution; None where a round's is without bound."""
    total = _mean([played["welfare"] for played in record["rounds"]])
    return None if total is None else total * len(record["rounds"]) / len(record["institutions"])


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is without bound."""
    finite = [value for value in values if value is not None]
    return float(np.mean(finite)) if len(finite) == len(values) else None


def _accuracies(name: str, judged: Sequence[Judgement | None]) -> dict[str, list[float | None]]:
    return {
        f"{name}_{part}_accuracy": [
            None if item is None else getattr(item, f"{part}_accuracy") for item in judged
        ]
        for part in ("validation", "test")
    }


def data_digest(world: World) -> str:
    """Return a SHA-256 over every institution's data, in hex."""
    return digest_of(institution.task for institution in world.institutions)


def digest_of(tasks: Iterable[Task]) -> str:
    """Return a SHA-256 over the data of some tasks, in hex.

    Raises
    ------
    TaskError, TaskDataError
        It can't be had.
    """
    digest = hashlib.sha256()
    for task in tasks:
        data = task.data()
        for part in (data.train, data.validation, data.test):
            for tensor in (part.inputs, part.labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def _chosen(judged: list[Judgement]) -> int:
    """Return the round whose model is best by the validation data; of equals the first."""
    keys = [(item.validation_accuracy, -item.validation_loss) for item in judged]
    return keys.index(max(keys))


def _bought(world: World, play: Play) -> dict[str, float | None]:
    """Return the shares of the volume that honest institutions bought: own group's, and noise."""
    volumes = sum(r.books.volumes for r in play.rounds)
    bought = np.asarray(volumes)[world.honest]
    total = float(bought.sum())
    groups = [seat.group for seat in world.setting.seats]
    own = [
        [g is not None and g == other for other in groups]
        for g, honest in zip(groups, world.honest, strict=True)
        if honest
    ]
    grouped = any(g is not None for g in groups)
    return {
        "volume": total,
        "own_group": float(bought[np.array(own)].sum()) / total if total and grouped else None,
        "dishonest": float(bought[:, ~world.honest].sum()) / total if total else None,
    }


def _terms(terms: Terms) -> dict[str, float | None]:
    """Return terms as JSON values; None is infinite."""
    return {name: _number(value) for name, value in asdict(terms).items()} | {
        "samples": terms.samples
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
