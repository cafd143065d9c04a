"""What an institution does with the receipts that come with its messages."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ipfl_flower.market import Terms
from ipfl_flower.receipts import ReceiptError, ReceiptFolder
from ipfl_flower.receipts.encoding import canonical

logger = logging.getLogger(__name__)


class Receipts:
    """The receipts of one institution, and its alarms.

    Parameters
    ----------
    state_dir : Path
        They lie in its folder ``receipts``.
    operator_key : str or None
        As in the institution.toml; None: the key of the first receipt.
    on_alarm : {"continue", "stop"}
        Whether the institution goes on after a receipt that doesn't fit.
    """

    def __init__(
        self, state_dir: Path, operator_key: str | None, on_alarm: Literal["continue", "stop"]
    ) -> None:
        self._folder = ReceiptFolder(state_dir / "receipts", operator_key)
        self._on_alarm = on_alarm

    def take(self, statement: Mapping[str, Any] | None, asked_in: int, *, centre: bool) -> int:
        """Check and keep what a message says about the last settled round.

        Parameters
        ----------
        statement : mapping or None
            The signed receipt; empty: the message brought none; None: nothing is known of it.
        asked_in : int
            The message's round.
        centre : bool
            Whether the message brought a prox-centre, which only a buyer gets.

        Returns
        -------
        int
            Alarms raised so far.

        Raises
        ------
        ReceiptError
            There is an alarm and the institution stops on it, or the folder is unusable.
        """
        if statement:
            findings = self._folder.take(_text(statement), asked_in, _missing(statement, centre))
        elif statement is not None and centre:
            findings = ["a prox-centre came without a receipt of what was paid for it"]
            self._folder.raise_alarm(asked_in, findings[0])
        else:
            findings = []
        for finding in findings:
            logger.error("ALARM: the receipt that came with round %d: %s", asked_in, finding)
        alarms = self._folder.alarms()
        if alarms and self._on_alarm == "stop":
            raise ReceiptError(
                f"stopped on an alarm about a receipt, see {alarms[-1]}: settle it with the "
                'operator, then move the file away, or set on_alarm = "continue"'
            )
        return len(alarms)

    def report(self, number: int, terms: Terms) -> None:
        """Remember which terms are reported in a round, before they are."""
        self._folder.report(number, terms)


def _text(statement: Mapping[str, Any]) -> str:
    try:
        return canonical(dict(statement))
    except (TypeError, ValueError, RecursionError) as error:
        return f"no JSON: {error}"  # kept with the alarm that reading it raises


def _missing(statement: Mapping[str, Any], centre: bool) -> list[str]:
    receipt = statement.get("receipt")
    paid = isinstance(receipt, Mapping) and bool(receipt.get("bought"))
    return ["models were paid for, and no prox-centre came"] if paid and not centre else []
