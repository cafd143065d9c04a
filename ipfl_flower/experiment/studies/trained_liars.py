"""Liars on models that train: what one institution's lie does to its utility and its accuracy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import COST, Choice, Economics, Setting
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import Table, mean, signed, spread
from ipfl_flower.experiment.studies.server import VALUE

SETTING: Final = "fashion_market"
MARKETS: Final[Mapping[str, str]] = {"ipfl": "truthful", "ipfl-paper": "paper"}
ECONOMIES: Final[tuple[Economics, ...]] = ("paper", "cheap")
HONEST: Final = "honest"
# Of the second largest size, which sells and buys: seat 6, 7 or 8 of the setting, by seed.
_FIRST, _COUNT = 6, 3


def lying_setting(
    choice: Choice, economics: Economics, lie: tuple[str, float] | None
) -> tuple[Setting, int]:
    """Return the market setting in which one institution lies, and which."""
    setting = dataclasses.replace(build(SETTING, choice), economics=economics)
    liar = _FIRST + choice.seed % _COUNT
    if lie is None:
        return setting, liar
    seats = list(setting.seats)
    seats[liar] = dataclasses.replace(seats[liar], exaggerates=dict([lie]))
    return dataclasses.replace(setting, seats=tuple(seats)), liar


def trained(
    bench: Bench, lies: Mapping[str, tuple[str, float]]
) -> tuple[Table, list[dict[str, Any]]]:
    """Play each lie of one institution, and its truth, under both markets and economics."""
    found = []
    for economics in ECONOMIES:
        for market, mechanism in MARKETS.items():
            honest = _played(bench, market, economics, None)
            for name, lie in lies.items():
                lying = _played(bench, market, economics, lie)
                found.append(
                    {
                        "economics": economics,
                        "mechanism": mechanism,
                        "lie": name,
                        "honest": honest,
                        "lying": lying,
                        "difference": _differences(honest["utility"], lying["utility"]),
                        "accuracy": _differences(honest["accuracy"], lying["accuracy"]),
                        "everybody": _differences(honest["all"], lying["all"]),
                    }
                )
    return _table(found, bench.seeds), found


def gains(plays: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Say in how many of `plays` the liar gained, and in detail in which."""
    pays = [one for one in plays if (mean(one["difference"]) or 0.0) > 1e-6 * VALUE]
    return (
        "Truthfulness is of one round: over several, a lie also changes what is trained next. "
        f"Among those who train, the liar gained in {len(pays)} of {len(plays)} cases."
    ), [
        f"{one['lie']} under {one['mechanism']}, c = {COST[one['economics']]:g} "
        f"({signed(mean(one['difference']))} credits)"
        for one in pays
    ]


def _played(
    bench: Bench, market: str, economics: Economics, lie: tuple[str, float] | None
) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"utility": [], "accuracy": [], "all": []}
    for choice in bench.choices():
        setting, liar = lying_setting(choice, economics, lie)
        record = bench.play(setting, market)
        institutions = record["institutions"]
        found["utility"].append(institutions[liar]["utility"])
        found["accuracy"].append(institutions[liar]["test_accuracy"])
        found["all"].append(mean(item["utility"] for item in institutions if item["honest"]))
    return found


def _differences(honest: Sequence[float], lying: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(honest, lying, strict=True)]


def _table(found: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Table:
    return Table(
        f"One liar among twelve who train (`{SETTING}`)",
        (
            "economics",
            "mechanism",
            "lie",
            "its utility, honest",
            "lying",
            "difference",
            "its accuracy, points",
            "everybody's utility",
        ),
        [
            [
                f"c = {COST[one['economics']]:g}",
                one["mechanism"],
                one["lie"],
                spread(one["honest"]["utility"]),
                spread(one["lying"]["utility"]),
                signed(mean(one["difference"])),
                signed(100 * (mean(one["accuracy"]) or 0.0), 1),
                signed(mean(one["everybody"])),
            ]
            for one in found
        ],
        f"Summed over all rounds, mean over seeds {', '.join(map(str, seeds))}; the liar has 160 "
        "images, and is of another group for each seed. *truthful*: the preset `recommended`; "
        "*paper*: the preset `paper`.",
    )
