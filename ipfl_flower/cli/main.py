"""The ``ipfl`` command."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ipfl_flower.cli.demo import DemoOptions, run_demo
from ipfl_flower.cli.ledger import ledger_app
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.receipts import receipts_app
from ipfl_flower.ledger import LedgerError
from ipfl_flower.receipts import ReceiptError
from ipfl_flower.settings import SettingsError

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A market for privately trained models, on Flower.",
)
cli.add_typer(ledger_app, name="ledger")
cli.add_typer(receipts_app, name="receipts")


@cli.callback()
def _ipfl() -> None:
    pass


@cli.command()
def demo(
    preset: Annotated[str, typer.Option(help="recommended or paper.")] = "recommended",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to play.")] = DemoOptions.rounds,
    institutions: Annotated[
        int, typer.Option(min=2, max=12, help="Institutions, a SuperNode each.")
    ] = DemoOptions.institutions,
    groups: Annotated[
        int, typer.Option(min=1, help="Hidden groups of institutions with like data.")
    ] = DemoOptions.groups,
    folder: Annotated[
        Path, typer.Option("--dir", help="Keys, logs, ledger and models go here.")
    ] = Path("ipfl-demo"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result to this file, too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of data split and model.")] = DemoOptions.seed,
    fleet_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="gRPC fleet port; default: a free one.")
    ] = None,
) -> None:
    """Run a whole market on this machine, over gRPC, on real data, and show what it came to."""
    options = DemoOptions(
        preset=preset,
        rounds=rounds,
        institutions=institutions,
        groups=groups,
        seed=seed,
        fleet_port=fleet_port,
    )
    # A polite kill and a closed terminal must end the started processes too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        run_demo(options, folder, json_file, Console(markup=False, highlight=False))
    except KeyboardInterrupt:
        typer.echo("ipfl: interrupted; everything that was started has been ended", err=True)
        raise typer.Exit(130) from None


def app() -> None:
    """Run the command line; every expected error is one line on stderr and exit code 1."""
    try:
        cli()
    except (LaunchError, LedgerError, ReceiptError, SettingsError, OSError) as error:
        typer.echo(f"ipfl: {error}", err=True)
        sys.exit(1)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
