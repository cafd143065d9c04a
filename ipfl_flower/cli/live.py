"""A running market as it looks in the terminal, read from its ledger."""

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ipfl_flower.cli.fleet import Fleet
from ipfl_flower.cli.money import credits_text
from ipfl_flower.cli.processes import LaunchError, ProcessGroup
from ipfl_flower.ledger import Ledger, RoundState, RoundSummary, State

LOOK_EVERY_S = 0.5
# Asking Flower starts a process: only to notice a server app that died without a word.
ASK_FLOWER_EVERY_S = 15.0


def watch(
    ledger_file: Path, group: ProcessGroup, fleet: Fleet, run: int, *, rounds: int, console: Console
) -> None:
    """Show a market until it has ended.

    Parameters
    ----------
    ledger_file : Path
        The market's ledger; the server app makes it.
    group : ProcessGroup
        The processes that must stay up.
    fleet : Fleet
    run : int
        Flower's run id.
    rounds : int
        Of the market.
    console : Console
        On a terminal the picture is live; elsewhere each settled round is a line.

    Raises
    ------
    LaunchError
        If the market stopped, or a process of it ended; says why.
    """
    asked = time.monotonic()
    while not ledger_file.exists():
        asked = _check(group, fleet, run, asked)
        time.sleep(LOOK_EVERY_S)
    shown = 0
    with (
        Ledger.open(ledger_file, create=False) as ledger,
        Live(console=console, auto_refresh=False, transient=True) as live,
    ):
        while True:
            ended = [event for event in ledger.events() if event.kind in ("finished", "stopped")]
            summaries = ledger.rounds()
            if console.is_terminal:
                live.update(_picture(ledger, summaries, rounds), refresh=True)
            else:
                shown = _print_settled(summaries, shown, rounds, console)
            if ended:
                break
            asked = _check(group, fleet, run, asked)
            time.sleep(LOOK_EVERY_S)
    if ended[-1].kind == "stopped":
        raise LaunchError(f"the market stopped: {ended[-1].text}")


def _check(group: ProcessGroup, fleet: Fleet, run: int, asked: float) -> float:
    """Raise if a process has ended or Flower says that the run has; return when it was asked."""
    group.check()
    if time.monotonic() - asked < ASK_FLOWER_EVERY_S:
        return asked
    status = fleet.run_status(run)
    if status.startswith("finished") and status != "finished:completed":
        raise LaunchError(f"Flower run {run} is {status}: {fleet.run_log(run)}")
    return time.monotonic()


def _print_settled(summaries: list[RoundSummary], shown: int, rounds: int, console: Console) -> int:
    settled = [item for item in summaries if item.state in (State.SETTLED, State.DELIVERED)]
    for item in settled[shown:]:
        console.print(
            f"round {item.number} of {rounds}: {item.participants} institutions, "
            f"{item.edges} purchases, {credits_text(item.volume_micro)} credits"
        )
    return len(settled)


def _picture(ledger: Ledger, summaries: list[RoundSummary], rounds: int) -> Group:
    state = ledger.state()
    if state is None:
        return Group(Text("waiting for the institutions"))
    return Group(_headline(ledger, state, rounds), _institutions(ledger, state, summaries))


def _headline(ledger: Ledger, state: RoundState, rounds: int) -> Text:
    names = {item.id: item.name for item in ledger.institutions()}
    waiting = ", ".join(names[i] for i in state.waiting)
    left = (
        ""
        if state.deadline_at is None
        else f", {max(0.0, state.deadline_at - time.time()):.0f} s left"
    )
    text = f"round {state.number} of {rounds}  {state.state}"
    if state.state is State.COLLECTING and waiting:
        text += f"  waiting for {waiting}{left}"
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
            sellers = " ".join(
                names[j] for j, buys in zip(last.participants, row, strict=True) if buys
            )
        table.add_row(name, now, accuracy, sellers, credits_text(balances[name]))
    return table
