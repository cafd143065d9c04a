"""``ipfl receipts``: check an institution's receipts; and what an auditor does with everybody's."""

from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.audit import audit
from ipfl_flower.ledger import Ledger
from ipfl_flower.notary import OPERATOR_KEY
from ipfl_flower.receipts import ReceiptError, ReceiptFolder, read_public_key, stored_receipts

receipts_app = typer.Typer(
    no_args_is_help=True, help="Check the receipts that an institution keeps."
)

ReceiptsFolder = Annotated[
    Path | None,
    typer.Option("--receipts", help="Compare with the receipts in this folder and those in it."),
]


@receipts_app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder 'receipts' in the state_dir.")
    ],
    operator_key: Annotated[
        Path | None,
        typer.Option(help="File of the operator's public key; default: that of the first receipt."),
    ] = None,
) -> None:
    """Check all receipts of one institution: signatures, chain, prices, terms, balances, alarms."""
    key = None if operator_key is None else read_public_key(operator_key)
    findings, count = verify_folder(folder, key)
    for finding in findings:
        typer.echo(finding, err=True)
    if findings:
        typer.echo(f"{folder}: {len(findings)} findings in {count} receipts", err=True)
        raise typer.Exit(1)
    typer.echo(f"verified: {count} receipts")


@receipts_app.command(name="operator-key")
def print_operator_key(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
) -> None:
    """Print the public key that signs a market's receipts, for institutions to pin."""
    with Ledger.open(ledger, create=False) as book:
        key = (book.settings or {}).get(OPERATOR_KEY)
    if key is None:
        raise ReceiptError(f"{ledger} names no operator's key: its market has not begun")
    typer.echo(key)


def verify_folder(folder: Path, operator_key: str | None) -> tuple[list[str], int]:
    """Check the receipts of one institution.

    Returns
    -------
    findings : list of str
        A line each, with the file.
    count : int
        Files of receipts and alarms.

    Raises
    ------
    ReceiptError
        The folder holds no receipts.
    """
    stored = stored_receipts(folder)
    own = ReceiptFolder(folder, operator_key)
    if own.operator_key() is None:
        raise ReceiptError(f"{folder} pins no operator's key: give --operator-key FILE")
    findings = []
    for item in stored:
        if item.alarm:
            found = [f"an alarm was raised: {what}" for what in item.findings]
        elif item.signed is None:
            found = list(item.findings)
        else:
            found = own.findings(item.signed)
        findings += [f"{item.path}: {what}" for what in found]
    return findings, len(stored)


def audit_receipts(ledger: Ledger, folder: Path) -> list[str]:
    """Compare every receipt of every institution in a folder with the ledger.

    Raises
    ------
    ReceiptError
        The folder holds no receipts.
    """
    return audit(ledger, stored_receipts(folder, nested=True))
