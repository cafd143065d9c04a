"""The Prometheus collector of a market: it reads the ledger when scraped, and only what is new.

A scrape sums up the rounds since the last one, whatever the market's age. One registry is made for
one ledger and kept (`market_registry`); `render` is for a single look.
"""

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ipfl_flower.console import catalogue as c
from ipfl_flower.console.book import is_sealed_by
from ipfl_flower.console.page import Described, Page
from ipfl_flower.console.tally import Outcome, Phase, Totals
from ipfl_flower.ledger import MICRO, Account, Figures, Institution, Ledger, LedgerError, State
from ipfl_flower.market import clear

INSTITUTIONS_MAX: Final = 100
OTHER: Final = "other"


class LedgerCollector(Described):
    """What a ledger says.

    Parameters
    ----------
    ledger : Ledger
        Stays the caller's, who closes it.
    institutions_max : int
        Institutions with lines of their own, the first ones by id: of the others, sums are under
        the name "other", and what can't be summed is left out.
    """

    specs = c.OF_LEDGER

    def __init__(self, ledger: Ledger, institutions_max: int = INSTITUTIONS_MAX) -> None:
        self._ledger = ledger
        self._institutions_max = institutions_max
        self._lock = threading.Lock()
        self._totals = Totals()
        self._head: str | None = None  # of the last round in them
        # What takes a while and doesn't change: of a settled round's number, and of a head.
        self._unweighted: tuple[int, int] | None = None
        self._fits: tuple[str | None, bool] | None = None

    def collect(self) -> Iterable[Metric]:
        """Read the ledger; one that can't be read is itself a metric."""
        page = Page()
        # One scrape at a time: the totals go on from scrape to scrape.
        with self._lock:
            try:
                figures = self._read_on()
                served = self._ledger.server() is not None
                totals = self._totals.plus(figures.going)
                unweighted = self._purchases_without_distance(totals)
                fits = self._head_fits(figures.head)
            except LedgerError:
                page.add(c.READABLE, 0)
                return page
        page.add(c.READABLE, 1)
        page.add(c.SERVED, served)
        _add_market(page, figures)
        _add_rounds(page, totals)
        _add_newest(page, figures)
        _add_settled(page, totals, unweighted)
        self._add_institutions(page, figures, totals.accounts)
        page.add(c.IMBALANCE, totals.imbalance_micro / MICRO)
        page.add(c.HEAD_FITS, fits)
        return page

    def _read_on(self) -> Figures:
        """Read and count what is new; all of it, if another ledger was put in this one's place."""
        counted = self._totals.through + 1
        if counted and not is_sealed_by(self._ledger, counted, self._head):
            self._totals, self._unweighted, self._fits = Totals(), None, None
        figures = self._ledger.figures(after=self._totals.through)
        self._totals.add(figures.over)
        if figures.over.rounds:
            self._head = self._ledger.head(before=self._totals.through + 1)
        return figures

    def _purchases_without_distance(self, totals: Totals) -> int | None:
        """Clear the last settled round once more with λ = 0, if nobody bought in it."""
        if totals.last is None or totals.last.edges:
            return None
        number = totals.last.number
        if self._unweighted is None or self._unweighted[0] != number:
            was = self._ledger.settlement(number)
            rules = dataclasses.replace(was.rules, distance_weight=0.0)
            again = clear(was.terms, was.distances, rules, was.active)
            self._unweighted = (number, int(again.imports.sum()))
        return self._unweighted[1]

    def _head_fits(self, head: str | None) -> bool:
        if self._fits is None or self._fits[0] != head:
            self._fits = (head, self._ledger.head_fits())
        return self._fits[1]

    def _add_institutions(
        self, page: Page, figures: Figures, accounts: Mapping[int, Account]
    ) -> None:
        shown = figures.institutions[: self._institutions_max]
        names = {item.id: item.name for item in shown}
        sums: dict[str, Account] = defaultdict(Account)
        for item in figures.institutions:
            sums[names.get(item.id, OTHER)].add(accounts.get(item.id, Account()))
        for name, account in sums.items():
            _add_account(page, name, account)
        for item in shown:
            _add_institution(page, item, figures)


def market_registry(ledger: Ledger, *others: Collector) -> CollectorRegistry:
    """Make the registry of a market, to be kept from scrape to scrape.

    Parameters
    ----------
    ledger : Ledger
        Must stay open as long as the registry is used.
    *others : Collector
        Of what else there is to say: `host`, `verifier`.
    """
    registry = CollectorRegistry()
    for collector in (LedgerCollector(ledger), *others):
        registry.register(collector)
    return registry


def render(ledger: Ledger) -> bytes:
    """Return a market's metrics as they are now, in Prometheus' text format."""
    return generate_latest(market_registry(ledger))


def _add_market(page: Page, figures: Figures) -> None:
    page.add(c.INSTITUTIONS, len({item.id for item in figures.institutions} - figures.gone))
    weight = (figures.settings or {}).get("distance-weight")
    if weight is not None:
        page.add(c.DISTANCE_WEIGHT, weight)
    for kind, count in sorted(figures.events.items()):
        page.add(c.EVENTS, count, kind)


def _add_rounds(page: Page, totals: Totals) -> None:
    for outcome in Outcome:
        page.add(c.ROUNDS, totals.outcomes[outcome], outcome)
    page.one_of(c.LAST_OUTCOME, Outcome, totals.last_outcome)
    for phase in Phase:
        durations = totals.phases[phase]
        page.histogram(c.PHASES, durations.buckets(), durations.sum_s, phase)
    page.add(c.PURCHASES, totals.edges)
    page.add(c.PAYMENTS, totals.volume_micro / MICRO)
    page.add(c.FALLBACKS, totals.fallbacks)
    page.add(c.NO_TRADE, totals.without_purchases)


def _add_newest(page: Page, figures: Figures) -> None:
    state = figures.state
    if state is None:
        return
    page.add(c.ROUND, state.number)
    page.one_of(c.STATE, [str(item) for item in State], str(state.state))
    if figures.entered_at is not None:
        page.add(c.ENTERED, figures.entered_at)
    if state.state is State.COLLECTING and state.deadline_at is not None:
        page.add(c.DEADLINE, state.deadline_at)
    page.add(c.QUORUM, state.quorum)
    page.add(c.ASKED, len(state.asked))
    page.add(c.REPLIED, len(state.reported))
    page.add(c.FAILED, len(state.failed))
    page.add(c.WAITING, len(state.waiting))


def _add_settled(page: Page, totals: Totals, unweighted: int | None) -> None:
    last = totals.last
    if last is None:
        return
    possible = last.active * (last.active - 1)
    page.add(c.PARTICIPANTS, last.active)
    page.add(c.EDGES, last.edges)
    page.add(c.DENSITY, last.edges / possible if possible else 0.0)
    page.add(c.VOLUME, last.volume_micro / MICRO)
    page.add(c.WELFARE, last.welfare)
    page.add(c.DECLINED, last.declined)
    if unweighted is not None:
        page.add(c.UNWEIGHTED, unweighted)


def _add_account(page: Page, name: str, account: Account) -> None:
    page.add(c.PAID, account.paid_micro / MICRO, name)
    page.add(c.EARNED, account.earned_micro / MICRO, name)
    page.add(c.BALANCE, (account.earned_micro - account.paid_micro) / MICRO, name)
    page.add(c.UTILITY, account.utility, name)
    page.add(c.GAIN, account.gain, name)
    page.add(c.BOUGHT, account.purchases, name)
    page.add(c.SOLD, account.sales, name)
    page.add(c.REPLIES, account.replies, name)
    page.add(c.FAILURES, account.failures, name)
    page.add(c.OVER_BUDGET, account.declined, name)


def _add_institution(page: Page, item: Institution, figures: Figures) -> None:
    waiting = () if figures.state is None else figures.state.waiting
    collecting = figures.state is not None and figures.state.state is State.COLLECTING
    page.add(c.ACTIVE, item.id not in figures.gone, item.name)
    page.add(c.AWAITED, collecting and item.id in waiting, item.name)
    page.add(c.LAST_REPLY, figures.last_heard[item.id], item.name)
    metrics = figures.metrics.get(item.id, {})
    for reported, spec in c.REPORTED.items():
        if reported in metrics:
            page.add(spec, metrics[reported], item.name)
