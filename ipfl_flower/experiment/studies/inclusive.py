"""The inclusive market (Figure 5): traders, pure buyers, pure sellers and an attacker together."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.definition import COST, Choice, Economics, Setting
from ipfl_flower.experiment.record import Record
from ipfl_flower.experiment.studies.bench import Bench
from ipfl_flower.experiment.studies.clusters import clusters
from ipfl_flower.experiment.studies.finding import (
    Finding,
    Line,
    Lines,
    Table,
    figure,
    mean,
    signed,
    spread,
)

GROUPS: Final = 3
TRADERS: Final = 3
BUYERS: Final = 4
SELLERS: Final = 4
ROLES: Final = ("trader", "buyer", "seller", "attacker")
MARKETS: Final = ("ipfl", "ipfl-paper")
LOCAL: Final = "local"


def inclusive_setting(
    choice: Choice, economics: Economics, attack: str, rounds: int | None = None
) -> Setting:
    """Return twelve institutions in three hidden groups, four of each.

    A buyer's cost of 1,000 keeps everybody from its model; a seller has K = 0 and c = 0.
    """
    members: list[Mapping[str, Any]] = [
        *({} for _ in range(TRADERS)),
        *({"role": "buyer", "cost": 1000.0} for _ in range(BUYERS)),
        *({"role": "seller", "cost": 0.0, "eagerness": 0.0} for _ in range(SELLERS)),
        {"role": "attacker", "attack": attack},
    ]
    return clusters(
        choice,
        name=f"inclusive-{attack}-{economics}",
        title=f"Inclusive market, attacker: {attack}",
        groups=GROUPS,
        members=members,
        economics=economics,
        rounds=rounds,
    )


def inclusive(
    bench: Bench, rounds: int | None = None, economies: Sequence[Economics] = ("cheap", "paper")
) -> Finding:
    """Play the inclusive market under both presets and economics, and everybody alone."""
    names = list(ATTACKS)
    found, curves = {}, {}
    for economics in economies:
        # Another attack for each seed, so that none is chosen.
        settings = [
            inclusive_setting(choice, economics, names[choice.seed % len(names)], rounds)
            for choice in bench.choices()
        ]
        alone = [bench.play(setting, LOCAL) for setting in settings]
        for market in MARKETS:
            records = [bench.play(setting, market) for setting in settings]
            for role in ROLES:
                found[f"{economics} {market} {role}"] = {
                    "economics": economics,
                    "market": market,
                    "role": role,
                    **_figures(records, alone, role),
                }
            curves[f"{economics} {market}"] = {role: _cumulated(records, role) for role in ROLES}
    return Finding(
        name="inclusive",
        title="An inclusive market (Figure 5)",
        asked=(
            f"12 institutions of 100 images in {GROUPS} hidden groups: {TRADERS} traders, {BUYERS} "
            f"who only buy (c = 1,000), {SELLERS} who only sell (K = 0, c = 0), and one attacker, "
            "whose attack is another for each seed. Compared with training alone."
        ),
        said=_said(found),
        tables=(
            Table(
                "What each role has of the market",
                (
                    "economics",
                    "market",
                    "role",
                    "accuracy %",
                    "over alone, points",
                    "worst over alone",
                    "utility",
                    "paid − earned",
                ),
                [_row(one) for one in found.values()],
                "Utility and payments: mean over the role's institutions, summed over rounds, "
                "credits. An attacker that is alone has only what it sends.",
            ),
        ),
        charts=tuple(_chart(curves[f"{economics} ipfl"], economics) for economics in economies),
        data={"roles": list(found.values())},
    )


def _of(record: Record, role: str) -> list[int]:
    return [i for i, item in enumerate(record["institutions"]) if item["role"] == role]


def _figures(records: Sequence[Record], alone: Sequence[Record], role: str) -> dict[str, Any]:
    found: dict[str, list[Any]] = {
        "accuracy": [],
        "over": [],
        "worst": [],
        "utility": [],
        "net": [],
    }
    for record, local in zip(records, alone, strict=True):
        mine = [record["institutions"][i] for i in _of(record, role)]
        theirs = [local["institutions"][i] for i in _of(record, role)]
        over = [a["test_accuracy"] - b["test_accuracy"] for a, b in zip(mine, theirs, strict=True)]
        found["accuracy"].append(mean(item["test_accuracy"] for item in mine))
        found["over"].append(mean(over))
        found["worst"].append(min(over))
        found["utility"].append(mean(item["utility"] for item in mine))
        found["net"].append(mean(item["net"] for item in mine))
    return found


def _cumulated(records: Sequence[Record], role: str) -> list[float | None]:
    """Return the mean utility of a role up to each round, mean over records."""
    total, line = 0.0, []
    for number in range(len(records[0]["rounds"])):
        here = [
            mean(record["rounds"][number]["utilities"][i] for i in _of(record, role))
            for record in records
        ]
        total += mean(here) or 0.0
        line.append(total)
    return list(line)


def _row(one: Mapping[str, Any]) -> list[str]:
    return [
        f"c = {COST[one['economics']]:g}",
        one["market"],
        one["role"],
        spread(one["accuracy"], scale=100.0),
        *(_beside_alone(one) if one["role"] != "attacker" else ("–", "–")),
        spread(one["utility"]),
        figure(mean(one["net"])),
    ]


def _beside_alone(one: Mapping[str, Any]) -> tuple[str, str]:
    return signed(100 * (mean(one["over"]) or 0.0), 1), signed(100 * min(one["worst"]), 1)


def _said(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for market in MARKETS:
        mine = [one for one in found.values() if one["market"] == market]
        gained = {
            role: [mean(one["over"]) or 0.0 for one in mine if one["role"] == role]
            for role in ("trader", "buyer")
        }
        lines.append(
            f"`{market}`: compared with training alone, "
            + " and ".join(
                f"{role}s gain {signed(100 * min(points), 1)} to {signed(100 * max(points), 1)} "
                "points"
                for role, points in gained.items()
            )
            + "."
        )
        earns = [one for one in mine if one["role"] == "attacker" and (mean(one["net"]) or 0.0) < 0]
        sold = [-(mean(one["net"]) or 0.0) for one in mine if one["role"] == "seller"]
        lines.append(
            f"`{market}`: a pure seller earns {figure(min(sold))} to {figure(max(sold))} credits; "
            f"the attacker earns more than it pays in {len(earns)} of "
            f"{sum(one['role'] == 'attacker' for one in mine)} cases."
        )
    return lines


def _chart(curves: Mapping[str, Sequence[float | None]], economics: Economics) -> Lines:
    return Lines(
        f"inclusive-{economics}",
        f"Utility by role, c = {COST[economics]:g}",
        "Mean over a role's institutions, cumulated over rounds, under ipfl",
        list(range(1, 1 + len(curves[ROLES[0]]))),
        [Line(role, curves[role], strong=role == "trader") for role in ROLES],
        unit="credits",
    )
