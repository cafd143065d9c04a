"""How money is written."""

from ipfl_flower.market import MICRO


def credits_text(micro: int) -> str:
    """Write an amount of micro-credits as credits, exactly.

    >>> credits_text(-1_500_000)
    '-1.500000'
    """
    whole, rest = divmod(abs(micro), MICRO)
    return f"{'-' if micro < 0 else ''}{whole:,}.{rest:06d}"
