"""What the ledger keeps with each account, and market.toml can't change afterwards."""

from ipfl_flower.cli.documents import KitError
from ipfl_flower.ledger import Ledger


def check_samples_cap(ledger: Ledger, samples_cap: int) -> None:
    """See that those who were admitted before would not be locked out.

    Parameters
    ----------
    ledger : Ledger
    samples_cap : int
        ``samples-max``, as the settings have it.

    Raises
    ------
    KitError
        Somebody was admitted with another: the market would take nobody like that.
    """
    for item in ledger.institutions():
        if item.samples_cap not in (None, samples_cap):
            raise KitError(
                f"samples-max is {samples_cap}, and {item.name} was admitted with "
                f"{item.samples_cap}, which {ledger.name} keeps: set samples-max = "
                f"{item.samples_cap}, or begin with a new ledger and admit everybody again"
            )
