"""How money is written in a terminal."""

from ipfl_flower.report.words import MINUS, money


def credits_text(micro: int) -> str:
    """Write an amount of micro-credits as credits, exactly, as reports do but in plain ASCII.

    >>> credits_text(-1_500_000)
    '-1.500000'
    """
    return money(micro).replace(MINUS, "-")
