"""The gates: what a right market passes and other methods fail, at full length.

They are few, and those on images cheap, so that a quick report has them, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

from ipfl_flower.experiment.definition import Choice, ExperimentError
from ipfl_flower.experiment.play import PRESETS
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import Finding, Number, Table, mean, percent, unplayed
from ipfl_flower.tasks import TaskDataError

OURS: Final = "ipfl"
PAPER: Final = "ipfl-paper"
MARKET, IID = "fashion_market", "fashion_iid"
PRIVATE, DIRICHLET = "fashion_private", "fashion_dirichlet"
ROTATIONS: Final = "fashion_rotations"
ENCODER, LANGUAGE_MODEL = "news_encoder", "news_language_model"
PLAYED: Final = {
    MARKET: (OURS, "ipfl-paper", "local", "oracle"),
    IID: (OURS, "ipfl-paper", "fedavg"),
    PRIVATE: (OURS, "ipfl-paper", "local"),
    DIRICHLET: (OURS, "ipfl-paper", "local"),
    ROTATIONS: (OURS, "ipfl-paper", "oracle"),
}
NEWS_PLAYED: Final = (OURS, "local", "oracle")
"""On language models; where these can't be had, their gates are left out."""

NEWS_MORE: Final = {ENCODER: 0.05, LANGUAGE_MODEL: 0.0}
"""What it must bring over training alone: in its few rounds a language model has learnt little."""

NOISE_MAX: Final = 0.04
"""The most that few test samples excuse."""


@dataclass(frozen=True)
class Gate:
    """One gate; figures are shares in [0, 1], margins included.

    Attributes
    ----------
    setting, what : str
    needed : float
        At least, or if `most`: at most.
    got : float or None
    most : bool
    """

    setting: str
    what: str
    needed: float
    got: Number
    most: bool = False

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        if self.got is None:
            return False
        return self.got <= self.needed if self.most else self.got >= self.needed


def gates(bench: Bench) -> Finding:
    """Play the gates' settings at full length, and judge the market by them."""
    played = {
        name: {method: _records(bench, name, method) for method in methods}
        for name, methods in PLAYED.items()
    }
    news, missing = _news(bench)
    judged = {
        market: [
            *market_gates(
                played[MARKET][market], played[MARKET]["local"], played[MARKET]["oracle"]
            ),
            _beside(IID, "mean accuracy ≥ FedAvg − 1.5", played[IID], market, "fedavg", 0.015),
            _beside(PRIVATE, "mean accuracy ≥ local − 1", played[PRIVATE], market, "local", 0.01),
            _beside(
                DIRICHLET, "mean accuracy ≥ local − 1", played[DIRICHLET], market, "local", 0.01
            ),
            _beside(
                ROTATIONS,
                "mean accuracy ≥ oracle − 1.5",
                played[ROTATIONS],
                market,
                "oracle",
                0.015,
            ),
            _own_group(played[ROTATIONS][market]),
        ]
        for market in (OURS, "ipfl-paper")
    }
    judged[OURS] += news
    failed = [gate for gate in judged[OURS] if not gate.passed]
    paper = [gate for gate in judged["ipfl-paper"] if not gate.passed]
    seeds = ", ".join(map(str, bench.seeds))
    left_out, why = unplayed(missing)
    return Finding(
        name="gates",
        title="Gates",
        asked=(
            "What a right market must show with cheap models (c = .05), at full length: on "
            "Fashion-MNIST (20 rounds), and unless quick with LoRA on an encoder and on a causal "
            f"language model. Means over seeds {seeds}."
        ),
        said=[
            f"`ipfl` passes {len(judged[OURS]) - len(failed)} of {len(judged[OURS])} gates"
            + (f"; it FAILS: {'; '.join(_named(gate) for gate in failed)}." if failed else "."),
            f"`ipfl-paper`, the paper's recipe, fails {len(paper)} of {len(judged[PAPER])}.",
            *left_out,
        ],
        tables=[
            Table(
                f"Gates, `{market}`",
                ("setting", "gate", "needed", "got", ""),
                [_row(gate) for gate in found],
            )
            for market, found in judged.items()
        ],
        data={
            market: [
                {
                    "setting": gate.setting,
                    "what": gate.what,
                    "needed": gate.needed,
                    "got": gate.got,
                    "passed": gate.passed,
                }
                for gate in found
            ]
            for market, found in judged.items()
        },
        details=why,
    )


def market_gates(
    ours: Sequence[Record], local: Sequence[Record], oracle: Sequence[Record]
) -> list[Gate]:
    """Return the gates of the market setting: means over seeds, institution by institution."""
    mine, alone = by_institution(ours), by_institution(local)
    smallest = min(item["samples"] for item in ours[0]["institutions"] if item["honest"])
    small = [k for k, item in enumerate(_honest(ours[0])) if item["samples"] == smallest]
    worst = min(a - b for a, b in zip(mine, alone, strict=True))
    return [
        Gate(MARKET, "clean mean ≥ local + 5", _accuracy(local) + 0.05, _accuracy(ours)),
        Gate(MARKET, "clean mean ≥ oracle − 1.5", _accuracy(oracle) - 0.015, _accuracy(ours)),
        Gate(
            MARKET,
            "smallest clients ≥ their local + 10",
            _mean(alone[k] for k in small) + 0.10,
            _mean(mine[k] for k in small),
        ),
        Gate(MARKET, "no clean client under its local − 2 (the worst difference)", -0.02, worst),
        Gate(
            MARKET,
            "noise sellers' share of bought volume ≤ 5",
            0.05,
            mean(record["bought"]["dishonest"] for record in ours),
            most=True,
        ),
        _own_group(ours),
    ]


def _news(bench: Bench) -> tuple[list[Gate], dict[str, str]]:
    """Play the language models that there are; return their gates, and why others are missing."""
    found: list[Gate] = []
    missing: dict[str, str] = {}
    for name in () if bench.quick else (ENCODER, LANGUAGE_MODEL):
        try:
            played = {method: _records(bench, name, method) for method in NEWS_PLAYED}
        except ExperimentError as error:
            if not isinstance(error.__cause__, TaskDataError):
                raise
            missing[name] = str(error)
        else:
            found += news_gates(played[OURS], played["local"], played["oracle"])
    return found, missing


def news_gates(
    ours: Sequence[Record], local: Sequence[Record], oracle: Sequence[Record]
) -> list[Gate]:
    """Return the gates of hidden groups of language models: the groups are found, and it pays.

    "As good as knowing the groups" is within two standard errors of the difference of two shares
    of that many test samples, and within `NOISE_MAX` however few there are.
    """
    name = ours[0]["setting"]
    knowing, tested = _accuracy(oracle), sum(_tested(record) for record in ours)
    noise = min(NOISE_MAX, 2 * sqrt(2 * knowing * (1 - knowing) / tested))
    more = NEWS_MORE.get(name, 0.0)
    return [
        Gate(name, f"mean ≥ local + {100 * more:g}", _accuracy(local) + more, _accuracy(ours)),
        Gate(
            name,
            f"mean ≥ oracle − {100 * noise:.1f}, noise of {tested} test samples",
            knowing - noise,
            _accuracy(ours),
        ),
        _own_group(ours),
    ]


def _tested(record: Record) -> int:
    return sum(item["test_samples"] for item in record["institutions"] if item["honest"])


def by_institution(records: Sequence[Record]) -> list[float]:
    """Return each honest institution's test accuracy, mean over seeds."""
    found = [[item["test_accuracy"] for item in _honest(record)] for record in records]
    return [_mean(values) for values in zip(*found, strict=True)]


def _honest(record: Record) -> list[dict[str, float]]:
    return [item for item in record["institutions"] if item["honest"]]


def _records(bench: Bench, name: str, method: str) -> list[Record]:
    choices = [Choice(seed, quick=False, data_dir=bench.data_dir) for seed in bench.seeds]
    return [bench.play(build(name, choice), method) for choice in choices]


def _beside(
    setting: str,
    what: str,
    played: dict[str, list[Record]],
    market: str,
    rival: str,
    margin: float,
) -> Gate:
    return Gate(setting, what, _accuracy(played[rival]) - margin, _accuracy(played[market]))


def _own_group(ours: Sequence[Record]) -> Gate:
    own = mean(record["bought"]["own_group"] for record in ours)
    return Gate(ours[0]["setting"], "own group's share ≥ 90", 0.90, own)


def _accuracy(records: Sequence[Record]) -> float:
    """Return the mean accuracy; of others than the market, with the market's choice if better.

    The market's institutions choose between two models by validation data.
    """
    figures = [summary(record) for record in records]
    own, better = (_mean(one[name] or 0.0 for one in figures) for name in ("accuracy", "better"))
    return own if records[0]["method"] in PRESETS else max(own, better)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _named(gate: Gate) -> str:
    return f"{gate.setting}: {gate.what}, got {percent(gate.got)}"


def _row(gate: Gate) -> list[str]:
    sign = "≤" if gate.most else "≥"
    return [
        gate.setting,
        gate.what,
        f"{sign} {percent(gate.needed)}",
        percent(gate.got),
        "pass" if gate.passed else "**FAIL**",
    ]
