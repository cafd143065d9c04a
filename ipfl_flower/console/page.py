"""Metric families, filled one sample at a time from the catalogue."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

from ipfl_flower.console.catalogue import Spec


def empty(spec: Spec) -> Metric:
    """Make a family without samples."""
    if spec.kind == "histogram":
        return HistogramMetricFamily(spec.name, spec.about, labels=spec.labels)
    if spec.kind == "counter":
        return CounterMetricFamily(spec.name, spec.about, labels=spec.labels)
    return GaugeMetricFamily(spec.name, spec.about, labels=spec.labels)


class Described:
    """A collector that names its families, for the registry, without collecting.

    Attributes
    ----------
    specs : tuple of Spec
        All that it may ever say.
    """

    specs: ClassVar[tuple[Spec, ...]]

    def describe(self) -> Iterable[Metric]:
        """Return the families, empty."""
        return [empty(spec) for spec in self.specs]


class Page:
    """What one collector says in one scrape; families are in the order of their first sample."""

    def __init__(self) -> None:
        self._families: dict[Spec, Metric] = {}

    def add(self, spec: Spec, value: float, *labels: str) -> None:
        """Add a sample of a counter or a gauge."""
        family = self._family(spec)
        family.add_sample(spec.shown, dict(zip(spec.labels, labels, strict=True)), float(value))

    def one_of(self, spec: Spec, states: Iterable[str], now: str | None) -> None:
        """Add a sample for each state: 1 for that of `now`, 0 for the others."""
        for state in states:
            self.add(spec, state == now, state)

    def histogram(
        self, spec: Spec, buckets: Sequence[tuple[str, float]], total: float, *labels: str
    ) -> None:
        """Add a histogram: cumulative counts by upper bound, and the sum."""
        names = dict(zip(spec.labels, labels, strict=True))
        family = self._family(spec)
        for bound, count in buckets:
            family.add_sample(f"{spec.name}_bucket", {**names, "le": bound}, count)
        family.add_sample(f"{spec.name}_count", names, buckets[-1][1])
        family.add_sample(f"{spec.name}_sum", names, total)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def _family(self, spec: Spec) -> Metric:
        if spec not in self._families:
            self._families[spec] = empty(spec)
        return self._families[spec]
