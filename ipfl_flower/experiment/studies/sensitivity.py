"""Sensitivity to c, N and K: the market's formulas on the distances of a market that trained."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import Finding, Line, Lines, Table, figure
from ipfl_flower.experiment.studies.liars import rules_of
from ipfl_flower.experiment.studies.server import COSTS
from ipfl_flower.market import MICRO, Rules, Terms, clear
from ipfl_flower.market.gain import Bools, Floats

SETTING: Final = "fashion_market"
FACTORS: Final = tuple(2.0**k for k in range(-4, 5))
MECHANISMS: Final = ("truthful", "paper")

Change: TypeAlias = Callable[[Sequence[Terms], float], list[Terms]]


def _scaled(field: str) -> Change:
    def change(terms: Sequence[Terms], factor: float) -> list[Terms]:
        return [_with(one, field, factor) for one in terms]

    return change


def _with(terms: Terms, field: str, factor: float) -> Terms:
    value = getattr(terms, field) * factor
    return dataclasses.replace(
        terms, **{field: max(1, round(value)) if field == "samples" else value}
    )


EVERYBODY: Final[Mapping[str, Change]] = {
    "c": _scaled("cost"),
    "N": _scaled("samples"),
    "K": _scaled("eagerness"),
}
FIELDS: Final = {"c": "cost", "N": "samples", "K": "eagerness"}


def sensitivity(bench: Bench) -> Finding:
    """Sweep everybody's c, N and K, and one institution's at a time."""
    markets = [recorded(bench.play(build(SETTING, choice), "ipfl")) for choice in bench.choices()]
    sweeps = {
        economics: {
            mechanism: {
                symbol: [
                    _averaged(
                        [
                            outcome(
                                change(_priced(terms, cost), factor), apart, rules_of(mechanism)
                            )
                            for terms, apart, _ in markets
                        ]
                    )
                    for factor in FACTORS
                ]
                for symbol, change in EVERYBODY.items()
            }
            for mechanism in MECHANISMS
        }
        for economics, cost in COSTS.items()
    }
    singles = {
        symbol: [
            _averaged(
                [
                    single(_priced(terms, COSTS["cheap"]), apart, who, field, factor)
                    for terms, apart, honest in markets
                    for who in np.flatnonzero(honest).tolist()
                ]
            )
            for factor in FACTORS
        ]
        for symbol, field in FIELDS.items()
    }
    rounds = build(SETTING, next(bench.choices())).rounds
    return Finding(
        name="sensitivity",
        title="Sensitivity to c, N and K",
        asked=(
            f"The distances after {rounds} rounds of `{SETTING}` (seeds "
            f"{', '.join(map(str, bench.seeds))}) are kept, and the market is cleared anew with "
            "other terms: everybody's cost, volume or eagerness times a factor, then one honest "
            "institution's at a time, each in turn."
        ),
        said=_said(sweeps, singles),
        tables=(*_tables(sweeps), _single_table(singles)),
        charts=tuple(_chart(sweeps[e], e, what) for e in COSTS for what in ("utility", "edges")),
        data={"factors": FACTORS, "everybody": sweeps, "single": singles},
    )


def recorded(record: Record) -> tuple[list[Terms], Floats, Bools]:
    """Return true terms, the last round's distances, and who is honest, of a market's record."""
    terms = [
        Terms(samples=item["samples"], cost=item["cost"], eagerness=item["eagerness"])
        for item in record["institutions"]
    ]
    # None is NaN here.
    apart = np.array(record["rounds"][-1]["distances"], dtype=np.float64)
    return terms, apart, np.array([item["honest"] for item in record["institutions"]])


def outcome(terms: Sequence[Terms], apart: Floats, rules: Rules) -> dict[str, float]:
    """Return what a clearing comes to: models bought by each, mean utility, money moved."""
    cleared = clear(terms, apart, rules)
    return {
        "edges": float(cleared.imports.sum(axis=1).mean()),
        "utility": float(cleared.utilities.mean()),
        "moved": float(cleared.transfers.sum()) / MICRO / len(terms),
    }


def single(
    terms: Sequence[Terms], apart: Floats, who: int, field: str, factor: float
) -> dict[str, float]:
    """Return what becomes of one institution whose c, N or K alone is another."""
    changed = list(terms)
    changed[who] = _with(terms[who], field, factor)
    cleared = clear(changed, apart, rules_of("truthful"))
    return {
        "bought": float(cleared.imports[who].sum()),
        "sold": float(cleared.imports[:, who].sum()),
        "net": float(cleared.net[who]) / MICRO,
        "utility": float(cleared.utilities[who]),
    }


def _priced(terms: Sequence[Terms], cost: float) -> list[Terms]:
    return [dataclasses.replace(one, cost=cost) for one in terms]


def _averaged(outcomes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in outcomes])) for name in outcomes[0]}


def _tables(sweeps: Mapping[str, Any]) -> list[Table]:
    shown = [k for k, factor in enumerate(FACTORS) if factor in (1 / 16, 1 / 4, 1.0, 4.0, 16.0)]
    tables = []
    for economics, by_mechanism in sweeps.items():
        rows = [
            [
                mechanism,
                f"everybody's {symbol}",
                *(
                    f"{figure(by_mechanism[mechanism][symbol][k]['edges'], 1)} / "
                    f"{figure(by_mechanism[mechanism][symbol][k]['utility'], 2)}"
                    for k in shown
                ),
            ]
            for mechanism in MECHANISMS
            for symbol in EVERYBODY
        ]
        tables.append(
            Table(
                f"c = {COSTS[economics]:g}: models bought / utility a round, by factor",
                ("mechanism", "what", *(f"× {FACTORS[k]:g}" for k in shown)),
                rows,
            )
        )
    return tables


def _single_table(singles: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    shown = [k for k, factor in enumerate(FACTORS) if factor in (1 / 16, 1 / 4, 1.0, 4.0, 16.0)]
    return Table(
        "One institution alone, `truthful`, c = 0.05: bought / sold / net payment / utility",
        ("its own", *(f"× {FACTORS[k]:g}" for k in shown)),
        [
            [
                symbol,
                *(
                    " / ".join(
                        (
                            figure(line[k]["bought"], 1),
                            figure(line[k]["sold"], 1),
                            figure(line[k]["net"], 2),
                            figure(line[k]["utility"], 2),
                        )
                    )
                    for k in shown
                ),
            ]
            for symbol, line in singles.items()
        ],
        "Means over the honest institutions, each changed in its turn; credits a round.",
    )


def _chart(by_mechanism: Mapping[str, Any], economics: str, what: str) -> Lines:
    title = "Utility" if what == "utility" else "Models bought"
    return Lines(
        f"sensitivity-{economics}-{what}",
        f"{title}, c = {COSTS[economics]:g}",
        "Everybody's c, N or K times a factor; the axis counts powers of two",
        [float(np.log2(factor)) for factor in FACTORS],
        [
            Line(
                f"{symbol}, {mechanism}",
                [one[what] for one in by_mechanism[mechanism][symbol]],
                strong=mechanism == "truthful",
            )
            for mechanism in MECHANISMS
            for symbol in EVERYBODY
        ],
        x_label="log₂ of the factor",
        unit="credits a round" if what == "utility" else "models",
        places=[f"× {factor:g}" for factor in FACTORS],
    )


def _said(sweeps: Mapping[str, Any], singles: Mapping[str, Any]) -> list[str]:
    lines = []
    for economics, by_mechanism in sweeps.items():
        cost = by_mechanism["truthful"]["c"]
        shut = [f for f, one in zip(FACTORS, cost, strict=True) if one["edges"] == 0]
        lines.append(
            f"Around c = {COSTS[economics]:g}, `truthful`: a sixteenth of the cost gives "
            f"{figure(cost[0]['edges'], 1)} models bought by each and "
            f"{figure(cost[0]['utility'])} credits a round, sixteen times as much "
            f"{figure(cost[-1]['edges'], 1)} and {figure(cost[-1]['utility'])}"
            + (f"; from × {shut[0]:g} on nothing is traded." if shut else ".")
        )
    middle = FACTORS.index(1.0)
    own = singles["N"]
    lines.append(
        "An institution with a quarter of its data buys "
        f"{figure(own[middle - 2]['bought'], 1)} models instead of "
        f"{figure(own[middle]['bought'], 1)}, and sells {figure(own[middle - 2]['sold'], 1)} "
        f"instead of {figure(own[middle]['sold'], 1)}."
    )
    return lines
