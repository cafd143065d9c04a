"""``ipfl report``: a market in one HTML file, for people who were not there."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ipfl_flower.charts.png import rasterise
from ipfl_flower.cli.documents import write_file
from ipfl_flower.ledger import Ledger
from ipfl_flower.report import (
    ReportError,
    compared,
    compared_with_file,
    market_page,
    read_baselines,
    read_market,
    slides,
)

RESULT = "result.json"
"""What a demo leaves beside its ledger."""
BEGINS = b"<!doctype html>"


def report(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("market-report.html"),
    png: Annotated[
        Path | None,
        typer.Option(help="A folder for the charts as PNG, 1600×900 (extra report)."),
    ] = None,
    baselines: Annotated[
        Path | None,
        typer.Option(
            help="Accuracies to compare with: a demo's result.json, or {baseline: {name: "
            "accuracy}}. Default: the result.json beside the ledger, if it is of this market."
        ),
    ] = None,
) -> None:
    """Write a market's report: one HTML file that needs nothing else.

    The ledger is only read, and verified: every round is cleared again. When it doesn't verify, the
    report says so, and the exit code is 1.
    """
    _check_free(output)
    with Ledger.open(ledger, create=False) as book:
        found = read_market(book, now=time.time())
        name = book.name
    if baselines is not None:
        found = compared(found, read_baselines(baselines))
    else:
        beside = None if "://" in name else Path(name).parent / RESULT
        found = compared_with_file(found, beside)
    pictures = {}
    if png is not None:  # before anything is written: the extra may be missing
        pictures = {name: rasterise(svg) for name, svg in slides(found).items()}
    # As private as the ledger that it is of.
    page = market_page(found).encode()
    write_file(output, page, 0o600)
    for name, content in pictures.items():
        write_file((png or Path()) / f"{name}.png", content, 0o600)
    typer.echo(
        f"wrote {output}, {len(page) / 1e6:.2f} MB: {len(found.settled)} settled rounds, "
        f"{len(found.book.names)} institutions"
    )
    if pictures:
        typer.echo(f"wrote {', '.join(f'{name}.png' for name in sorted(pictures))} to {png}")
    if not found.verified:
        wrong = len(found.problems) + len(found.unreadable)
        typer.echo(
            f"{found.name} does NOT verify: {wrong} problems, listed in the report", err=True
        )
        raise typer.Exit(1)


def _check_free(output: Path) -> None:
    """Refuse to write over something that is no report: a ledger, say."""
    if output.is_dir():
        raise ReportError(f"{output} is a folder: name a file with --output")
    if output.exists():
        with output.open("rb") as file:
            if file.read(len(BEGINS)) != BEGINS:
                raise ReportError(f"{output} is there, and no report: name another file")
