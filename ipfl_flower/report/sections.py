"""What a report says of the market's course: its graph, its models, its worth."""

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.charts.document import card, figure, folded, steps, table, tiles
from ipfl_flower.charts.graph import RING_MAX
from ipfl_flower.charts.svg import element, short, text
from ipfl_flower.console.book import known
from ipfl_flower.console.money import picked_rounds
from ipfl_flower.report import pictures
from ipfl_flower.report.gather import PURCHASES_MAX, MarketReport, period, state_counts
from ipfl_flower.report.words import (
    count,
    duration,
    moment,
    money,
    percent,
    real,
    signed,
)

PROBLEMS_MAX = 200
TEXT_MAX = 300
TABLE_ROUNDS = 12


def verdict(report: MarketReport) -> str:
    """Say first whether the ledger can be believed."""
    head = report.book.head
    chain = (
        element("p", "Head of its chain: ", element("code", text(head)), class_="soft")
        if head
        else element("p", "The chain's head is not known: no round is sealed, or none can be read.")
    )
    if report.verified:
        settled = count(len(report.settled), "settled round")
        return card(
            element("h3", "✓ The ledger verifies", class_="good"),
            element(
                "p",
                f"Its chain of hashes is whole, payments sum to zero, and {text(settled)}, cleared "
                "again from the recorded inputs, came to what is recorded.",
            ),
            chain,
            kind="verdict",
        )
    found = [*report.problems, *(f"can't be shown: {what}" for what in report.unreadable)]
    lines = [element("li", text(short(what, TEXT_MAX))) for what in found[:PROBLEMS_MAX]]
    if len(found) > PROBLEMS_MAX:
        lines.append(element("li", text(f"… and {len(found) - PROBLEMS_MAX:,} more")))
    return card(
        element("h3", "✗ The ledger does NOT verify", class_="bad"),
        element(
            "p",
            "It was changed or damaged after it was written. Nothing below can be relied on. "
            f"Verification found {text(count(len(found), 'problem'))}:",
        ),
        element("ul", *lines),
        chain,
        kind="verdict broken",
    )


def summary(report: MarketReport) -> str:
    """Show the market in a few figures."""
    book, states = report.book, state_counts(report.book)
    begin, end = period(book)
    others = [f"{number} {what}" for what, number in states.items() if number and what != "settled"]
    volume = sum(page.history.volume_micro for page in book.pages)
    values = [
        ("Rounds settled", f"{states['settled']:,}", ", ".join(others) or "none abandoned"),
        (
            "Institutions",
            f"{len(book.names):,}",
            f"{len(report.gone)} left or expelled" if report.gone else "none left",
        ),
        _accuracy_tile(report),
        (
            "Purchases",
            f"{sum(page.history.edges for page in book.pages):,}",
            f"for {money(volume)} credits",
        ),
        _utility_tile(report),
        (
            "From first to last step",
            duration(None if begin is None or end is None else end - begin),
            "" if begin is None else f"since {moment(begin)}",
        ),
    ]
    return tiles(values)


def _accuracy_tile(report: MarketReport) -> tuple[str, str, str]:
    now = _mean(last_accuracies(report))
    note = ", ".join(
        f"{name}: {percent(value)} %" for name, value in pictures.baseline_means(report).items()
    )
    value = "–" if now is None else f"{percent(now)} %"
    return "Mean test accuracy", value, note or "no baselines are known"


def _utility_tile(report: MarketReport) -> tuple[str, str, str]:
    sums = report.book.summed_utilities
    if not sums.size:
        return "Utility in all", "–", "credits"
    least = int(np.argmin(sums[-1]))
    note = f"credits; least: {report.names[least]}, {real(float(sums[-1, least]), 2)}"
    total = float(sums[-1].sum())
    return "Utility in all", real(total, 2 if abs(total) < 1e4 else 0), note


def market(report: MarketReport) -> str:
    """Show who bought from whom, round by round."""
    if not report.graphs:
        return card(element("p", "No round has begun." if not report.book.pages else "–"))
    where = pictures.places(report)
    last = report.settled[-1] if report.settled else report.graphs[-1].round
    shown = next((k for k, graph in enumerate(report.graphs) if graph.round == last), 0)
    parts = []
    names = dict(zip(report.book.names, report.names, strict=True))
    for graph in report.graphs:
        words = pictures.round_words(graph)
        label = f"Round {graph.round}: {graph.state.lower()}"
        picture = pictures.round_picture(report, graph, where)
        heading = element("p", element("b", text(label)), text(f": {short(words, TEXT_MAX)}"))
        purchases = ""
        if 0 < len(graph.edges) <= PURCHASES_MAX:
            rows = [[names[e.buyer], names[e.seller], money(e.price)] for e in graph.edges]
            columns = [("Buyer", False), ("Seller", False), ("Credits", True)]
            purchases = folded(
                "What was bought, in figures",
                table(f"Purchases of round {graph.round}", columns, rows),
            )
        parts.append((f"{label}, {words.split(';')[0]}", heading + picture + purchases))
    left_out = len(report.book.pages) - len(report.graphs)
    note = (
        "An arrow goes from the buyer to the seller whose model it imports; wider is dearer. "
        "Those that trade with each other stand together."
    )
    if len(report.names) <= RING_MAX:
        note += (
            " The ring shows the accuracy of an institution's best model, in percent; below its "
            "name stands its balance in credits."
        )
    if left_out:
        note += (
            f" Of {count(len(report.book.pages), 'round')} {len(report.graphs)} are drawn, evenly "
            "picked: ipfl market show LEDGER --round N prints any."
        )
    frame = steps("rounds-drawn", "Round", parts, shown)
    return card(frame, element("p", text(note), class_="soft"))


def accuracy(report: MarketReport) -> str:
    """Show how well models do, beside what there is to compare with."""
    baselines = report.baselines
    note = (
        "A line follows the best model that an institution has had, by its own validation data, on "
        "its own test data; institutions report this themselves. "
    )
    if len(report.names) > 1:
        note += "The mean is of those that reported in a round. "
    if len(report.names) > pictures.LINES_MAX:
        note += "The band holds the middle eighty percent of them. "
    note += report.baselines_note
    chart = figure("Test accuracy by round, percent", pictures.accuracy_picture(report), note)
    first, now = report.book.first_accuracies, last_accuracies(report)
    extra = list(baselines.accuracies) if baselines else []
    numbers = ["Latest", *(short(name, 20) for name in extra), "First report", "Gain"]
    columns = [("Institution", False), *((name, True) for name in numbers)]
    rows = []
    for i, name in enumerate(report.names):
        gain = None if np.isnan(now[i] - first[i]) else 100 * float(now[i] - first[i])
        of = report.book.names[i]
        others = [percent(baselines.accuracies[b].get(of)) for b in extra] if baselines else []
        rows.append([name, percent(known(now[i])), *others, percent(known(first[i])), signed(gain)])
    means = [_mean(first), _mean(now)]
    change = None if None in means else 100 * float(means[1] or 0) - 100 * float(means[0] or 0)
    known_means = pictures.baseline_means(report)
    others = [percent(known_means.get(name)) for name in extra]
    foot = ["Mean", percent(means[1]), *others, percent(means[0]), signed(change)]
    explained = (
        "The first report is of a model trained alone for one round: where a market begins, not "
        "what training alone comes to."
    )
    figures = card(
        element("h3", "By institution"),
        table("Test accuracy in percent", columns, rows, foot=foot),
        element("p", text(explained), class_="soft"),
    )
    return element("div", chart, figures, class_="pair")


def utility(report: MarketReport) -> str:
    """Show what taking part was worth."""
    note = (
        "Utility is what a round's purchases gained an institution, less what its own sales cost "
        "it, less its net payment. Payments cancel in the sum over all institutions."
    )
    pair = element(
        "div",
        figure("Utility summed up, credits", pictures.summed_picture(report)),
        figure("Utility by round, credits", pictures.utility_picture(report)),
        class_="pair",
    )
    picked = picked_rounds(len(report.book.pages), TABLE_ROUNDS)
    every, sums = report.book.utilities, report.book.summed_utilities
    columns = [("Institution", False), ("In all", True), *((f"{n}", True) for n in picked)]
    rows = [
        [
            name,
            real(float(sums[-1, i]) if len(sums) else None),
            *(real(known(every[number, i])) for number in picked),
        ]
        for i, name in enumerate(report.names)
    ]
    caption = "Utility in credits: in all, and by round"
    if len(picked) < len(report.book.pages):
        caption += f" ({len(picked)} of {len(report.book.pages):,} rounds)"
    figures = folded("Utility in figures", table(caption, columns, rows))
    return pair + card(element("p", text(note), class_="soft"), figures)


def last_accuracies(report: MarketReport) -> NDArray[np.float64]:
    """Return the last accuracy that each reported, (m,): after the last delivery, else before."""
    table_ = pictures.best_accuracies(report)
    found = np.full(len(report.names), np.nan)
    for row in table_:
        found = np.where(np.isnan(row), found, row)
    return found if report.final is None else np.where(np.isnan(report.final), found, report.final)


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
