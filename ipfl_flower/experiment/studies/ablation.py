"""Ablation of λ and η on hidden groups of Fashion-MNIST: accuracy, utility, and where it breaks."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import COST, Choice, Economics, Setting
from ipfl_flower.experiment.play import PRESETS as PRESET_OF
from ipfl_flower.experiment.record import Record, summary
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.clusters import clusters
from ipfl_flower.experiment.studies.finding import (
    Finding,
    Line,
    Lines,
    Table,
    deviation,
    mean,
    percent,
    spread,
)
from ipfl_flower.experiment.studies.varying import validation_accuracy, varied
from ipfl_flower.settings import PRESETS

INSTITUTIONS: Final = 12
GROUPS: Final = 3
WEIGHTS: Final = (0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0)
WEIGHTS_QUICK: Final = (0.1, 1.0, 3.0, 5.0, 10.0)
# Of the paper's cosine centre η is relative to ‖v‖²; of the recommended l2 centre it is η itself.
ETAS: Final[Mapping[str, Sequence[float]]] = {
    "paper": (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
    "recommended": (0.01, 0.03, 0.1, 0.2, 0.5),
}
ETAS_QUICK: Final[Mapping[str, Sequence[float]]] = {
    "paper": (0.1, 0.5, 1.0, 5.0),
    "recommended": (0.03, 0.1, 0.5),
}
BOUNDARY: Final = 0.01
"""Of accuracy below the best: from where on a parameter degrades."""


def grouped(choice: Choice, economics: Economics, rounds: int | None = None) -> Setting:
    """Return twelve traders in three hidden groups."""
    return clusters(
        choice,
        name=f"ablation-{economics}",
        title="Fashion-MNIST, 3 hidden groups of 4 × 100 images",
        groups=GROUPS,
        members=[{} for _ in range(INSTITUTIONS)],
        economics=economics,
        rounds=rounds,
    )


def ablation(bench: Bench, rounds: int | None = None) -> Finding:
    """Play the market over λ under both presets and economics, and over η under both presets."""
    weights = WEIGHTS_QUICK if bench.quick else WEIGHTS
    etas = ETAS_QUICK if bench.quick else ETAS
    sweeps: list[dict[str, Any]] = []
    for method, preset in PRESET_OF.items():
        sweeps += [
            _sweep(bench, method, preset, economics, "distance-weight", weights, rounds)
            for economics in COST
        ]
        sweeps.append(_sweep(bench, method, preset, "cheap", "eta", etas[preset], rounds))
    alone = [bench.play(grouped(c, "cheap", rounds), "local") for c in bench.choices()]
    local = mean(summary(record)["accuracy"] for record in alone)
    return Finding(
        name="ablation",
        title="Ablation of λ and η",
        asked=(
            f"{INSTITUTIONS} institutions of 100 images in {GROUPS} hidden groups (Fashion-MNIST, "
            "label permutations). λ is what distance costs; η is the step from one's own model "
            "towards what was bought (relative to ‖v‖² in the paper's preset). Everything else is "
            f"the preset's. Training alone reaches {percent(local)} %."
        ),
        said=[line for sweep in sweeps for line in _said(sweep)],
        tables=[_table(sweep) for sweep in sweeps],
        charts=_charts(sweeps),
        data={"sweeps": sweeps, "local": local},
    )


def _sweep(
    bench: Bench,
    method: str,
    preset: str,
    economics: Economics,
    key: str,
    values: Sequence[float],
    rounds: int | None,
) -> dict[str, Any]:
    points = []
    for value in values:
        records = [
            bench.play(varied(grouped(choice, economics, rounds), method, {key: value}), method)
            for choice in bench.choices()
        ]
        points.append({"value": value, **_figures(records)})
    return {
        "method": method,
        "preset": preset,
        "economics": economics,
        "key": key,
        "points": points,
    }


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    sums = [summary(record) for record in records]
    return {
        "accuracy": [one["accuracy"] for one in sums],
        "validation": [validation_accuracy(record) for record in records],
        "worst": [one["worst"] for one in sums],
        "utility": [one["utility"] for one in sums],
        "own_group": [one["own_group"] for one in sums],
    }


def _symbol(sweep: Mapping[str, Any]) -> str:
    return "λ" if sweep["key"] == "distance-weight" else "η"


def _title(sweep: Mapping[str, Any]) -> str:
    return f"{_symbol(sweep)}, `{sweep['method']}`, c = {COST[sweep['economics']]:g}"


def _table(sweep: Mapping[str, Any]) -> Table:
    default = PRESETS[sweep["preset"]][sweep["key"]]
    return Table(
        _title(sweep),
        (_symbol(sweep), "accuracy %", "worst %", "utility", "own group %"),
        [
            [
                f"{point['value']:g}" + (" (preset)" if point["value"] == default else ""),
                spread(point["accuracy"], scale=100.0),
                percent(mean(point["worst"])),
                spread(point["utility"]),
                percent(mean(point["own_group"])),
            ]
            for point in sweep["points"]
        ],
        f"The preset's is {default}.",
    )


def boundary(sweep: Mapping[str, Any]) -> tuple[float, float, float | None]:
    """Return where a sweep is best, how good, and the first greater value that has degraded.

    Degraded: mean test accuracy more than `BOUNDARY` below the best, there and at all values
    beyond; None: at none.
    """
    points = sweep["points"]
    accuracies = [mean(point["accuracy"]) or 0.0 for point in points]
    top = accuracies.index(max(accuracies))
    lost = [k for k in range(top + 1, len(points)) if accuracies[k] < accuracies[top] - BOUNDARY]
    first = next((k for k in lost if all(n in lost for n in range(k, len(points)))), None)
    return points[top]["value"], accuracies[top], None if first is None else points[first]["value"]


def _said(sweep: Mapping[str, Any]) -> list[str]:
    symbol, points = _symbol(sweep), sweep["points"]
    best, accuracy, degraded = boundary(sweep)
    chosen = max(points, key=lambda point: mean(point["validation"]) or 0.0)
    end = (
        f"it degrades from {symbol} = {degraded:g} on"
        if degraded is not None
        else f"no degradation up to {symbol} = {points[-1]['value']:g}"
    )
    return [
        (
            f"{_title(sweep)}: validation data would choose {symbol} = {chosen['value']:g} "
            f"({percent(mean(chosen['accuracy']))} % test accuracy); the best on test data is "
            f"{symbol} = {best:g} ({percent(accuracy)} %); {end}."
        )
    ]


def _charts(sweeps: Sequence[Mapping[str, Any]]) -> list[Lines]:
    charts = []
    for key, symbol in (("distance-weight", "λ"), ("eta", "η")):
        for method in PRESET_OF:
            mine = [one for one in sweeps if (one["key"], one["method"]) == (key, method)]
            values = [point["value"] for point in mine[0]["points"]]
            for what, unit in (("accuracy", "%"), ("utility", "credits")):
                charts.append(
                    Lines(
                        f"ablation-{'lambda' if symbol == 'λ' else 'eta'}-{method}-{what}",
                        f"{what.capitalize()} over {symbol}, {method}",
                        f"By {symbol} = {', '.join(f'{value:g}' for value in values)}; "
                        "bands are a standard deviation over seeds",
                        list(range(1, 1 + len(values))),
                        [_line(one, what) for one in mine],
                        x_label=f"{symbol}, by number",
                        unit=unit,
                        places=[f"{symbol} = {value:g}" for value in values],
                    )
                )
    return charts


def _line(sweep: Mapping[str, Any], what: str) -> Line:
    scale = 100.0 if what == "accuracy" else 1.0
    middles = [mean(point[what]) for point in sweep["points"]]
    wide = [deviation(point[what]) for point in sweep["points"]]
    known = all(value is not None for value in (*middles, *wide))
    pairs = list(zip(middles, wide, strict=True))
    return Line(
        f"c = {COST[sweep['economics']]:g}",
        [None if value is None else scale * value for value in middles],
        [scale * ((m or 0.0) - (w or 0.0)) for m, w in pairs] if known else (),
        [scale * ((m or 0.0) + (w or 0.0)) for m, w in pairs] if known else (),
        strong=sweep["economics"] == "cheap",
    )
