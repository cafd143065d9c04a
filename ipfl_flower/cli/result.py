"""What a demo's market came to: one table, one JSON document, both read from its ledger."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ipfl_flower.cli.ledger import round_json
from ipfl_flower.ledger import Ledger, Settlement, State
from ipfl_flower.market import MICRO

Baselines = Mapping[str, Mapping[str, float]]


def build_result(
    ledger: Ledger,
    *,
    preset: str,
    groups: Mapping[str, int],
    baselines: Baselines,
    transport: str,
) -> dict[str, Any]:
    """Put a market's outcome together.

    Parameters
    ----------
    ledger : Ledger
    preset : str
    groups : mapping of str to int
        The hidden group of each institution, by name.
    baselines : mapping
        Test accuracy by institution's name under "local" and "fedavg".
    transport : str

    Returns
    -------
    dict
        Ready for JSON. Money in integer micro-credits, utility in credits, accuracies in [0, 1].
    """
    summaries = ledger.rounds()
    settlements = [
        ledger.settlement(item.number)
        for item in summaries
        if item.state in (State.SETTLED, State.DELIVERED)
    ]
    names = {item.id: item.name for item in ledger.institutions()}
    final = ledger.acknowledgements()
    problems = ledger.verify()
    return {
        "preset": preset,
        "institutions": [
            {
                "name": name,
                "group": groups[name],
                "local_accuracy": baselines["local"][name],
                "accuracy": final.get(i, {}).get("best_test_accuracy"),
                "fedavg_accuracy": baselines["fedavg"][name],
                **_trade(ledger, settlements, i, names),
            }
            for i, name in sorted(names.items(), key=lambda item: (groups[item[1]], item[0]))
        ],
        "rounds": [round_json(item) for item in summaries],
        "ledger": {
            "verified": not problems,
            "head": ledger.head(),
            "problems": [str(problem) for problem in problems],
        },
        "transport": transport,
    }


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Print the table of a demo's outcome: test accuracy in percent, money in credits."""
    rounds = len(result["rounds"])
    table = Table(
        title=f"The market after {rounds} rounds ({result['preset']})",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("name", overflow="fold")
    for heading in ("group", "alone", "FedAvg", "market"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bought from", overflow="fold", max_width=11)
    for heading in ("paid", "earned", "net", "utility"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["institutions"]:
        table.add_row(
            row["name"],
            str(row["group"]),
            *(_percent(row[key]) for key in ("local_accuracy", "fedavg_accuracy", "accuracy")),
            " ".join(row["bought_from"]),
            *(f"{row[key] / MICRO:.2f}" for key in ("paid", "earned", "net")),
            f"{row['utility']:.2f}",
        )
    means = [
        _percent(_mean(row[key] for row in result["institutions"]))
        for key in ("local_accuracy", "fedavg_accuracy", "accuracy")
    ]
    table.add_row("mean", "", *means)
    console.print(table)
    ledger = result["ledger"]
    if ledger["verified"]:
        console.print(f"ledger verified, head {ledger['head']}", soft_wrap=True)
    else:
        console.print("ledger NOT verified:", style="red")
        for problem in ledger["problems"]:
            console.print(f"  {problem}")


def _trade(
    ledger: Ledger, settlements: list[Settlement], institution: int, names: Mapping[int, str]
) -> dict[str, Any]:
    """Return what one institution bought, paid, earned and gained over all rounds."""
    statement = ledger.statement(names[institution])
    sellers: set[int] = set()
    utility = 0.0
    for settlement in settlements:
        ids = settlement.participants
        if institution in ids:
            position = ids.index(institution)
            sellers |= {
                j
                for j, buys in zip(ids, settlement.clearing.imports[position], strict=True)
                if buys
            }
            utility += float(settlement.clearing.utilities[position])
    return {
        "bought_from": [names[j] for j in sorted(sellers)],
        "paid": statement.paid,
        "earned": statement.earned,
        "net": statement.net,
        "utility": utility,
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _mean(values: Any) -> float | None:
    items = [value for value in values if value is not None]
    return sum(items) / len(items) if items else None
