"""The report of a market: one HTML page for people who were not there, read from its ledger."""

from ipfl_flower.report.baselines import Baselines, ReportError, read_baselines
from ipfl_flower.report.compare import compared, compared_with_file
from ipfl_flower.report.gather import MarketReport, read_market
from ipfl_flower.report.page import market_page
from ipfl_flower.report.pictures import slides

__all__ = [
    "Baselines",
    "MarketReport",
    "ReportError",
    "compared",
    "compared_with_file",
    "market_page",
    "read_baselines",
    "read_market",
    "slides",
]
