"""Attacks (Figure 4): one of nine institutions sends another model than it trained."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.definition import COST, Choice, Economics, Setting
from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.runner import ALL_METHODS
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.clusters import clusters
from ipfl_flower.experiment.studies.finding import (
    Bars,
    Finding,
    Table,
    deviation,
    figure,
    mean,
    percent,
    signed,
    spread,
)

CLIENTS: Final = 9
GROUPS: Final = 3
MARKETS: Final = ("ipfl", "ipfl-paper")
OTHERS: Final = ("fedavg", "pfedgraph")
NONE: Final = "none"
TOLERANCE: Final = 0.02
"""What benign institutions may lose of their accuracy by an attacker's presence."""


def attacked(
    choice: Choice, attack: str | None, economics: Economics, rounds: int | None = None
) -> Setting:
    """Return nine institutions in three hidden groups, one of which attacks.

    The attacker only sells (K = 0), so that its net payment is what it earned. Without an `attack`
    its seat is empty: eight institutions with the data they have beside it.
    """
    villain = choice.seed % CLIENTS
    benign: list[Mapping[str, Any]] = [{} for _ in range(CLIENTS)]
    seat = {"role": "attacker", "attack": attack, "eagerness": 0.0}
    benign[villain] = {"absent": True} if attack is None else seat
    return clusters(
        choice,
        name=f"attack-{attack or NONE}-{economics}",
        title=f"Attack: {attack or NONE}",
        groups=GROUPS,
        members=benign,
        economics=economics,
        rounds=rounds,
    )


def benign_accuracy(record: Record) -> float:
    """Return the mean test accuracy of those who don't attack, in [0, 1]."""
    found = [item["test_accuracy"] for item in record["institutions"] if item["honest"]]
    return float(sum(found) / len(found))


def earned(record: Record) -> float:
    """Return what attackers earned over all rounds, credits."""
    # Adding zero takes the sign off a zero.
    nets = [item["net"] for item in record["institutions"] if item["role"] == "attacker"]
    return float(-sum(nets) + 0.0)


def attacks(
    bench: Bench, rounds: int | None = None, economies: Sequence[Economics] = ("cheap", "paper")
) -> Finding:
    """Play each attack under both presets and both economics, and under other methods once."""
    found: dict[str, dict[str, Any]] = {}
    for economics in economies:
        # Economics decide nothing in the others.
        methods = (*MARKETS, *(m for m in OTHERS if m in ALL_METHODS and economics == economies[0]))
        for attack in (None, *ATTACKS):
            settings = [attacked(c, attack, economics, rounds) for c in bench.choices()]
            for method in methods:
                records = [bench.play(setting, method) for setting in settings]
                found[f"{economics} {method} {attack or NONE}"] = {
                    "economics": economics,
                    "method": method,
                    "attack": attack or NONE,
                    "accuracy": [benign_accuracy(record) for record in records],
                    "earned": [earned(record) for record in records],
                    "share": [record["bought"]["dishonest"] for record in records],
                }
    for one in found.values():
        before = found[f"{one['economics']} {one['method']} {NONE}"]["accuracy"]
        one["lost"] = [a - b for a, b in zip(before, one["accuracy"], strict=True)]
    return Finding(
        name="attacks",
        title="Attacks (Figure 4)",
        asked=(
            f"{CLIENTS} institutions of 100 images in {GROUPS} hidden groups (Fashion-MNIST, label "
            "permutations); one of them, another for each seed, sends a manipulated model every "
            "round: its parameters shuffled, their signs flipped, all ones, or Gaussian noise. "
            "It is compared with the same market in which that seat is empty. The attacker sells "
            "at everybody's cost and buys nothing."
        ),
        said=_said(found),
        tables=(
            Table(
                "Benign institutions and the attacker",
                (
                    "economics",
                    "method",
                    "attack",
                    "benign accuracy %",
                    "lost, points",
                    "attacker's share of what was bought %",
                    "attacker earned, credits",
                ),
                [_row(one) for one in found.values()],
                "*lost*: against the same market without the attacker, mean over seeds "
                f"{', '.join(map(str, bench.seeds))}. Nothing is paid in fedavg and pfedgraph; "
                "*share* is then what their graph takes from the attacker.",
            ),
        ),
        charts=tuple(_chart(found, economics) for economics in economies),
        data={"plays": list(found.values())},
    )


def _row(one: Mapping[str, Any]) -> list[str]:
    attacked_ = one["attack"] != NONE
    market = one["method"] in MARKETS
    return [
        f"c = {COST[one['economics']]:g}",
        one["method"],
        one["attack"],
        spread(one["accuracy"], scale=100.0),
        signed(100 * (mean(one["lost"]) or 0.0), 1) if attacked_ else "–",
        percent(mean(one["share"])) if attacked_ else "–",
        figure(mean(one["earned"])) if attacked_ and market else "–",
    ]


def _said(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for market in MARKETS:
        mine = [one for one in found.values() if one["method"] == market and one["attack"] != NONE]
        worst = max(mine, key=lambda one: mean(one["lost"]) or 0.0)
        lost = mean(worst["lost"]) or 0.0
        held = "holds" if lost <= TOLERANCE else "FAILS"
        lines.append(
            f"`{market}`: benign accuracy within {100 * TOLERANCE:.0f} points {held}: it loses at "
            f"most {signed(100 * lost, 1)} points ({_named(worst)}), mean over seeds."
        )
        paid = [one for one in mine if max(one["earned"]) > 0]
        lines.append(
            f"`{market}`: the attacker never earns anything."
            if not paid
            else f"`{market}`: the attacker EARNS in {len(paid)} of {len(mine)} cases: "
            + "; ".join(f"{_named(one)} {figure(mean(one['earned']))}" for one in paid)
            + " credits (mean over seeds)."
        )
    return lines


def _named(one: Mapping[str, Any]) -> str:
    return f"{one['attack']}, c = {COST[one['economics']]:g}"


def _chart(found: Mapping[str, Mapping[str, Any]], economics: Economics) -> Bars:
    mine = [one for one in found.values() if one["economics"] == economics]
    attacks_ = list(dict.fromkeys(one["attack"] for one in mine))
    return Bars(
        f"attacks-{economics}",
        f"Benign accuracy under attack, c = {COST[economics]:g}",
        "Mean test accuracy of the eight who don't attack; ± one standard deviation over seeds",
        {
            attack: {
                one["method"]: (
                    100 * (mean(one["accuracy"]) or 0.0),
                    None if (wide := deviation(one["accuracy"])) is None else 100 * wide,
                )
                for one in mine
                if one["attack"] == attack
            }
            for attack in attacks_
        },
        unit="%",
    )
