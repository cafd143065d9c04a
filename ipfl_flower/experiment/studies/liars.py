"""Liars (Table 2): whether it pays to exaggerate cost, data volume or eagerness.

What a lie is worth is counted with the liar's real terms, and with the real volume of whatever
anybody imported: U_i of the true N, c and K, under the graph and the payments of the lie.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ipfl_flower.experiment.economics import books
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.finding import Finding, Table, figure, percent, signed
from ipfl_flower.experiment.studies.server import COSTS, VALUE
from ipfl_flower.experiment.studies.synthetic import Synthetic
from ipfl_flower.experiment.studies.trained_liars import gains, trained
from ipfl_flower.market import Rules, Terms, clear, distances
from ipfl_flower.market.gain import Floats
from ipfl_flower.settings import PRESETS

INSTITUTIONS: Final = 30
GROUPS: Final = 3
PARAMETERS: Final = 200
MARKETS: Final = 60
SHARE: Final = 0.1
LIES: Final[Mapping[str, tuple[str, float]]] = {
    "cost × 2": ("cost", 2.0),
    "volume × 2": ("samples", 2.0),
    "eagerness × 2": ("eagerness", 2.0),
    "cost × ½": ("cost", 0.5),
}
SURE: Final = 2.0
"""Standard errors that a mean difference must be away from zero to be called one."""


def rules_of(mechanism: str, preset: str = "recommended") -> Rules:
    """Return the rules of a mechanism with λ of a preset."""
    weight = float(PRESETS[preset]["distance-weight"])
    return Rules(mechanism="paper" if mechanism == "paper" else "truthful", distance_weight=weight)


def utilities_of(
    truth: Sequence[Terms], said: Sequence[Terms], apart: Floats, rules: Rules
) -> Floats:
    """Return what everybody really has of a market that was cleared by what was said.

    Parameters
    ----------
    truth, said : sequence of m Terms
    apart : float64 (m, m)
    rules : Rules

    Returns
    -------
    float64 (m,)
        U_i by the true terms, credits.
    """
    cleared = clear(said, apart, rules)
    return books(truth, apart, cleared.imports, rules, cleared.net).utilities


def lying(truth: Sequence[Terms], liars: Sequence[int], field: str, factor: float) -> list[Terms]:
    """Return what is said when `liars` report `factor` times the truth in one field."""
    said = list(truth)
    for i in liars:
        value = getattr(truth[i], field) * factor
        value = round(value) if field == "samples" else value
        said[i] = dataclasses.replace(truth[i], **{field: value})
    return said


def one_market(
    seed: int, institutions: int, economics: str, mechanism: str, weight: float | None = None
) -> dict[str, Any]:
    """Return what each lie does to liars and to everybody in one synthetic market.

    Parameters
    ----------
    seed, institutions : int
    economics : {"paper", "cheap"}
    mechanism : {"truthful", "paper"}
    weight : float, optional
        λ; by default the preset's.

    Returns
    -------
    dict
        By lie: ``liars`` (mean utility of the liars, together), ``honest`` (of the same when they
        don't lie), ``all`` and ``all_honest`` (everybody's mean), ``alone`` (by liar: what it
        gains when it lies and nobody else does).
    """
    scene = Synthetic(institutions, GROUPS, PARAMETERS, seed)
    rules = rules_of(mechanism)
    if weight is not None:
        rules = dataclasses.replace(rules, distance_weight=weight)
    truth = scene.terms(VALUE, COSTS[economics])
    apart = distances(scene.gram(), "cosine")
    count = max(1, round(SHARE * institutions))
    liars = sorted(np.random.default_rng([seed, 7]).permutation(institutions)[:count].tolist())
    honest = utilities_of(truth, truth, apart, rules)
    found = {}
    for name, (field, factor) in LIES.items():
        together = utilities_of(truth, lying(truth, liars, field, factor), apart, rules)
        alone = [
            utilities_of(truth, lying(truth, [i], field, factor), apart, rules)[i] - honest[i]
            for i in liars
        ]
        found[name] = {
            "liars": float(together[liars].mean()),
            "honest": float(honest[liars].mean()),
            "all": float(together.mean()),
            "all_honest": float(honest.mean()),
            "alone": [float(difference) for difference in alone],
        }
    return found


def liars(bench: Bench, markets: int = MARKETS, institutions: int = INSTITUTIONS) -> Finding:
    """Let 10 % of institutions lie in synthetic markets; show that understating can pay, too."""
    markets = markets if not bench.quick else max(2, markets // 2)
    cases = [(economics, mechanism) for economics in COSTS for mechanism in ("truthful", "paper")]
    inputs = {"markets": markets, "institutions": institutions}
    drawn = bench.figures(
        "liars",
        inputs,
        lambda: {
            f"{economics} {mechanism}": [
                one_market(seed, institutions, economics, mechanism) for seed in range(markets)
            ]
            for economics, mechanism in cases
        },
    )
    # Whether it is the price of distance that makes exaggerated eagerness pay.
    undistanced = bench.figures(
        "liars-without-distance",
        inputs,
        lambda: [
            one_market(seed, institutions, economics, "truthful", weight=0.0)["eagerness × 2"]
            for economics in COSTS
            for seed in range(markets)
        ],
    )
    rows, sums = [], {}
    for economics, mechanism in cases:
        for lie in LIES:
            figures = summed([market[lie] for market in drawn[f"{economics} {mechanism}"]])
            sums[f"c = {COSTS[economics]:g}, {mechanism}, {lie}"] = figures
            rows.append(_row(economics, mechanism, lie, figures))
    example = counterexample()
    table, plays = trained(bench, LIES)
    pays = _pays(sums)
    trained_said, gained = gains(plays)
    return Finding(
        name="liars",
        title="Liars (Table 2)",
        asked=(
            f"{markets} synthetic markets of {institutions} institutions in {GROUPS} hidden "
            f"groups; {round(SHARE * institutions)} of them report another cost, volume or "
            "eagerness than their own. Then one institution of a market that trains does. "
            "Utilities are counted with everybody's real terms."
        ),
        said=[*_said(sums, pays), trained_said],
        tables=(
            Table(
                "What lying brings the liars, credits a round",
                (
                    "economics",
                    "mechanism",
                    "lie",
                    "honest",
                    "lying together",
                    "difference",
                    "lying alone",
                    "pays alone %",
                    "everybody",
                ),
                rows,
                "*difference* ± is twice its standard error over markets. *lying alone*: the mean "
                "when one liar lies and nobody else; *pays alone*: in how many cases it gains "
                "more than a millionth of V. *everybody*: what the lie does to the mean utility "
                "of all.",
            ),
            table,
            Table(
                "Understating one's cost (K = 10⁴, N = 100 each, d = 0, c = 2.0 and 2.2)",
                ("mechanism", "seller 2 says", "sells", "is paid", "its utility"),
                [
                    [
                        one["mechanism"],
                        figure(one["said"], 1),
                        "yes" if one["sells"] else "no",
                        figure(one["paid"], 3),
                        signed(one["utility"], 3),
                    ]
                    for one in example
                ],
                "The counterexample to truthfulness of the paper's mechanism; its true cost is "
                "2.2.",
            ),
        ),
        data={
            "sums": sums,
            "without_distance": summed(undistanced),
            "counterexample": example,
            "trained": plays,
        },
        details={
            "Why it can pay": _why(example, summed(undistanced)),
            "Where lying together pays": pays,
            "Where the liar gained among those who train": gained,
        },
    )


def summed(drawn: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum one lie up over markets: means, standard error, and how often lying alone paid."""
    differences = [one["liars"] - one["honest"] for one in drawn]
    alone = [difference for one in drawn for difference in one["alone"]]
    return {
        "honest": float(np.mean([one["honest"] for one in drawn])),
        "lying": float(np.mean([one["liars"] for one in drawn])),
        "difference": float(np.mean(differences)),
        "error": float(np.std(differences, ddof=1) / np.sqrt(len(differences))),
        "alone": float(np.mean(alone)),
        "alone_max": float(np.max(alone)),
        "pays": float(np.mean([difference > 1e-6 * VALUE for difference in alone])),
        "everybody": float(np.mean([one["all"] - one["all_honest"] for one in drawn])),
    }


def counterexample() -> list[dict[str, Any]]:
    """Play mechanism.md §4's example: seller 2 understates its cost of 2.2 as 1.9."""
    buyer = Terms(samples=100, cost=2.0, eagerness=1e4)
    sellers = [Terms(samples=100, cost=cost, eagerness=0.0) for cost in (2.0, 2.2)]
    apart = np.zeros((3, 3))
    found = []
    for mechanism in ("paper", "truthful"):
        for said in (2.2, 1.9):
            truth = [buyer, *sellers]
            rules = rules_of(mechanism)
            terms = [*truth[:2], dataclasses.replace(truth[2], cost=said)]
            cleared = clear(terms, apart, rules)
            account = books(truth, apart, cleared.imports, rules, cleared.net)
            found.append(
                {
                    "mechanism": mechanism,
                    "said": said,
                    "sells": bool(cleared.imports[0, 2]),
                    "paid": float(cleared.transfers[0, 2]) / 1e6,
                    "utility": float(account.utilities[2]),
                }
            )
    return found


def _row(economics: str, mechanism: str, lie: str, figures: Mapping[str, float]) -> list[str]:
    return [
        f"c = {COSTS[economics]:g}",
        mechanism,
        lie,
        figure(figures["honest"]),
        figure(figures["lying"]),
        f"{signed(figures['difference'], 3)} ± {figure(SURE * figures['error'], 3)}",
        signed(figures["alone"], 3),
        percent(figures["pays"]),
        signed(figures["everybody"], 3),
    ]


def _pays(sums: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the cases in which lying together pays."""
    return [name for name, one in sums.items() if one["difference"] > SURE * one["error"]]


def _said(sums: Mapping[str, Mapping[str, float]], pays: Sequence[str]) -> list[str]:
    costs = [name for name, one in sums.items() if one["difference"] < -SURE * one["error"]]
    alone = [name for name, one in sums.items() if one["pays"] > 0]
    lines = [
        (
            f"Lying together costs the liars in {len(costs)} of {len(sums)} cases, and pays in "
            f"{len(pays)}."
        ),
        "A single liar never gained by overstating its cost under either mechanism."
        if not any("cost × 2" in name for name in alone)
        else "A single liar gained by overstating its cost: the mechanism is broken.",
        "A single liar never gained by understating its cost under `truthful`."
        if not any("truthful, cost × ½" in name for name in alone)
        else "A single liar gained by understating its cost under `truthful`: it is broken.",
    ]
    for lie in ("volume × 2", "eagerness × 2"):
        where = [name.removesuffix(f", {lie}") for name in alone if name.endswith(lie)]
        most = max(one["pays"] for name, one in sums.items() if name.endswith(lie))
        lines.append(
            f"{lie.capitalize()} alone sometimes pays ({'; '.join(where)}; at most in "
            f"{percent(most, 0)} % of cases): no mechanism can rule that out."
            if where
            else f"{lie.capitalize()} alone never paid here, though no mechanism can rule it out."
        )
    return lines


def _why(example: Sequence[Mapping[str, Any]], undistanced: Mapping[str, float]) -> list[str]:
    under = next(one for one in example if one["mechanism"] == "paper" and one["said"] == 1.9)
    return [
        (
            "Exaggerated eagerness pays through the price of distance: λ·d keeps a truthful buyer "
            "from models that U, which counts volume alone, would have valued. With λ = 0 it pays "
            f"in {percent(undistanced['pays'], 0)} % of cases under `truthful` "
            f"({signed(undistanced['alone'])} credits a round on average)."
        ),
        (
            "Under `paper`, understating can pay: in the example seller 2 gains "
            f"{signed(under['utility'], 3)} credits by it; under `truthful` it gains nothing."
        ),
    ]
