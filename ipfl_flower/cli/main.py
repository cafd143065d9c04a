"""The ``ipfl`` command."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ipfl_flower import logs
from ipfl_flower.charts.png import PngError
from ipfl_flower.cli.admit import admit, expel
from ipfl_flower.cli.allow import allow
from ipfl_flower.cli.bundle_command import bundle
from ipfl_flower.cli.certs_command import certs_app
from ipfl_flower.cli.console import console_app
from ipfl_flower.cli.demo import DemoOptions, run_demo
from ipfl_flower.cli.doctor import doctor_app
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.executor import executor
from ipfl_flower.cli.experiment import experiment
from ipfl_flower.cli.join import join, join_request
from ipfl_flower.cli.ledger import ledger_app
from ipfl_flower.cli.log_console import console
from ipfl_flower.cli.market import market_app
from ipfl_flower.cli.metrics import metrics
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.receipts import receipts_app
from ipfl_flower.cli.report import report
from ipfl_flower.cli.run import run_market
from ipfl_flower.cli.status import status
from ipfl_flower.cli.superlink import superlink
from ipfl_flower.cli.supernode import supernode
from ipfl_flower.cli.track import track
from ipfl_flower.cli.trainer import trainer
from ipfl_flower.console.access import ConsoleError
from ipfl_flower.ledger import LedgerError
from ipfl_flower.logs import LogSettingError
from ipfl_flower.receipts import ReceiptError
from ipfl_flower.report import ReportError
from ipfl_flower.settings import SettingsError

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A market for privately trained models, on Flower. Begin with: ipfl demo.",
)
cli.add_typer(ledger_app, name="ledger")
cli.add_typer(receipts_app, name="receipts")
cli.add_typer(certs_app, name="certs")
cli.add_typer(doctor_app, name="doctor")
cli.add_typer(console_app, name="console")
cli.add_typer(market_app, name="market")
cli.command()(trainer)
cli.command()(executor)
cli.command()(status)
cli.command()(bundle)
cli.command()(metrics)
cli.command()(experiment)
cli.command()(report)
cli.command()(track)
for command in (join_request, admit, join, expel, allow, superlink, supernode):
    cli.command()(command)


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
    with _interruptible():
        run_demo(options, folder, json_file, console())


@cli.command()
def run(
    market: Annotated[Path, typer.Argument(help="The market's settings, market.toml.")],
    superlink: Annotated[
        str, typer.Option(help="The SuperLink's name in Flower's config.toml.")
    ] = "market",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the market that the ledger holds.")
    ] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that the SuperLink may be out of reach.")
    ] = 600.0,
) -> None:
    """Submit a market and keep it going: when its server app dies, it is resumed.

    SIGTERM and Ctrl-C stop the market within its round; --resume goes on with it.
    """
    logs.configure()
    with _interruptible():
        run_market(market, superlink, console(), resume=resume, patience_s=patience)


def app() -> None:
    """Run the command line; every expected error is one line on stderr and exit code 1."""
    try:
        cli()
    except (
        ConsoleError,
        KitError,
        LaunchError,
        LedgerError,
        PngError,
        LogSettingError,
        ReceiptError,
        ReportError,
        SettingsError,
        OSError,
    ) as error:
        logs.fail(f"ipfl: {error}")
        sys.exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a polite kill and a closed terminal end what was started, as Ctrl-C does."""
    # SIGINT too: a shell starts background jobs with it ignored. SIGHUP not, where nohup says so.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        logs.write("ipfl: interrupted; everything that was started has been ended")
        raise typer.Exit(130) from None


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
