"""``ipfl doctor``: is everything as it should be on either side; if not, what to do."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.cli.admit import MarketFile, SuperLinkName
from ipfl_flower.cli.doctoring.finding import Finding, State
from ipfl_flower.cli.doctoring.institution import Asked, examine_institution
from ipfl_flower.cli.doctoring.operator import Operator, examine_operator
from ipfl_flower.cli.supernode import TrainerAddress

doctor_app = typer.Typer(
    no_args_is_help=True, help="Look whether everything is as it should be, and say what to do."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: check, state and line of each.")]


@doctor_app.command()
def operator(
    *,
    market: MarketFile,
    certificates: Annotated[
        Path, typer.Option(help="What ipfl certs operator made.", show_default=False)
    ],
    superlink: SuperLinkName = "market",
    fleet: Annotated[
        str | None, typer.Option(help="HOST:PORT at which institutions reach the SuperLink.")
    ] = None,
    superlink_folder: Annotated[
        Path | None, typer.Option(help="DIR of ipfl superlink: who was refused, and its disk.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Look at the operator's side: certificates, SuperLink, ledger, keys, disk."""
    given = Operator(market, certificates, superlink, fleet, superlink_folder)
    report(examine_operator(given), as_json=json_)


@doctor_app.command()
def institution(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where ipfl join wrote the kit.")],
    *,
    trainer: Annotated[str, typer.Option(help="unix:///path or host:port.", show_default=False)],
    trainer_ca: Annotated[Path | None, typer.Option(help="Of the trainer, PEM.")] = None,
    trainer_certificate: Annotated[
        Path | None, typer.Option(help="The SuperNode's, for the trainer, PEM.")
    ] = None,
    trainer_key: Annotated[Path | None, typer.Option(help="Of that certificate, PEM.")] = None,
    institution_file: Annotated[
        Path | None,
        typer.Option("--institution", help="The institution.toml, if it is on this machine."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Look at an institution's side: kit, keys, SuperLink, trainer, disk."""
    address = TrainerAddress(trainer, trainer_ca, trainer_certificate, trainer_key)
    report(examine_institution(Asked(folder, address, institution_file)), as_json=json_)


def report(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Print findings, and exit with 1 if something fails."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            typer.echo(finding)
    if as_json:
        typer.echo(json.dumps([finding.record() for finding in found], indent=2))
    if any(finding.state is State.FAIL for finding in found):
        raise typer.Exit(1)
