"""What a report says of money and of the record: payments, statements, rounds, contract, runs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.charts.document import Cell, card, figure, folded, table
from ipfl_flower.charts.heat import heat_map, shade
from ipfl_flower.charts.svg import element, short, text
from ipfl_flower.console.access import OPERATOR
from ipfl_flower.console.book import Book, Page
from ipfl_flower.console.rounds import round_line
from ipfl_flower.ledger import Event, State
from ipfl_flower.market import MICRO
from ipfl_flower.report import pictures
from ipfl_flower.report.gather import MarketReport
from ipfl_flower.report.words import count, duration, moment, money, real

MATRIX_MAX: Final = 16
PAIRS_MAX: Final = 100
ROUNDS_MAX: Final = 200
EVENTS_MAX: Final = 200
SETTINGS_MAX: Final = 100
FOLDS_MAX: Final = 20
TEXT_MAX: Final = 300
ENDINGS: Final = ("finished", "stopped", "died", "ended early")

CONTRACT: Final = {
    "centre": "distance whose gradient makes the prox-centre that a buyer gets",
    "distance": "distance between models that the market works with",
    "distance-weight": "λ, credits: how dear it is to buy from those unlike oneself",
    "eta": "η, the step of the prox-centre",
    "initial-model": "digest of the model that all began with",
    "layout": "digest of the names, shapes and types of the model's tensors",
    "max-volume-ratio": "how many times a buyer's own samples a seller's count, at most",
    "mechanism": "truthful, or the paper's",
    "micro-per-credit": "parts of a credit in which money is counted",
    "operator-key": "public key that signs receipts",
    "payment": "how prices are made: critical or marginal",
    "prox-weight": "μ, how strongly training is held near the prox-centre",
    "reference": "what updates are measured from for the distance: the first model, or their mean",
    "samples-max": "most samples that an institution may report",
    "selection": "how a buyer's models are chosen: exact, skip or greedy",
    "start": "where training starts when there is a centre",
    "task": "what is trained",
}


def payments(report: MarketReport) -> str:
    """Show accounts, and who paid whom how much over all rounds."""
    total = sum(statement.balance for statement in report.statements)
    note = (
        f"All balances sum to {money(total)} credits. A balance is what was earned less what was "
        "paid; above zero, the institution was paid in the end."
    )
    accounts = figure("Accounts", pictures.balance_picture(report), note)
    rows = [
        [name, money(item.paid), money(item.earned), money(item.balance)]
        for name, item in zip(report.names, report.statements, strict=False)
    ]
    columns = [("Institution", False), ("Paid", True), ("Earned", True), ("Balance", True)]
    figures = card(
        element("h3", "By institution"), table("What each paid and earned, credits", columns, rows)
    )
    return element("div", accounts, figures, class_="pair") + _matrix(report)


def _matrix(report: MarketReport) -> str:
    if report.payments is None or not report.payments.any():
        return card(element("p", "Nobody has paid anybody anything."))
    paid, names = report.payments, report.names
    if len(names) <= MATRIX_MAX:
        most = float(paid.max())
        columns = [("Buyer", False), *((short(name, 16), True) for name in names), ("Paid", True)]
        rows: list[list[Cell]] = []
        kinds = []
        for i, name in enumerate(names):
            cells = [money(value) if value else "·" for value in paid[i].tolist()]
            rows.append([name, *cells, money(sum(paid[i].tolist()))])
            dark = [shade(float(value), most) for value in paid[i]]
            kinds.append(["", *(f"h{k}" if k else "" for k in dark), ""])
        earned = [sum(column) for column in paid.T.tolist()]
        foot: list[Cell] = ["Earned", *map(money, earned), money(sum(earned))]
        grid = table(
            "Credits that a row's buyer paid a column's seller, over all rounds",
            columns,
            rows,
            classes=kinds,
            foot=foot,
        )
        return card(element("h3", "Who paid whom"), grid, kind="matrix")
    values = (paid / MICRO).tolist()
    picture = heat_map(
        "Who paid whom",
        "A row is a buyer, a column a seller; the darker, the more was paid over all rounds",
        names,
        values,
        show=lambda value: f"{value:,.2f} credits",
    )
    pairs = sorted(
        (
            (int(paid[i, j]), i, j)
            for i in range(len(names))
            for j in range(len(names))
            if paid[i, j]
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    rows = [[names[i], names[j], money(amount)] for amount, i, j in pairs[:PAIRS_MAX]]
    caption = f"Credits over all rounds; {len(rows)} of {count(len(pairs), 'pair')}, the largest"
    columns = [("Buyer", False), ("Seller", False), ("Credits", True)]
    return figure(
        "Who paid whom",
        picture,
        "A row is a buyer, a column a seller, in the order of the table below; darker is more.",
        folded("The largest payments", table(caption, columns, rows)),
    )


def statements(report: MarketReport) -> str:
    """List each institution's entries."""
    columns = [
        ("Round", False),
        ("With", False),
        ("Paid", True),
        ("Earned", True),
        ("Balance", True),
    ]
    names = dict(zip(report.book.names, report.names, strict=True))
    found = []
    for name, item, earlier in zip(report.names, report.statements, report.left_out, strict=False):
        rows: list[list[Cell]] = []
        if earlier and item.lines:
            first = item.lines[0]
            before = first.balance_micro + first.amount_micro * (
                1 if first.direction == "paid" else -1
            )
            rows.append(["…", f"{earlier:,} earlier, carried forward", "", "", money(before)])
        for line in item.lines:
            amount = money(line.amount_micro)
            sides = [amount, ""] if line.direction == "paid" else ["", amount]
            with_ = names.get(line.counterparty, short(line.counterparty, 40))
            rows.append([str(line.round), with_, *sides, money(line.balance_micro)])
        foot: list[Cell] = ["All", "", money(item.paid), money(item.earned), money(item.balance)]
        line_ = (
            f"{name}: paid {money(item.paid)}, earned {money(item.earned)}, "
            f"balance {money(item.balance)}"
        )
        found.append(folded(line_, table(f"Statement of {name}", columns, rows, foot=foot)))
    if len(found) > FOLDS_MAX:
        found = [folded(count(len(found), "statement"), *found)]
    if any(report.left_out):
        words = (
            "The newest entries are shown: ipfl ledger statement LEDGER NAME prints all of them."
        )
        found.append(element("p", text(words), class_="soft"))
    return card(*found) if found else card(element("p", "No institution is enrolled."))


def rounds(report: MarketReport) -> str:
    """List the rounds, the newest first."""
    columns = [
        ("Round", False),
        ("State", False),
        ("Replied", True),
        ("Purchases", True),
        ("Credits", True),
        ("Utility", True),
        ("Began", False),
        ("Took", True),
        ("What went wrong", False),
        ("Head", False),
    ]
    pages = report.book.pages[-ROUNDS_MAX:]
    names = dict(zip(report.book.names, report.names, strict=True))
    rows = [_round(report.book, page, names) for page in reversed(pages)]
    caption = "Rounds, the newest first"
    if len(pages) < len(report.book.pages):
        caption += f" ({len(pages)} of {len(report.book.pages):,}: ipfl ledger show prints all)"
    return card(table(caption, columns, rows))


def _round(book: Book, page: Page, names: Mapping[str, str]) -> list[Cell]:
    line, reached = round_line(book, page, OPERATOR), page.history.steps
    ended = reached.get(State.DELIVERED, reached.get(State.ABANDONED))
    began = reached.get(State.OPEN)
    wrong = [f"{names[name]}: {why}" for name, why in line.failed.items()]
    wrong += [line.detail] if line.detail else []
    wrong += (
        [f"waits for {', '.join(names[name] for name in line.waiting)}"] if line.waiting else []
    )
    return [
        str(line.number),
        line.state.lower(),
        f"{line.reported} of {line.asked}",
        "–" if line.purchases is None else f"{line.purchases:,}",
        "–" if line.volume is None else money(line.volume),
        real(line.welfare),
        moment(began),
        duration(None if ended is None or began is None else ended - began),
        short("; ".join(wrong), TEXT_MAX),
        (line.head or "–")[:12],
    ]


def contract(report: MarketReport) -> str:
    """List the settings that the market can't change, and who is in it on what terms."""
    settings = report.settings or {}
    rows = [
        [short(str(key), 60), short(_value(value), TEXT_MAX), CONTRACT.get(str(key), "")]
        for key, value in list(settings.items())[:SETTINGS_MAX]
    ]
    columns = [("Setting", False), ("Value", False), ("What it is", False)]
    caption = "The market's contract, recorded before its first round"
    agreed = (
        card(table(caption, columns, rows))
        if rows
        else card(element("p", "The market has not begun: nothing is agreed yet."))
    )
    return agreed + _institutions(report)


def _institutions(report: MarketReport) -> str:
    columns = [
        ("Institution", False),
        ("Standing", False),
        ("Replies", True),
        ("Samples", True),
        ("Cost", True),
        ("Eagerness", True),
        ("Budget", True),
        ("Key", False),
    ]
    expelled = report.book.expelled or {}
    rows: list[Sequence[Cell]] = []
    for item in report.book.institutions:
        replies = sum(item.id in page.history.reported for page in report.book.pages)
        standing = "left" if item.id in report.gone else "takes part"
        if item.id in expelled:
            standing = short(f"expelled: {expelled[item.id]}".rstrip(": "), TEXT_MAX)
        terms = report.terms.get(item.id)
        said: list[Cell] = ["–"] * 4
        if terms is not None:
            # Endless is a term, too: it sells nothing, or pays anything.
            amounts = [terms.cost, terms.eagerness, terms.budget]
            said = [f"{terms.samples:,}", *(f"{v:,.6g}".replace("inf", "∞") for v in amounts)]
        key = hashlib.sha256(item.public_key).hexdigest()[:16]
        rows.append([short(item.name, 200), standing, f"{replies:,}", *said, key])
    if not rows:
        return ""
    caption = "Institutions, the terms of each in the last settled round, and its key's fingerprint"
    return card(table(caption, columns, rows))


def runs(report: MarketReport) -> str:
    """List the Flower runs that served the market, and what happened."""
    events = report.book.events
    if not events:
        return card(element("p", "No event is recorded."))
    columns = [("Run", False), ("Began", False), ("Ended", False), ("How", False)]
    served = element("p", "No Flower run is recorded.")
    if found := _runs(events):
        served = table("Flower runs that served the market", columns, found)
    shown = events[-EVENTS_MAX:]
    rows = [
        [moment(event.at), short(event.kind, 40), short(event.text, TEXT_MAX)]
        for event in reversed(shown)
    ]
    caption = "Events, the newest first"
    if len(shown) < len(events):
        caption += f" ({len(shown)} of {len(events):,})"
    columns = [("When", False), ("What", False), ("Said", False)]
    return card(served) + card(folded(count(len(events), "event"), table(caption, columns, rows)))


def _runs(events: Sequence[Event]) -> list[list[Cell]]:
    found: list[list[Cell]] = []
    for event in events:
        if event.kind == "started":
            found.append([short(event.text, 60), moment(event.at), "–", "–"])
        elif event.kind in ENDINGS and found:
            how = f"{event.kind}: {event.text}"
            found[-1][2:] = [moment(event.at), short(how, TEXT_MAX)]
    return found[-EVENTS_MAX:][::-1]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
