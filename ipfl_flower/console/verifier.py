"""The whole ledger verified from time to time, beside the scrapes, for which it takes too long."""

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
from ipfl_flower.ledger import Ledger, LedgerError, Problem

GRACE_S: Final = 5.0


@dataclass(frozen=True)
class Verification:
    """What one verification came to: when it ended (seconds since 1970), and how long it took."""

    problems: tuple[Problem, ...]
    ended_at: float
    duration_s: float


class Verifier(Described):
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

    specs = (c.VERIFIED, c.PROBLEMS, c.VERIFIED_AT, c.VERIFYING)

    def __init__(
        self, ledger: Ledger, every_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._every_s = every_s
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verifier", daemon=True)
        self.last: Verification | None = None

    def verify(self) -> Verification:
        """Verify now."""
        began = time.monotonic()
        try:
            problems = tuple(self._ledger.verify())
        except LedgerError as error:
            problems = (Problem("readable", "ledger", str(error)),)
        self.last = Verification(problems, self._clock(), time.monotonic() - began)
        return self.last

    def _run(self) -> None:
        while not self._over.is_set():
            self.verify()
            self._over.wait(self._every_s)

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

    # --- as a collector ---------------------------------------------------------------------------

    def collect(self) -> Iterable[Metric]:
        """Say what the last verification found; nothing before the first has ended."""
        page, last = Page(), self.last
        if last is not None:
            page.add(c.VERIFIED, not last.problems)
            for check, count in sorted(Counter(item.check for item in last.problems).items()):
                page.add(c.PROBLEMS, count, check)
            page.add(c.VERIFIED_AT, last.ended_at)
            page.add(c.VERIFYING, last.duration_s)
        return page
