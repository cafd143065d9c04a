"""Keeps the console's book up to date, and has the ledger verified beside it."""

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from ipfl_flower.console.book import Book, iso, read_book
from ipfl_flower.console.shapes import Verification
from ipfl_flower.console.verifier import Verification as Verified
from ipfl_flower.ledger import Ledger, Problem

LOOK_EVERY_S: Final = 1.0
VERIFY_EVERY_S: Final = 60.0
VERIFY_AGAIN_S: Final = 3600.0
"""A ledger to which nothing was added is verified again after that: rows may have been changed."""
VERIFY_SHARE: Final = 0.1
"""The most of its time that verifying takes: a long ledger is verified less often."""
PROBLEMS_MAX: Final = 100
STOP_S: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass
class Follower:
    """Reads a ledger again and again, in a thread of its own.

    Parameters
    ----------
    ledger : Ledger
        Opened to read.
    address : str
        Where the ledger is, with its password if it has one: a process of its own verifies it.
    verify : bool
        Whether it does.
    """

    ledger: Ledger
    address: str
    verify: bool = True
    book: Book = field(default_factory=Book)
    verification: Verification = field(default_factory=lambda: Verification(state="pending"))
    verified: Verified | None = None
    failure: str | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _checker: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Read the ledger once, then go on in the background.

        Raises
        ------
        LedgerError
            It can't be read.
        """
        self.book = read_book(self.ledger)
        works = [self._follow, self._verify] if self.verify else [self._follow]
        for work in works:
            self._threads.append(threading.Thread(target=work, daemon=True, name=work.__name__))
            self._threads[-1].start()

    def stop(self) -> None:
        """End the threads, and the process that verifies."""
        self._stopped.set()
        if self._checker is not None:
            self._checker.kill()
        for thread in self._threads:
            thread.join(STOP_S)

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            try:
                fresh = read_book(self.ledger, self.book)
                if fresh.version != self.book.version:
                    self.book = fresh
                self.failure = None
            except Exception as error:  # noqa: BLE001  # whatever rows tampered with raise: the thread goes on
                if self.failure is None:
                    _log.warning("the ledger can't be read: %r", error)
                self.failure = str(error) or type(error).__name__

    def _verify(self) -> None:
        known: str | None = None
        pause, ended = 0.0, time.monotonic()
        while not self._stopped.wait(pause):
            state = f"{self.book.head} {len(self.book.institutions)}"
            pause = LOOK_EVERY_S
            if state == known and time.monotonic() - ended < VERIFY_AGAIN_S:
                continue
            head, began = self.book.head, time.monotonic()
            try:
                problems = self._problems()
            except Exception as error:  # noqa: BLE001  # no process to be had, say: the thread goes on
                _log.warning("the ledger could not be verified: %r", error)
                problems = None
            if self._stopped.is_set():
                return
            if problems is None:
                # What was found before holds until a verification has ended.
                if self.verification.state == "pending":
                    self.verification = Verification(state="failed")
                pause = VERIFY_EVERY_S
                continue
            known, ended = state, time.monotonic()
            self._note(problems, head, ended - began)
            pause = max(VERIFY_EVERY_S, (ended - began) / VERIFY_SHARE)

    def _note(self, problems: list[Problem], head: str | None, took_s: float) -> None:
        """Keep what a verification came to, for who asks and for Prometheus."""
        for problem in problems[:PROBLEMS_MAX]:
            _log.error("verification: %s", problem)
        now = time.time()
        self.verified = Verified(tuple(problems), now, took_s)
        self.verification = Verification(
            state="broken" if problems else "verified",
            head=head,
            at=iso(now),
            seconds=round(took_s, 3),
            problems=[str(problem) for problem in problems[:PROBLEMS_MAX]],
        )

    def _problems(self) -> list[Problem] | None:
        """Verify in another process: it clears every round again, and would hold up our answers.

        None: that could not be done.
        """
        command = [sys.executable, "-m", "ipfl_flower.console.checking"]
        with subprocess.Popen(  # noqa: S603  # ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as checker:
            self._checker = checker
            out, _ = checker.communicate(self.address)
        if checker.returncode != 0:
            if not self._stopped.is_set():
                _log.warning("the ledger could not be verified: exit code %d", checker.returncode)
            return None
        return [Problem(**problem) for problem in json.loads(out)]
