"""``ipfl ledger``: look at a ledger, check it, print an account's statement."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from ipfl_flower.cli.money import credits_text
from ipfl_flower.cli.receipts import ReceiptsFolder, audit_receipts
from ipfl_flower.ledger import Ledger, RoundSummary, restore, upgrade

ledger_app = typer.Typer(
    no_args_is_help=True, help="A market's ledger: look at it, check it, back it up, upgrade it."
)

LedgerFile = Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")]
ExportFormat: TypeAlias = Literal["csv", "jsonl"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; money in micro-credits.")]


@ledger_app.command()
def show(ledger: LedgerFile, json_: AsJson = False) -> None:
    """Show every round and the balance of every account."""
    with Ledger.open(ledger, create=False) as book:
        summaries, balances = book.rounds(), book.balances()
        notes = {item.number: round_notes(book, item.number) for item in summaries}
    if json_:
        _print_json(
            {
                "rounds": [{**round_json(item), "notes": notes[item.number]} for item in summaries],
                "balances": balances,
            }
        )
        return
    rounds = Table("round", "state", "institutions", "purchases", "credits", "welfare", "head")
    for item in summaries:
        rounds.add_row(
            str(item.number),
            str(item.state),
            str(item.participants),
            str(item.edges),
            credits_text(item.volume_micro),
            f"{item.welfare:.3f}",
            (item.head or "")[:12],
        )
    accounts = Table("institution", "balance")
    for name, balance in balances.items():
        accounts.add_row(name, credits_text(balance))
    console = Console(markup=False, highlight=False)
    console.print(rounds)
    for number, lines in notes.items():
        for line in lines:
            console.print(f"round {number}: {line}", soft_wrap=True)
    console.print(accounts)


@ledger_app.command()
def statement(
    ledger: LedgerFile,
    name: Annotated[str, typer.Argument(help="The institution.")],
    json_: AsJson = False,
) -> None:
    """Print the statement of one institution's account."""
    with Ledger.open(ledger, create=False) as book:
        account = book.statement(name)
    if json_:
        lines = [
            {
                "round": line.round,
                "counterparty": line.counterparty,
                "direction": line.direction,
                "amount": line.amount_micro,
                "balance": line.balance_micro,
            }
            for line in account.lines
        ]
        _print_json(
            {
                "name": account.name,
                "lines": lines,
                "paid": account.paid,
                "earned": account.earned,
                "net": account.net,
            }
        )
        return
    table = Table("round", "counterparty", "paid", "earned", "balance", title=account.name)
    for line in account.lines:
        amount = credits_text(line.amount_micro)
        paid, earned = (amount, "") if line.direction == "paid" else ("", amount)
        table.add_row(
            str(line.round), line.counterparty, paid, earned, credits_text(line.balance_micro)
        )
    table.add_section()
    table.add_row("all", "", credits_text(account.paid), credits_text(account.earned), "")
    Console(markup=False, highlight=False).print(table)


@ledger_app.command()
def verify(ledger: LedgerFile, receipts: ReceiptsFolder = None) -> None:
    """Check the whole ledger: chain, sums, and every round cleared again from its inputs."""
    with Ledger.open(ledger, create=False) as book:
        _report_check(book, [] if receipts is None else audit_receipts(book, receipts))


@ledger_app.command()
def backup(
    ledger: LedgerFile,
    file: Annotated[Path, typer.Argument(help="The copy: a new SQLite file.")],
) -> None:
    """Copy a ledger to a new file, also while a market writes to it, and verify the copy."""
    with Ledger.open(ledger, create=False) as book:
        book.backup(file)
    _report_copy(file, "backed up to")


@ledger_app.command("restore")
def restore_(
    file: Annotated[str, typer.Argument(help="A backup.")],
    ledger: Annotated[
        str, typer.Argument(help="A new file, or the URL of an empty PostgreSQL database.")
    ],
) -> None:
    """Make a ledger of a backup that verifies, and verify it; nothing is overwritten."""
    restore(file, ledger)
    _report_copy(ledger, "restored to")


@ledger_app.command()
def export(
    ledger: LedgerFile,
    folder: Annotated[Path, typer.Argument(help="A new folder: one file a table.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Of the files.")] = "csv",
) -> None:
    """Write all tables as text; money in micro-credits, bytes in hexadecimal."""
    with Ledger.open(ledger, create=False) as book:
        names = book.export(folder, form)
    typer.echo(f"exported {len(names)} tables to {folder}")


@ledger_app.command("upgrade")
def upgrade_(ledger: LedgerFile) -> None:
    """Upgrade the tables of an older ledger; its server must be stopped."""
    before, after = upgrade(ledger)
    done = "is at" if before == after else f"upgraded from {before} to"
    typer.echo(f"{done} {after}")


def round_json(summary: RoundSummary) -> dict[str, Any]:
    """Return the line about a round, ready for JSON; money in micro-credits."""
    return {
        "number": summary.number,
        "state": str(summary.state),
        "participants": summary.participants,
        "edges": summary.edges,
        "volume": summary.volume_micro,
        "welfare": summary.welfare,
        "head": summary.head,
    }


def round_notes(ledger: Ledger, number: int) -> list[str]:
    """Say what went wrong in a round: who failed and why, and why it was abandoned."""
    state = ledger.state(number)
    if state is None:
        return []
    names = {item.id: item.name for item in ledger.institutions()}
    lines = [f"{names[i]}: {reason}" for i, reason in state.failed.items()]
    return lines if state.detail is None else [*lines, f"abandoned: {state.detail}"]


def _report_copy(ledger: str | Path, done: str) -> None:
    """Verify a copy that was made, and say where it is."""
    with Ledger.open(ledger, create=False) as copy:
        typer.echo(f"{done} {copy.name}")
        _report_check(copy)


def _report_check(ledger: Ledger, more: Sequence[str] = ()) -> None:
    """Verify a ledger; every problem is a line on stderr, and any of them exit code 1."""
    problems = [*map(str, ledger.verify()), *more]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        typer.echo(f"{ledger.name}: {len(problems)} problems found", err=True)
        raise typer.Exit(1)
    head = "none yet: the market has not begun" if ledger.settings is None else ledger.head()
    typer.echo(f"verified: {len(ledger.rounds())} rounds, head {head}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
