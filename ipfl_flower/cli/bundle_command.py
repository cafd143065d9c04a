"""``ipfl bundle``: the app bundle that this ipfl-flower submits, before it does."""

import tempfile
from pathlib import Path

import typer

from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.flower import flower_cli


def bundle() -> None:
    """Print the SHA-256 of the app bundle that ipfl run of this version submits."""
    with flower_cli("") as flower, tempfile.TemporaryDirectory() as scratch:
        typer.echo(flower.bundle(stage_app(Path(scratch) / "app")))
