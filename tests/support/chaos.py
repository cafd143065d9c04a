"""Kills processes of real markets at random moments, and looks whether the money still adds up.

``make chaos MINUTES=10`` runs this as a program: one market after another until the time is over.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from support.real_market import RealMarket, real_market

from ipfl_flower.cli.demo import DemoOptions
from ipfl_flower.cli.receipts import audit_receipts
from ipfl_flower.ledger import Ledger, State

SUPERLINK = "ipfl_flower.cli.server_superlink"
EXECUTOR = "ipfl_flower.door.executor"
TRAINER = "ipfl_flower.trainer.serve"
# What is killed, how often relative to the others, and whether all that it started dies with it,
# as when its container is killed.
VICTIMS = {
    SUPERLINK: (2, False),
    "flwr-serverapp": (3, False),
    "flower-supernode": (4, False),
    EXECUTOR: (1, True),
    "clientapp.py": (4, False),
    TRAINER: (4, False),
}
# Long enough to see a ClientApp, which lives for seconds.
APPEARS_WITHIN_S = 20.0
# For a market to end once the killing is over.
END_DEADLINE_S = 1800.0


class Monkey:
    """Kills processes of one market with SIGKILL, at moments that the seed decides.

    Parameters
    ----------
    market : RealMarket
    rng : Random
    gap_s : float
        Mean pause between two kills, seconds.
    say : callable
        Told of every kill.
    """

    def __init__(
        self, market: RealMarket, rng: random.Random, gap_s: float, say: Callable[[str], object]
    ) -> None:
        self.killed: Counter[str] = Counter()
        self._market = market
        self._rng = rng
        self._gap_s = gap_s
        self._say = say

    def rage(self, kills: int, until: float) -> None:
        """Kill `kills` times, or until the market has ended or the clock says `until`."""
        programs = list(VICTIMS)
        weights = [weight for weight, _ in VICTIMS.values()]
        while self.killed.total() < kills and time.monotonic() < until:
            if not self._pause(self._rng.uniform(0, 2 * self._gap_s)):
                return
            self._kill_one(self._rng.choices(programs, weights)[0])

    def _kill_one(self, program: str) -> None:
        end = time.monotonic() + APPEARS_WITHIN_S
        while not (victims := self._market.processes(program)):
            if time.monotonic() > end or not self._pause(0.1):
                return
        # A process that has just appeared is killed at any moment of its life, not at its start.
        if not self._pause(self._rng.uniform(0, 3)):
            return
        victims = self._market.processes(program) or victims
        victim = self._rng.choice(sorted(victims, key=lambda process: process.pid))
        with suppress(psutil.NoSuchProcess):
            below = victim.children(recursive=True) if VICTIMS[program][1] else []
            for process in [victim, *below]:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            self.killed[program] += 1
            self._say(f"kill {self.killed.total()}: {program} (process {victim.pid})")

    def _pause(self, seconds: float) -> bool:
        """Wait, and tell whether the market still runs."""
        with suppress(Exception):
            self._market.run.wait(seconds)
        return self._market.run.poll() is None


def check(market: RealMarket, institutions: int) -> int:
    """Assert that the market ended well and nobody paid twice; return its settled rounds."""
    assert market.run.returncode == 0, market.printed
    with Ledger.open(market.ledger_file, create=False) as ledger:
        assert ledger.verify() == []
        assert audit_receipts(ledger, market.folder / "institutions") == []
        assert len(ledger.institutions()) == institutions, "somebody came back as somebody else"
        settled = [item for item in ledger.rounds() if item.state is State.DELIVERED]
        paid = Counter[str]()
        names = {item.id: item.name for item in ledger.institutions()}
        for item in settled:
            settlement = ledger.settlement(item.number)
            for institution, net in zip(
                settlement.participants, settlement.clearing.net, strict=True
            ):
                paid[names[institution]] -= int(net)
        assert ledger.balances() == {name: paid[name] for name in names.values()}
        return len(settled)


def chaos(
    folder: Path,
    options: DemoOptions,
    seed: int,
    kills: int,
    gap_s: float,
    until: float,
    say: Callable[[str], object],
) -> tuple[Counter[str], int]:
    """Run one market while processes are killed; return the kills by program, and its rounds."""
    with real_market(options, folder) as market:
        market.wait_until(market.ledger_file.exists)
        monkey = Monkey(market, random.Random(seed), gap_s, say)
        monkey.rage(kills, until)
        market.run.wait(END_DEADLINE_S)
    return monkey.killed, check(market, options.institutions)


def main() -> None:
    """Torture markets until the time is over."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=25, help="in each market")
    parser.add_argument("--gap", type=float, default=10.0, help="mean seconds between two kills")
    parser.add_argument("--institutions", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # whatever was started is ended
        signal.signal(number, signal.default_int_handler)
    until = time.monotonic() + 60 * arguments.minutes
    options = DemoOptions(rounds=arguments.rounds, institutions=arguments.institutions)
    say = partial(print, flush=True)
    killed, rounds, seed = Counter[str](), 0, arguments.seed
    while time.monotonic() < until:
        # Left where it is when the market does not survive: for whoever looks why.
        folder = Path(tempfile.mkdtemp(prefix="ipfl-chaos-"))
        say(f"market with seed {seed} in {folder}")
        of_market, played = chaos(folder, options, seed, arguments.kills, arguments.gap, until, say)
        shutil.rmtree(folder)
        killed, rounds, seed = killed + of_market, rounds + played, seed + 1
        say(f"ledger verified: {of_market.total()} kills, {played} rounds")
    by_program = ", ".join(f"{count} × {program}" for program, count in sorted(killed.items()))
    say(f"{killed.total()} kills survived ({by_program}), {rounds} rounds completed")


if __name__ == "__main__":
    main()
