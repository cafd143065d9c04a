"""The report of a market as one HTML page."""

from typing import Final

from ipfl_flower.charts.document import card, document
from ipfl_flower.charts.svg import element, text
from ipfl_flower.report import books, sections
from ipfl_flower.report.gather import MarketReport
from ipfl_flower.report.words import moment

_READING: Final = {
    "Institution, round": (
        "Institutions train models on data that never leaves them. In each round all send their "
        "model in, the market decides who imports whose, and each goes on near what it bought."
    ),
    "Purchase, price": (
        "A buyer imports a seller's model and pays the seller for it. The mechanism sets the price "
        "between what the sale costs the seller and what the model adds for the buyer."
    ),
    "Balance": (
        "Earned less paid, exact: money is counted in millionths of a credit, and all balances sum "
        "to zero."
    ),
    "Utility": (
        "The gain that an institution's purchases promise by the mechanism's formula, less what "
        "its sales cost it, less its net payment."
    ),
    "Alone, FedAvg": (
        "Baselines, if there are any: what the same training comes to without a market, and with "
        "one averaged model for all. They are not in the ledger, but from the file that is named."
    ),
    "Verified": (
        "Every round is in a chain of hashes, and is cleared again from its recorded inputs. A "
        "record rewritten as a whole is consistent in itself: compare the head with one that an "
        "institution has kept in its receipts."
    ),
}


def market_page(report: MarketReport) -> str:
    """Write the report.

    Parameters
    ----------
    report : MarketReport

    Returns
    -------
    str
        One HTML file that needs nothing else: below 5 MB for 100 institutions × 200 rounds.
    """
    subtitle = element(
        "p",
        text(f"Read from {report.name} on {moment(report.written_at)}"),
        class_="soft",
    )
    readable = bool(report.book.pages or report.book.names or not report.unreadable)
    parts = [("summary", "", sections.verdict(report))]
    if readable:
        parts = [
            ("summary", "", sections.verdict(report) + sections.summary(report)),
            ("market", "Who bought from whom", sections.market(report)),
            ("accuracy", "Accuracy", sections.accuracy(report)),
            ("utility", "Utility", sections.utility(report)),
            ("payments", "Payments", books.payments(report)),
            ("statements", "Statements", books.statements(report)),
            ("rounds", "Rounds", books.rounds(report)),
            ("contract", "Contract", books.contract(report)),
            ("runs", "Runs and events", books.runs(report)),
        ]
    parts.append(("reading", "How to read this", _reading()))
    return document("Market report", subtitle, parts)


def _reading() -> str:
    terms = "".join(
        element("dt", text(term)) + element("dd", text(words)) for term, words in _READING.items()
    )
    close = "This page holds everybody's affairs, as the operator sees them: choose who gets it."
    return card(element("dl", terms), element("p", text(close), class_="soft"))
