"""A running market as it looks in the terminal, read from its ledger."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ipfl_flower import logs
from ipfl_flower.cli.contract import check_samples_cap
from ipfl_flower.cli.flower import FlowerCli
from ipfl_flower.cli.ledger import round_notes
from ipfl_flower.cli.money import credits_text
from ipfl_flower.cli.processes import LaunchError, ProcessGroup
from ipfl_flower.ledger import Ledger, LedgerError, RoundState, RoundSummary, State

LOOK_EVERY_S = 0.5
# Asking Flower starts a process: only to notice a server app that died without a word.
ASK_FLOWER_EVERY_S = 15.0
BEGIN_DEADLINE_S = 180.0
# The market ends without them; without a SuperNode it goes on.
ESSENTIAL = ("superlink", "superexec")


class MarketStoppedError(LaunchError):
    """The market has ended before its last round, for a reason that its ledger gives."""


@dataclass
class Watch:
    """Follows one market until it has ended.

    Parameters
    ----------
    ledger : str
        The market's ledger, a file or a URL; the server app makes it.
    group : ProcessGroup
    flower : FlowerCli
    rounds : int
        Of the market.
    console : Console
        On a terminal the picture is live; what happened is a line everywhere.
    patience_s : float
        How long the SuperLink may be out of reach.
    on_settled : callable, optional
        Is told the number of each round once, when it is settled.
    """

    ledger: str
    group: ProcessGroup
    flower: FlowerCli
    rounds: int
    console: Console
    patience_s: float = 0.0
    on_settled: Callable[[int], None] = lambda _: None
    _settled: set[int] = field(default_factory=set)
    _run: int = 0
    _events_before: int = 0
    _asked: float = field(default_factory=time.monotonic)
    _reached: float = field(default_factory=time.monotonic)
    _said: set[str] = field(default_factory=set)

    def events(self) -> int:
        """Return how many events the ledger holds: those of earlier runs, before a run is begun."""
        if self._is_missing():
            return 0
        with Ledger.open(self.ledger, create=False) as ledger:
            return len(ledger.events())

    def progress(self) -> tuple[object, ...]:
        """Return something that changes when the market gets on: bad luck is no bug."""
        if self._is_missing():
            return ()
        with Ledger.open(self.ledger, create=False) as ledger:
            state = ledger.state()
        return () if state is None else (state.number, state.state, state.reported)

    def is_served(self) -> bool:
        """Tell whether a server app has the ledger open."""
        if self._is_missing():
            return False
        with Ledger.open(self.ledger, create=False) as ledger:
            return ledger.server() is not None

    def check_admissions(self, samples_cap: int) -> None:
        """See that the market takes those who were admitted; see `check_samples_cap`.

        Raises
        ------
        KitError
            It would not: ``samples-max`` was changed.
        """
        if not self._is_missing():
            with Ledger.open(self.ledger, create=False) as ledger:
                check_samples_cap(ledger, samples_cap)

    def _is_missing(self) -> bool:
        """Tell whether there is no ledger yet, which is no error before the market has begun."""
        if "://" not in self.ledger:
            return not Path(self.ledger).exists()
        try:
            Ledger.open(self.ledger, create=False).close()
        except LedgerError:
            return True
        return False

    def follow(self, run: int, events_before: int = 0) -> None:
        """Show the market until it has ended.

        Parameters
        ----------
        run : int
            Flower's run id.
        events_before : int
            What `events` said before this run.

        Raises
        ------
        MarketStoppedError
            If it stopped, and its ledger says why.
        LaunchError
            If it never began, or its server app or a process that it needs has died.
        """
        self._run, self._events_before = run, events_before
        logs.note(run=run)
        self._asked = self._reached = time.monotonic()
        end = time.monotonic() + BEGIN_DEADLINE_S
        while not self._began():
            self._check()
            if time.monotonic() > end:
                raise LaunchError(
                    f"the market did not begin within {BEGIN_DEADLINE_S:g} s: "
                    f"{self.flower.run_log(run)}"
                )
            time.sleep(LOOK_EVERY_S)
        with (
            Ledger.open(self.ledger, create=False) as ledger,
            Live(console=self.console, auto_refresh=False, transient=True) as live,
        ):
            while (ended := self._ended(ledger)) is None:
                self._look(ledger, live)
                self._check()
                time.sleep(LOOK_EVERY_S)
            self._look(ledger, live)
        if ended:
            raise MarketStoppedError(f"the market stopped: {ended}")

    def _began(self) -> bool:
        """Tell whether the server app serves the ledger; the operator, too, notes events there."""
        if self._is_missing():
            return False
        with Ledger.open(self.ledger, create=False) as ledger:
            events = ledger.events()[self._events_before :]
        return any(event.kind == "started" for event in events)

    def _ended(self, ledger: Ledger) -> str | None:
        """Return None while the market runs, "" when it has finished, or why it stopped."""
        served = ledger.server() is not None  # asked first: a server says how it ended, then goes
        for event in ledger.events()[self._events_before :]:
            if event.kind == "finished":
                return ""
            if event.kind == "stopped":
                return event.text
            if event.kind == "died":
                raise LaunchError(f"the server app died: {event.text}")
        if not served:
            raise LaunchError("the server app died without a word")
        return None

    def _look(self, ledger: Ledger, live: Live) -> None:
        summaries = ledger.rounds()
        if "market" not in logs.about():
            logs.note(market=logs.short(ledger.market))
        for event in ledger.events():
            if event.kind not in ("started", "finished", "stopped", "died"):
                self._say(f"{event.kind}: {event.text}")
        for item in summaries:
            with logs.context(round=item.number):
                for note in round_notes(ledger, item.number):
                    self._say(f"round {item.number}: {note}")
                if item.state in (State.SETTLED, State.DELIVERED):
                    self._say(
                        f"round {item.number} of {self.rounds}: {item.participants} institutions, "
                        f"{item.edges} purchases, {credits_text(item.volume_micro)} credits"
                    )
                    if item.number not in self._settled:
                        self._settled.add(item.number)
                        self.on_settled(item.number)
        if self.console.is_terminal:
            live.update(_picture(ledger, summaries, self.rounds), refresh=True)

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.console.print(line, soft_wrap=True)

    def _check(self) -> None:
        """Notice what ended by itself: a needed process, the run, or, just to say it, a node."""
        for line in self.group.revive():
            self._say(line)
        for name, how in self.group.dead().items():
            if name in ESSENTIAL:
                raise LaunchError(f"{name} {how}")
            self._say(f"{name} {how}")
        if time.monotonic() - self._asked < ASK_FLOWER_EVERY_S:
            return
        self._asked = time.monotonic()
        try:
            status = self.flower.run_status(self._run)
        except LaunchError:
            if self._asked - self._reached < self.patience_s:
                return
            raise
        self._reached = self._asked
        if status.startswith("finished") and not self._over():
            raise LaunchError(
                f"Flower run {self._run} is {status}: {self.flower.run_log(self._run)}"
            )

    def _over(self) -> bool:
        """Tell whether the ledger says by now that the market has ended."""
        if self._is_missing():
            return False
        with Ledger.open(self.ledger, create=False) as ledger:
            events = ledger.events()[self._events_before :]
        return any(event.kind in ("finished", "stopped", "died") for event in events)


def _picture(ledger: Ledger, summaries: list[RoundSummary], rounds: int) -> Group:
    state = ledger.state()
    if state is None:
        return Group(Text("waiting for the institutions"))
    return Group(_headline(ledger, state, rounds), _institutions(ledger, state, summaries))


def _headline(ledger: Ledger, state: RoundState, rounds: int) -> Text:
    names = {item.id: item.name for item in ledger.institutions()}
    text = f"round {state.number} of {rounds}  {state.state}"
    waiting = ", ".join(names[i] for i in state.waiting)
    if state.state is State.COLLECTING and waiting and state.deadline_at is not None:
        left = max(0.0, state.deadline_at - time.time())
        text += f"  waiting for {waiting}, {left:.0f} s left"
    return Text(text, style="bold")


def _institutions(ledger: Ledger, state: RoundState, summaries: list[RoundSummary]) -> Table:
    settled = [item for item in summaries if item.state in (State.SETTLED, State.DELIVERED)]
    last = ledger.settlement(settled[-1].number) if settled else None
    names = {item.id: item.name for item in ledger.institutions()}
    balances = ledger.balances()
    table = Table("institution", "now", "validation", "bought from", "balance", box=None)
    for i, name in names.items():
        now = "trains" if i in state.waiting else "failed" if i in state.failed else "replied"
        accuracy, sellers = "", ""
        if last is not None and i in last.participants:
            position = last.participants.index(i)
            best = last.metrics[position].get("best_validation_accuracy")
            accuracy = "" if best is None else f"{100 * best:.1f}"
            row = last.clearing.imports[position]
            pairs = zip(last.participants, row, strict=True)
            sellers = " ".join(names[j] for j, buys in pairs if buys)
        table.add_row(name, now, accuracy, sellers, credits_text(balances[name]))
    return table
