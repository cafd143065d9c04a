"""Both economics: every setting's market as published (c = 1), and with cheap models (c = .05)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import COST, Economics, ExperimentError
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.experiment.settings import SETTINGS, build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import (
    Finding,
    Table,
    figure,
    mean,
    percent,
    signed,
    spread,
    unplayed,
)
from ipfl_flower.tasks import TaskDataError

MARKETS: Final = ("ipfl", "ipfl-paper")


def economies(bench: Bench, settings: Sequence[str] | None = None) -> Finding:
    """Play the market on all settings under both economics; leave out those without data.

    Raises
    ------
    ExperimentError
        A market failed.
    """
    found: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name in SETTINGS if settings is None else settings:
        try:
            for market in MARKETS:
                found += [_played(bench, name, market, economics) for economics in COST]
        except ExperimentError as error:
            if not isinstance(error.__cause__, TaskDataError):
                raise
            missing[name] = str(error)
    found = [one for one in found if one["setting"] not in missing]
    left_out, why = unplayed(missing)
    return Finding(
        name="economies",
        title="Both economics",
        asked=(
            "Every setting's market with the paper's economics (V ≈ 10, c = 1), and with cheap "
            "models (V ≈ 10, c = .05). Nothing else differs; methods without a market don't "
            "depend on it."
        ),
        said=[*(_said(found, market) for market in MARKETS if found), *left_out],
        tables=[
            Table(
                "The market under both economics",
                (
                    "setting",
                    "market",
                    "economics",
                    "accuracy %",
                    "worst %",
                    "utility",
                    "models bought a round",
                ),
                [_row(one) for one in found],
                "Utility: mean over institutions, summed over rounds, credits. Models bought: by "
                "each institution.",
            )
        ],
        data={"plays": found},
        details=why,
    )


def _played(bench: Bench, name: str, market: str, economics: Economics) -> dict[str, Any]:
    records = [
        bench.play(dataclasses.replace(build(name, choice), economics=economics), market)
        for choice in bench.choices()
    ]
    sums = [summary(record) for record in records]
    return {
        "setting": name,
        "market": market,
        "economics": economics,
        **{what: [one[what] for one in sums] for what in ("accuracy", "worst", "utility")},
        "bought": [bought(record) for record in records],
    }


def elsewhere(bench: Bench, settings: Sequence[str], markets: Sequence[str]) -> Iterator[Record]:
    """Play markets on settings at the economics that isn't the setting's own; yield the records.

    Raises
    ------
    ExperimentError
        A market failed, or a setting's data can't be had.
    """
    for name in settings:
        for choice in bench.choices():
            setting = build(name, choice)
            (other,) = COST.keys() - {setting.economics}
            for market in markets:
                yield bench.play(dataclasses.replace(setting, economics=other), market)


def bought(record: Record) -> float:
    """Return how many models an institution imports a round, on average."""
    counts = [len(row) for played in record["rounds"] for row in played["imports"]]
    return sum(counts) / len(counts)


def _row(one: Mapping[str, Any]) -> list[str]:
    cost: float = COST[one["economics"]]
    return [
        one["setting"],
        one["market"],
        f"c = {cost:g}",
        spread(one["accuracy"], scale=100.0),
        percent(mean(one["worst"])),
        spread(one["utility"]),
        figure(mean(one["bought"]), 1),
    ]


def _said(found: Sequence[Mapping[str, Any]], market: str) -> str:
    """Say what cheap models bring over dear ones, over all settings."""
    by_economics = {
        economics: [
            one for one in found if (one["market"], one["economics"]) == (market, economics)
        ]
        for economics in COST
    }
    pairs = list(zip(by_economics["paper"], by_economics["cheap"], strict=True))
    points = [
        100 * ((mean(cheap["accuracy"]) or 0.0) - (mean(dear["accuracy"]) or 0.0))
        for dear, cheap in pairs
    ]
    less = [dear["setting"] for (dear, _), point in zip(pairs, points, strict=True) if point < 0]
    return (
        f"`{market}`: cheap models are worth {signed(mean(points), 1)} points of accuracy on "
        f"average over {len(pairs)} settings"
        + (f", and less than nothing on {', '.join(less)}." if less else ".")
    )
