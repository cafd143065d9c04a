"""The whole ledger verified from time to time, beside the scrapes, for which it takes too long."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from prometheus_client.metrics_core import Metric

from ipfl_flower.console import catalogue as c
from ipfl_flower.console.page import Described, Page
from ipfl_flower.ledger import Ledger, Problem

GRACE_S: Final = 5.0
RETRY_S: Final = 60.0

_log = logging.getLogger(__name__)


def verified(ledger: Ledger) -> list[Problem]:
    """Verify a ledger; what is said to be unreadable must be so twice.

    A connection lost on the way looks like rows that were tampered with. Those are still there
    the second time; a database that is gone can't be connected to then.

    Raises
    ------
    LedgerError
        The ledger can't be reached: that says nothing about what is in it.
    """
    problems = ledger.verify()
    if any(problem.check == "readable" for problem in problems):
        problems = ledger.verify()
    return problems


@dataclass(frozen=True)
class Verification:
    """What one verification came to: when it ended (seconds since 1970), and how long it took."""

    problems: tuple[Problem, ...]
    ended_at: float
    duration_s: float


class VerificationCollector(Described):
    """What the last verification of the whole ledger found.

    Parameters
    ----------
    last : callable
        Gives it; None before the first has ended, and then there is nothing to say.
    """

    specs = (c.VERIFIED, c.PROBLEMS, c.VERIFIED_AT, c.VERIFYING)

    def __init__(self, last: Callable[[], Verification | None]) -> None:
        self._last = last

    def collect(self) -> Iterable[Metric]:
        """Say what it found."""
        page, last = Page(), self._last()
        if last is not None:
            page.add(c.VERIFIED, not last.problems)
            for check, count in sorted(Counter(item.check for item in last.problems).items()):
                page.add(c.PROBLEMS, count, check)
            page.add(c.VERIFIED_AT, last.ended_at)
            page.add(c.VERIFYING, last.duration_s)
        return page


class Verifier(VerificationCollector):
    """Verifies a ledger at once and then every `every_s` seconds, while it is entered as a context.

    Parameters
    ----------
    ledger : Ledger
        Must stay open until the context is left.
    every_s : float
        Pause between two verifications.
    clock : callable
        Seconds since 1970.
    """

    def __init__(
        self, ledger: Ledger, every_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(lambda: self.last)
        self._ledger = ledger
        self._every_s = every_s
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verifier", daemon=True)
        self.last: Verification | None = None

    def verify(self) -> Verification:
        """Verify now.

        Raises
        ------
        LedgerError
            The ledger can't be reached; the last verification stands.
        """
        began = time.monotonic()
        problems = tuple(verified(self._ledger))
        self.last = Verification(problems, self._clock(), time.monotonic() - began)
        return self.last

    def _run(self) -> None:
        while not self._over.is_set():
            pause = self._every_s
            try:
                self.verify()
            except Exception as error:  # noqa: BLE001  # else the last state would be shown for ever
                _log.warning("the ledger could not be verified: %r", error)
                pause = min(pause, RETRY_S)
            self._over.wait(pause)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give a verification that has begun a moment to end; a long one goes with the process."""
        self._over.set()
        self._thread.join(GRACE_S)
