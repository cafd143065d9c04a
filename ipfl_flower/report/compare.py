"""A market beside its baselines, if they are of this market."""

from dataclasses import replace
from pathlib import Path

from ipfl_flower.charts.svg import short
from ipfl_flower.console.book import Book
from ipfl_flower.report.baselines import Baselines, ReportError, read_baselines
from ipfl_flower.report.gather import MarketReport


def compared(report: MarketReport, given: Baselines) -> MarketReport:
    """Compare a market with the baselines that its operator names.

    Raises
    ------
    ReportError
        They are of other institutions.
    """
    of = {who for values in given.accuracies.values() for who in values}
    if not of & report.book.ids.keys():
        known = ", ".join(report.names[:10]) or "nobody"
        raise ReportError(f"{given.source} has none of this market's institutions: {known}")
    note = f"Baselines are from {given.source}."
    if given.head is not None and given.head not in _heads(report.book):
        note += " That file is of another market."
    return replace(report, baselines=given, baselines_note=note)


def compared_with_file(report: MarketReport, path: Path | None) -> MarketReport:
    """Compare a market with what a demo has left beside its ledger, if it is of this market.

    Parameters
    ----------
    report : MarketReport
    path : Path or None
        The file, which may be missing; None: there is no place for one.
    """
    none = "No baselines are known: ipfl report --baselines FILE gives them."
    if path is None or not path.exists():
        return replace(report, baselines_note=none)
    try:
        found = read_baselines(path)
    except ReportError as error:
        return replace(report, baselines_note=f"{none} {short(str(error), 300)}")
    if found.head not in _heads(report.book):
        return replace(report, baselines_note=f"{none} {path.name} is of another market.")
    return replace(report, baselines=found, baselines_note=f"Baselines are from {found.source}.")


def _heads(book: Book) -> set[str | None]:
    return {page.history.head for page in book.pages if page.history.head}
