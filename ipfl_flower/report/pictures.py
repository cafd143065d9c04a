"""The charts of a market: for its page, and as slides."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.charts import (
    Bar,
    Edge,
    Level,
    Node,
    Row,
    Series,
    Size,
    bar_chart,
    graph_chart,
    line_chart,
)
from ipfl_flower.charts.svg import SLIDE
from ipfl_flower.console.book import known
from ipfl_flower.console.money import picked_rounds
from ipfl_flower.console.shapes import Graph
from ipfl_flower.market import MICRO
from ipfl_flower.report.gather import EDGES_MAX, MarketReport, drawn_edges
from ipfl_flower.report.order import ring
from ipfl_flower.report.words import MINUS, count, credits_short, money, percent, real

POINTS: Final = 120
"""Rounds that a curve shows, evenly picked."""
LINES_MAX: Final = 10
"""Institutions up to which each has a line with its name; of more, the middle and a band."""
FAINT_MAX: Final = 40
"""Institutions up to which each has a faint line beside the band."""
BARS_MAX: Final = 24


def places(report: MarketReport) -> list[float]:
    """Place the institutions on the ring, the same in every round."""
    m = len(report.names)
    if report.payments is None:
        return [i / max(1, m) for i in range(m)]
    return ring(np.maximum(report.payments, 0).astype(np.float64))


def round_picture(
    report: MarketReport, graph: Graph, where: Sequence[float], size: Size | None = None
) -> str:
    """Draw who bought from whom in a round."""
    position = {node.name: k for k, node in enumerate(graph.nodes)}
    names = dict(zip(report.book.names, report.names, strict=True))
    ids = report.book.ids
    edges = [
        Edge(
            position[edge.buyer],
            position[edge.seller],
            edge.price / MICRO,
            f"{names[edge.buyer]} buys from {names[edge.seller]} for {money(edge.price)} credits",
        )
        for edge in (graph.edges[k] for k in drawn_edges(graph))
    ]
    nodes = [
        Node(
            names[node.name],
            where[ids[node.name]],
            share=node.accuracy,
            inside="–" if node.accuracy is None else f"{100 * node.accuracy:.0f}",
            note="no part" if not node.takes_part else credits_short(node.balance or 0),
            about=(
                f"{names[node.name]}: accuracy {percent(node.accuracy)} %, "
                f"balance {money(node.balance or 0)} credits"
                + (", over its budget" if node.declined else "")
                + ("" if node.takes_part else ", took no part")
            ),
            kind="absent" if not node.takes_part else "held" if node.declined else "",
        )
        for node in graph.nodes
    ]
    return graph_chart(
        f"Round {graph.round}: {graph.state.lower()}",
        round_words(graph),
        nodes,
        edges,
        key=f"r{graph.round}",
        size=size,
    )


def round_words(graph: Graph) -> str:
    """Say what came of a round's market, in a line."""
    volume = sum(edge.price for edge in graph.edges)
    words = [f"{count(len(graph.edges), 'purchase')} for {money(volume)} credits"]
    if len(graph.edges) > EDGES_MAX:
        words.append(f"the {EDGES_MAX} dearest are drawn")
    if graph.detail:
        words.append(graph.detail)
    return "; ".join(words)


def accuracy_picture(report: MarketReport, size: Size | None = None) -> str:
    """Draw the accuracy of each institution's best model by round, beside the baselines."""
    table, picked, said = _accuracies(report)
    what = "Each institution's best model so far, on its own test data, in percent"
    levels = baseline_means(report)
    return line_chart(
        "Test accuracy",
        what + "".join(f"; {name} {percent(value)} %" for name, value in levels.items()),
        picked,
        _lines(report, table),
        levels=[Level(name, value) for name, value in levels.items()],
        show=percent,
        show_tick=lambda value: f"{100 * value:.4g}",
        names=said,
        x_label="round"
        + (" (the last point: after the last delivery)" if "the end" in said else ""),
        limits=(0.0, 1.0),
        size=size,
    )


def baseline_means(report: MarketReport) -> dict[str, float]:
    """Return the mean of each baseline over this market's institutions."""
    if report.baselines is None:
        return {}
    of = report.book.ids.keys()
    means = {name: report.baselines.mean(name, of) for name in report.baselines.accuracies}
    return {name: value for name, value in means.items() if value is not None}


def summed_picture(report: MarketReport, size: Size | None = None) -> str:
    """Draw what taking part was worth, summed up to each round."""
    picked = picked_rounds(len(report.book.pages), POINTS)
    return line_chart(
        "Utility, summed up",
        "What taking part was worth to each so far: its gain less costs and payments, in credits",
        picked,
        _lines(report, report.book.summed_utilities[picked]),
        show=lambda value: real(value, 2),
        show_tick=lambda value: f"{value:,.6g}".replace("-", MINUS),
        size=size,
    )


def utility_picture(report: MarketReport, size: Size | None = None) -> str:
    """Draw what each round was worth."""
    picked = picked_rounds(len(report.book.pages), POINTS)
    return line_chart(
        "Utility by round",
        "What each round was worth to each institution, in credits",
        picked,
        _lines(report, report.book.utilities[picked]),
        show=lambda value: real(value, 2),
        show_tick=lambda value: f"{value:,.6g}".replace("-", MINUS),
        size=size,
    )


def balance_picture(report: MarketReport, size: Size | None = None) -> str:
    """Draw what each earned and paid, and what its account holds, the highest first."""
    order = sorted(range(len(report.statements)), key=lambda i: (-report.statements[i].balance, i))
    shown, left_out = order, 0
    if len(order) > BARS_MAX:
        half = BARS_MAX // 2
        shown, left_out = order[:half] + order[-half:], len(order) - BARS_MAX
    rows = [
        Row(
            report.names[i],
            (
                Bar("earned", report.statements[i].earned / MICRO, 2),
                Bar("paid", -report.statements[i].paid / MICRO, 1),
            ),
            money(report.statements[i].balance),
        )
        for i in shown
    ]
    more = f"; {left_out} in the middle are left out" if left_out else ""
    return bar_chart(
        "Accounts",
        f"Earned and paid over all rounds; at the end of a row, the balance{more}",
        rows,
        unit="credits",
        show=lambda value: f"{value:,.6g}".replace("-", MINUS),
        size=size,
    )


def slides(report: MarketReport) -> Mapping[str, str]:
    """Draw the slides of a market.

    Returns
    -------
    mapping of str to str
        Name to SVG, of `SLIDE` size.
    """
    found = {
        "accuracy": accuracy_picture(report, SLIDE),
        "utility": summed_picture(report, SLIDE),
        "balances": balance_picture(report, SLIDE),
    }
    drawn = [graph for graph in report.graphs if graph.round in report.settled[-1:]]
    if drawn:
        found["graph"] = round_picture(report, drawn[0], places(report), SLIDE)
    return found


def _accuracies(
    report: MarketReport,
) -> tuple[NDArray[np.float64], list[float], list[str]]:
    """Return accuracies (points, m), the points' places and what they are called."""
    book = report.book
    picked = picked_rounds(len(book.pages), POINTS)
    table = best_accuracies(report)[picked]
    said = [f"round {number}" for number in picked]
    where: list[float] = list(picked)
    if report.final is not None and not np.isnan(report.final).all():
        table = np.vstack([table, report.final])
        said.append("the end")
        where.append(len(book.pages))
    return table, where, said


def best_accuracies(report: MarketReport) -> NDArray[np.float64]:
    """Return each one's accuracy by round, (rounds, m): of its best model, else of the trained."""
    best = report.book.accuracies("best")
    return np.where(np.isnan(best), report.book.accuracies("trained"), best)


def _lines(report: MarketReport, table: NDArray[np.float64]) -> list[Series]:
    """Make a line of each column, and one of their mean; of many, a band of the middle eighty."""
    columns = [[known(value) for value in column] for column in table.T.tolist()]
    few = len(columns) <= LINES_MAX
    if len(columns) > FAINT_MAX:
        columns = []
    lines = [
        Series(name, values, kind="line" if few else "faint")
        for name, values in zip(report.names, columns, strict=False)
        if any(value is not None for value in values)
    ]
    if len(lines) < 2 and few:
        return lines
    rows = [row[~np.isnan(row)] for row in table]
    mean = [float(row.mean()) if len(row) else None for row in rows]
    low = [] if few else [float(np.quantile(row, 0.1)) if len(row) else None for row in rows]
    high = [] if few else [float(np.quantile(row, 0.9)) if len(row) else None for row in rows]
    return [*lines, Series("mean", mean, low, high, kind="strong", colour=7 if few else 0)]
