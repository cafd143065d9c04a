"""What studies vary, the main knob of each method, and how validation data chooses a value."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, TypeAlias

import numpy as np

from ipfl_flower.experiment.definition import Setting
from ipfl_flower.experiment.methods.ditto import DittoOptions
from ipfl_flower.experiment.methods.fedfomo import FedFomoOptions
from ipfl_flower.experiment.methods.fedprox import FedProxOptions
from ipfl_flower.experiment.methods.pfedgraph import PFedGraphOptions
from ipfl_flower.experiment.play import PRESETS as PRESET_OF
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.settings import PRESETS

Grid: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What tables call a value, to what it sets: the default comes first, and sets nothing."""

QUICK: Final = 3
"""Values of a grid that a quick bench plays: the default, and one to either side."""

LEVEL: Final = 1e-9
"""Validation accuracies, shares of a few hundred samples, that differ by less are equal."""


def grid(symbol: str, option: str, default: float, others: Sequence[float]) -> Grid:
    """Return the grid of one number; a value that is the default is in it once."""
    return {f"{symbol} = {default:g}": {}} | {
        f"{symbol} = {value:g}": {option: value} for value in others if value != default
    }


# At most four values each, around the default.
KNOBS: Final[Mapping[str, Grid]] = {
    "ipfl": grid(
        "λ", "distance-weight", PRESETS[PRESET_OF["ipfl"]]["distance-weight"], (0.5, 10.0, 2.0)
    ),
    # The four values that its authors choose from.
    "fedprox": grid("μ", "mu", FedProxOptions().mu, (1.0, 0.1, 0.001)),
    # Its authors' 0.05 to 2.
    "ditto": grid("λ", "weight", DittoOptions().weight, (0.05, 2.0, 0.2)),
    # The steepness of HeurFedAMP's softmax; its default, None, is 10.
    "fedamp": grid("σ", "sigma", 10.0, (1.0, 30.0, 3.0)),
    # The code's own ε1 and ε2; and γ_max, the paper's bound, between parts whose updates have a
    # cosine under 0.28 or 0.68.
    "cfl": {
        "relative ε1": {},
        "ε1 = 0.4, ε2 = 1.6": {"stationary": 0.4, "apart": 1.6},
        "γ_max = 0.6": {"gamma_max": 0.6},
        "γ_max = 0.4": {"gamma_max": 0.4},
    },
    # 16 are more than any of these settings has: everybody's.
    "fedfomo": grid("M", "downloads", FedFomoOptions().downloads, (2, 16, 8)),
    "pfedgraph": grid("α", "alpha", PFedGraphOptions().alpha, (0.3, 5.0, 2.0)),
}


@dataclass(frozen=True)
class Candidate:
    """What a method came to at one value and with one of its two models, on one seed.

    Attributes
    ----------
    value : str
        What its `Grid` calls it.
    default : bool
        Whether that is the default.
    model : {"own", "better"}
        The one that the method leaves, or the better of it and the one that was trained, by each
        institution's validation data.
    validation, test : float
        Mean accuracy of honest institutions in [0, 1], at the rounds that their validation data
        chose.
    """

    value: str
    default: bool
    model: str
    validation: float
    test: float


def varied(setting: Setting, method: str, values: Mapping[str, Any]) -> Setting:
    """Return a setting in which some of a method's options differ; without `values`, the setting.

    Parameters
    ----------
    setting : Setting
    method : str
        The market's are set in its ``market.toml``.
    values : mapping
        By option. Others are as the setting has them.
    """
    if not values:
        return setting
    if method in PRESET_OF:
        return dataclasses.replace(setting, market=_with(setting.market, PRESET_OF[method], values))
    return dataclasses.replace(setting, options=_with(setting.options, method, values))


def _with(
    there: Mapping[str, Mapping[str, Any]], name: str, values: Mapping[str, Any]
) -> Mapping[str, Mapping[str, Any]]:
    return {**there, name: {**there.get(name, {}), **values}}


def validation_accuracy(record: Record) -> float:
    """Return the mean of honest institutions' validation accuracies at the rounds they chose."""
    found = [item["validation_accuracy"] for item in record["institutions"] if item["honest"]]
    return float(np.mean(found))


def better_validation_accuracy(record: Record) -> float:
    """Return the same where each takes the better of the method's model and the one it trained."""
    rounds = record["rounds"]
    found = [
        rounds[item["better_round"]]["better_validation_accuracy"][i]
        for i, item in enumerate(record["institutions"])
        if item["honest"]
    ]
    return float(np.mean(found))


def candidates_of(record: Record, value: str, *, default: bool) -> list[Candidate]:
    """Return what a record of a method at one value gives to choose from: its own model first."""
    figures = summary(record)
    return [
        Candidate(value, default, model, validation, figures[column] or 0.0)
        for model, column, validation in (
            ("own", "accuracy", validation_accuracy(record)),
            ("better", "better", better_validation_accuracy(record)),
        )
    ]


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the best by validation accuracy, of equals the first; None of none."""
    judged = [one for one in candidates if isfinite(one.validation)]
    top = max((one.validation for one in judged), default=0.0)
    return next((one for one in judged if one.validation >= top - LEVEL), None)
