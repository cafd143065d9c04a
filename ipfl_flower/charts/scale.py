"""From values to places, and the round values that an axis shows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TICKS_MAX = 20


@dataclass(frozen=True)
class Scale:
    """A straight map of the values [low, high] to the places [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return a value's place."""
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + part * (self.end - self.start)


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def bounds(values: Iterable[float | None], pad: float = 0.06) -> tuple[float, float]:
    """Return the range of values with a little room, also where they are all the same, or none."""
    known = finite(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = (high - low) * pad or abs(high) * pad or 1.0
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values that cut [low, high] into about `count` parts.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    # Counted: a step may be less than what tells two large numbers apart.
    found = [float(f"{(first + k) * step:.12g}") for k in range(TICKS_MAX)]
    return [value + 0.0 for value in found if value <= high + step * 1e-9]


def whole_ticks(low: int, high: int, count: int = 8) -> list[int]:
    """Return round whole numbers from `low` to `high`, both at least where there is room.

    None where `low` > `high`: between 0.1 and 0.9 there is no whole number.
    """
    if low > high:
        return []
    return sorted({int(value) for value in ticks(low, high, count) if value == int(value)})


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart until each is `gap` from the next, within [low, high], in their order.

    >>> spread([5.0, 5.0, 20.0], 4.0, 0.0, 30.0)
    [5.0, 9.0, 20.0]
    """
    order = sorted(range(len(places)), key=lambda k: places[k])
    moved = list(places)
    for before, k in zip([None, *order], order, strict=False):
        moved[k] = max(places[k], low if before is None else moved[before] + gap)
    limit = high
    for k in reversed(order):
        moved[k] = min(moved[k], limit)
        limit = moved[k] - gap
    return moved
