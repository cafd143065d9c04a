"""How a report writes numbers."""

from datetime import UTC, datetime
from math import isfinite

from ipfl_flower.market import MICRO

MINUS = "−"


def money(micro: int) -> str:
    """Write micro-credits as credits, exactly.

    >>> money(-1_500_000)
    '−1.500000'
    """
    whole, rest = divmod(abs(int(micro)), MICRO)
    return f"{MINUS if micro < 0 else ''}{whole:,}.{rest:06d}"


def credits_short(micro: int) -> str:
    """Write micro-credits as credits with a sign and two decimals, for a picture.

    >>> credits_short(8_154_000)
    '+8.15'
    """
    return signed(micro / MICRO, 2)


def real(value: float | None, digits: int = 3) -> str:
    """Write a number; "–" if there is none."""
    if value is None or not isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """Write a number with its sign; "–" if there is none."""
    if value is None or not isfinite(value):
        return "–"
    return f"{value:+,.{digits}f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent, without the sign; "–" if there is none."""
    return real(None if value is None else 100 * value, digits)


def count(number: int, what: str) -> str:
    """Write how many there are.

    >>> count(1, "round"), count(2, "purchase")
    ('1 round', '2 purchases')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def moment(at: float | None) -> str:
    """Write a time, seconds since 1970, to the minute; "–" if there is none."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    """Write a duration.

    >>> duration(75.4), duration(12.3), duration(4000)
    ('1 min 15 s', '12 s', '1 h 7 min')
    """
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
