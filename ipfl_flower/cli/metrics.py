"""``ipfl metrics``: a market's Prometheus metrics, served by themselves or printed once."""

import signal
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.registry import Collector

from ipfl_flower import logs
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.refusals import read_refusals
from ipfl_flower.cli.run import read_market
from ipfl_flower.console.app import is_this_machine
from ipfl_flower.console.host import (
    CertificateCollector,
    DiskCollector,
    DoorCollector,
    FileCollector,
    ServerCollector,
)
from ipfl_flower.console.metrics import market_registry
from ipfl_flower.console.verifier import Verifier
from ipfl_flower.ledger import Ledger
from ipfl_flower.settings import Settings
from ipfl_flower.trainer_api import Address, AddressError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def metrics(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where they are served, under /metrics.")
    ] = "127.0.0.1:9464",
    once: Annotated[bool, typer.Option("--once", help="Print them instead, and end.")] = False,
    market: Annotated[
        Path | None, typer.Option(help="market.toml: for the sizes and the disk of models.")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="The folder of certificates: when they expire.")
    ] = None,
    superlink_folder: Annotated[
        Path | None, typer.Option(help="Of ipfl superlink: who was refused at the door.")
    ] = None,
    verify_every: Annotated[
        float, typer.Option(min=1, help="Seconds between two verifications of the whole ledger.")
    ] = 3600.0,
) -> None:
    """Serve a market's metrics to Prometheus until SIGTERM, all of them read from its ledger."""
    logs.configure("%(message)s")
    settings = None if market is None else Settings.read(read_market(market))
    for folder in (certificates, superlink_folder):
        if folder is not None and not folder.is_dir():
            raise LaunchError(f"{folder} is no folder: check the path")
    with ExitStack() as stack:
        book = stack.enter_context(Ledger.open(ledger, read_only=True))
        verifier = Verifier(book, verify_every)
        registry = market_registry(
            book, verifier, *host_collectors(book, settings, certificates, superlink_folder)
        )
        if once:
            verifier.verify()
            typer.echo(generate_latest(registry), nl=False)
            return
        logs.note(market=logs.short(book.market))
        ProcessCollector(registry=registry)
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        address = _serve(registry, listen, stack)
        stack.enter_context(verifier)
        logs.announce(f"serving the metrics of {book.name} at http://{address}/metrics")
        over.wait()


def host_collectors(
    ledger: Ledger,
    settings: Settings | None,
    certificates: Path | None,
    superlink_folder: Path | None,
) -> list[Collector]:
    """Make the collectors of the operator's machine, as far as it is told what is where.

    Parameters
    ----------
    ledger : Ledger
    settings : Settings or None
        Of the market.
    certificates, superlink_folder : Path or None
        Of ``ipfl certs operator``, and of ``ipfl superlink``.
    """
    file = None if "://" in ledger.name else Path(ledger.name)
    folders = {} if file is None else {"ledger": file.absolute().parent}
    models = initial = None
    if settings is not None:
        models, initial = settings.models_dir, settings.initial_model
        folders["models"] = models
    found: list[Collector] = [ServerCollector(ledger), FileCollector(file, models, initial)]
    if superlink_folder is not None:
        folders["superlink"] = superlink_folder
        refusals = superlink_folder / "refusals.json"
        found.append(DoorCollector(lambda: read_refusals(refusals).get("counts", {})))
    if certificates is not None:
        found.append(CertificateCollector(certificates))
    return [*found, DiskCollector(folders)]


def _of_this_machine(app: "WSGIApplication") -> "WSGIApplication":
    """Answer to this machine's own names alone: a web page could have its name point here."""

    def checked(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if is_this_machine(environ.get("HTTP_HOST", "")):
            return app(environ, start_response)
        start_response("421 Misdirected Request", [("Content-Type", "text/plain")])
        return [b"call it localhost\n"]

    return checked


def _serve(registry: CollectorRegistry, listen: str, stack: ExitStack) -> str:
    """Serve in a thread until the stack unwinds, and return the address."""
    try:
        place = Address.parse(listen)
    except AddressError as error:
        raise LaunchError(f"--listen: {error}") from error
    if place.socket is not None:
        raise LaunchError(f"--listen {listen}: Prometheus scrapes HOST:PORT, no Unix socket")
    try:
        server, thread = start_http_server(place.port, place.host, registry)
    except OSError as error:
        raise LaunchError(f"can't listen on {listen} ({error}): choose another --listen") from error
    if place.local:
        server.set_app(_of_this_machine(make_wsgi_app(registry)))
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return str(Address(host=place.host, port=server.server_port))
