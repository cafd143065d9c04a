"""The institution's own limits: what no message of the market can make its trainer do.

Payments and prices are limited by what is reported: a round never costs a buyer more than its
budget, and no sale pays less than the seller's cost (mechanism.md §4, §7).
"""

import dataclasses
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from ipfl_flower.market import Terms
from ipfl_flower.trainer.errors import LimitError

DAY_S = 24 * 3600.0


class Limits(BaseModel):
    """[limits] in an institution.toml; by default there are none.

    Attributes
    ----------
    payment_max
        The most that it pays in one round, credits.
    price_min
        The least that one sale of its model must bring, credits.
    tasks
        What a market may call the task that it asks for; None: only what [task] calls it.
    clip_norm
        The largest L2 norm of the update v = θ − θ⁰ of a model that is sent. None: not clipped.
    noise_std
        Standard deviation of the Gaussian noise added to every parameter that is sent.
    share_metrics
        Whether metrics go with the model.
    rounds_a_day
        How often it begins to train a round within 24 hours; None: any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    payment_max: float = Field(default=float("inf"), ge=0)
    price_min: float = Field(default=0.0, ge=0)
    tasks: tuple[str, ...] | None = Field(default=None, strict=False)
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    noise_std: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    share_metrics: bool = True
    rounds_a_day: int | None = Field(default=None, ge=1)

    def cap(self, terms: Terms) -> Terms:
        """Return the terms to report: with no more budget, and no less cost, than the limits."""
        return dataclasses.replace(
            terms,
            budget=min(terms.budget, self.payment_max),
            cost=max(terms.cost, self.price_min),
        )

    def require_task(self, asked: str, own: str) -> None:
        """Check which task a market asks for.

        Parameters
        ----------
        asked
            What the market calls it; "": it doesn't say.
        own
            What [task] calls it.

        Raises
        ------
        LimitError
            It is another, or the limits name tasks and the market doesn't.
        """
        allowed = {"", own} if self.tasks is None else set(self.tasks)
        if asked not in allowed:
            names = " or ".join(repr(name) for name in sorted(allowed - {""}))
            raise LimitError(
                f"the market asks for task {asked[:64]!r}, and only {names} is served here: set "
                "task in market.toml, or limits.tasks in institution.toml"
            )

    def require_round(self, begun: Sequence[float]) -> None:
        """Check that one more round may be trained now.

        Parameters
        ----------
        begun
            When those of the last day were begun, seconds since 1970.

        Raises
        ------
        LimitError
            There were as many as may be.
        """
        most = self.rounds_a_day
        if most is not None and len(begun) >= most:
            left_s = max(0.0, sorted(begun)[-most] + DAY_S - time.time())
            raise LimitError(
                f"{len(begun)} rounds were begun in 24 hours, limits.rounds_a_day is {most}: ask "
                f"again in {left_s / 60:.0f} minutes"
            )


NO_LIMITS = Limits()


def of_last_day(moments: Sequence[float]) -> list[float]:
    """Return those of the moments that lie within the last 24 hours."""
    since = time.time() - DAY_S
    return [moment for moment in moments if moment > since]
