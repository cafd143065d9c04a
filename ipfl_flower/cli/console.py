"""``ipfl console``: serve the market's web page and API, and make tokens for it."""

import ipaddress
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from typer.core import TyperGroup
from uvicorn.config import LOGGING_CONFIG

from ipfl_flower import logs
from ipfl_flower.console.access import ConsoleError, add_token, read_gate
from ipfl_flower.console.app import make_app
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger

_log = logging.getLogger(__name__)


class _ServeByDefault(TyperGroup):
    """Lets ``ipfl console LEDGER`` mean ``ipfl console serve LEDGER``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["serve", *args]
        return super().parse_args(ctx, args)


console_app = typer.Typer(
    cls=_ServeByDefault,
    no_args_is_help=True,
    help="Show a market in the browser: ipfl console LEDGER, short for ipfl console serve LEDGER.",
)


@console_app.command()
def serve(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8080,
    operator_token_file: Annotated[
        Path | None, typer.Option(help="Holds the token that sees everything.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Hashes of the institutions' tokens: ipfl console token.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let everybody who can reach it see everything.")
    ] = False,
) -> None:
    """Serve the page, the API and /healthz until it is stopped; the ledger is only read."""
    gate = read_gate(operator_token_file, tokens)
    if gate.is_open and not insecure and not _is_loopback(host):
        raise ConsoleError(
            f"{host} can be reached from elsewhere, and without tokens everybody would see "
            "everything: give --operator-token-file (openssl rand -hex 32), or --insecure"
        )
    if (certificate is None) != (key is None):
        raise ConsoleError("--certificate and --key go together: give both, or neither")
    logs.configure("%(levelname)s %(name)s: %(message)s")
    if certificate is None and not _is_loopback(host):
        _log.warning(
            "%s can be reached from elsewhere, without TLS: tokens and what they show can be read "
            "on the way; give --certificate and --key, or have a proxy on this machine",
            host,
        )
    with Ledger.open(ledger, read_only=True) as book:
        logs.note(market=logs.short(book.market))
        uvicorn.run(
            make_app(gate, Follower(book, ledger), any_host=insecure),
            host=host,
            port=port,
            log_level="info",
            log_config=None if logs.is_json() else LOGGING_CONFIG,
            access_log=False,
            server_header=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=5,
        )


@console_app.command()
def token(
    name: Annotated[str, typer.Argument(help="The institution, as the market calls it.")],
    tokens: Annotated[
        Path, typer.Option(help="Its hash is added to this file; a console reads it as it starts.")
    ] = Path("console-tokens"),
) -> None:
    """Make a token for an institution and print it, once: only its hash is kept."""
    typer.echo(add_token(tokens, name))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
