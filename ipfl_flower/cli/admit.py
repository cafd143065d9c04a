"""``ipfl admit`` and ``ipfl expel``: the operator's side of who takes part in a market."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfl_flower.cli.authority import certificate_pem, hosts_of, is_for, read_certificate
from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.contract import check_samples_cap
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.flower import UNREGISTERED, FlowerCli, RegisteredNode, flower_cli
from ipfl_flower.cli.issuing import issue_kit
from ipfl_flower.cli.kit import check_certificate
from ipfl_flower.cli.node_keys import fingerprint, fingerprint_of_bytes, flower_bytes
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.cli.run import read_market
from ipfl_flower.cli.versions import check_versions, own_versions
from ipfl_flower.ledger import Ledger
from ipfl_flower.notary import OPERATOR_KEY
from ipfl_flower.receipts import load_or_make_key, public_hex
from ipfl_flower.settings import IMPLIED, Settings
from ipfl_flower.trainer_api import Address, AddressError

MarketFile = Annotated[
    Path, typer.Option("--market", help="The market's settings, market.toml.", show_default=False)
]
SuperLinkName = Annotated[str, typer.Option(help="The SuperLink's name in Flower's config.toml.")]


def admit(
    request: Annotated[Path, typer.Argument(help="What the institution sent.")],
    *,
    market: MarketFile,
    certificates: Annotated[Path, typer.Option(help="The folder with ca.pem.", show_default=False)],
    fleet: Annotated[
        str,
        typer.Option(
            help="HOST:PORT at which institutions reach the SuperLink.", show_default=False
        ),
    ],
    superlink: SuperLinkName = "market",
    kit: Annotated[
        Path | None, typer.Option(help="Where the kit goes; NAME.kit.json by default.")
    ] = None,
    fingerprint_read: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            help="SHA256:… of the key, as the institution read it out; for a new name.",
        ),
    ] = None,
) -> None:
    """Register an institution's key, open its account, and write its kit."""
    asked = JoinRequest.read(request)
    check_versions(asked.versions, asked.name)
    settings = Settings.read(read_market(market))
    ca = read_authority(certificates, fleet)
    with (
        flower_cli(superlink) as flower,
        tempfile.TemporaryDirectory() as scratch,
        Ledger.open(settings.ledger) as ledger,
    ):
        check_fingerprint(asked, ledger, fingerprint_read)
        bundle = flower.bundle(stage_app(Path(scratch) / "app"))
        key = operator_key(ledger, settings)
        register(asked, ledger, flower, settings.samples_max)
        made = issue_kit(
            ledger,
            key,
            asked.name,
            public_key=asked.public_key,
            fleet=fleet,
            ca=ca,
            bundles=[bundle],
            terms=terms(settings),
            versions=own_versions(),
        )
    file = kit or Path(f"{asked.name}.kit.json")
    made.write(file)
    typer.echo(f"{asked.name} is admitted, key {fingerprint(asked.key())}")
    typer.echo(f"{file}: send this file to {asked.name}")
    typer.echo(f"operator key, to be read out to {asked.name}: {made.operator_key}")


def expel(
    name: Annotated[str, typer.Argument(help="The institution.")],
    *,
    market: MarketFile,
    superlink: SuperLinkName = "market",
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "",
) -> None:
    """Let an institution take part no longer; its account stays as it is."""
    settings = Settings.read(read_market(market))
    if not reason.isprintable():
        raise KitError("--reason has a line break or control character: give one plain line")
    with Ledger.open(settings.ledger, create=False) as ledger:
        ledger.expel(name, reason)
        key = next(item.public_key for item in ledger.institutions() if item.name == name)
    typer.echo(f"{name} is expelled: no round that opens from now on asks it")
    try:
        with flower_cli(superlink) as flower:
            nodes = [node for node in known_nodes(flower) if node.public_key == key]
            for node in nodes:
                flower.unregister(node.node)
    except LaunchError as error:
        raise LaunchError(
            f"the SuperLink {superlink!r} could not be asked to forget the key of {name} "
            f"({error}): expel it once more"
        ) from error
    typer.echo(f"its key is {'unregistered' if nodes else 'not registered with the SuperLink'}")


def check_fingerprint(asked: JoinRequest, ledger: Ledger, read_out: str | None) -> None:
    """Refuse a request whose key isn't the one that the institution read out.

    Parameters
    ----------
    asked : JoinRequest
    ledger : Ledger
    read_out : str or None
        The fingerprint; None is for a name that is enrolled, whose key is known.

    Raises
    ------
    KitError
        It is another key's, or is needed and missing.
    """
    found = fingerprint(asked.key())
    if read_out is not None and read_out.strip() != found:
        raise KitError(
            f"the request's key has the fingerprint {found}, not {read_out}: it is not "
            "the institution's request"
        )
    if read_out is None and asked.name not in [item.name for item in ledger.institutions()]:
        raise KitError(
            f"the request's key has the fingerprint {found}, and anybody can ask in the name of "
            f"{asked.name!r}: telephone the institution, let it read out the one that ipfl "
            "join-request printed, compare, and give what you heard: --fingerprint SHA256:…"
        )


def register(asked: JoinRequest, ledger: Ledger, flower: FlowerCli, samples_cap: int) -> None:
    """Open the institution's account and register its key; what is done already stays.

    Raises
    ------
    KitError
        The name or the key is another institution's, the SuperLink can't take the key, or
        ``samples-max`` is no longer what others were admitted with.
    LedgerError, LaunchError
        The ledger or the SuperLink can't be used.
    """
    key = flower_bytes(asked.key())
    owners = [(item.name, item.public_key) for item in ledger.institutions()]
    known = flower.nodes()
    owners += [(node.name, node.public_key) for node in known if node.status != UNREGISTERED]
    check_samples_cap(ledger, samples_cap)
    try:
        _check_owners(asked, key, owners)
    except KitError as error:
        ledger.log_event("not admitted", str(error))
        raise
    registered = [node for node in known if node.public_key == key]
    if any(node.status == UNREGISTERED for node in registered):
        raise KitError(
            f"the key of {asked.name} was unregistered, and the SuperLink takes no key twice: "
            "let it make a new key, and ask under a new name"
        )
    institution = ledger.enrol(asked.name, key, samples_cap=samples_cap)
    if not registered:
        with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
            file.write(asked.public_key)
            file.flush()
            flower.register(asked.name, Path(file.name))
    ledger.admit(institution)


def known_nodes(flower: FlowerCli) -> list[RegisteredNode]:
    """List the nodes that may connect."""
    return [node for node in flower.nodes() if node.status != UNREGISTERED]


def operator_key(ledger: Ledger, settings: Settings) -> Ed25519PrivateKey:
    """Load the key that signs kits and receipts; before the market begins, it may be made.

    Raises
    ------
    KitError
        The market that the ledger holds has other terms, or another key.
    """
    file, recorded = settings.receipt_key_file, ledger.settings
    if recorded is None:
        return load_or_make_key(file)
    held = {**IMPLIED, **recorded}
    for name, value in {**IMPLIED, **settings.contract()}.items():
        if held.get(name) != value:
            raise KitError(
                f"{name} is {value!r} in the settings and {held.get(name)!r} in the market "
                f"that {ledger.name} holds: use the settings that it began with"
            )
    if not file.exists():
        raise KitError(f"{file}, the key that signs receipts, is missing: restore it from a backup")
    key = load_or_make_key(file)
    if public_hex(key.public_key()) != recorded.get(OPERATOR_KEY):
        raise KitError(f"{file} is not the key that this market began with: restore it")
    return key


def read_authority(certificates: Path, fleet: str) -> str:
    """Read the CA's certificate, and see that the SuperLink's is for the fleet's host.

    Parameters
    ----------
    certificates : Path
        A folder with ``ca.pem`` and, unless it is kept elsewhere, ``server.pem``.
    fleet : str
        HOST:PORT.

    Returns
    -------
    str
        PEM.

    Raises
    ------
    KitError
        A certificate is missing, damaged, expired, or for other hosts; or `fleet` is no address.
    """
    try:
        address = Address.parse(fleet)
    except AddressError as error:
        raise KitError(f"--fleet {fleet!r} is no HOST:PORT (IPv6: [HOST]:PORT)") from error
    if address.socket is not None or address.port == 0:
        raise KitError(f"--fleet {fleet!r} is no HOST:PORT that institutions can reach")
    now = datetime.now(UTC)
    ca, server = certificates / "ca.pem", certificates / "server.pem"
    authority = read_certificate(ca)
    check_certificate(authority, f"{ca}", now)
    if server.exists():
        certificate = read_certificate(server)
        check_certificate(certificate, f"{server}", now)
        if not is_for(certificate, address.host):
            raise KitError(
                f"{server} is for {', '.join(hosts_of(certificate)) or 'no host'}, not "
                f"{address.host}: "
                f"ipfl certs operator {certificates} --renew --host {address.host}"
            )
    return certificate_pem(authority).decode()


def terms(settings: Settings) -> dict[str, Any]:
    """Return what an institution must know before it joins."""
    return {
        **settings.contract(),
        "preset": settings.preset,
        "mechanism": settings.mechanism,
        "task": settings.task,
        "rounds": settings.rounds,
        "deadline-s": settings.deadline_s,
        "quorum": settings.quorum,
        "currency": "credits",
    }


def _check_owners(asked: JoinRequest, key: bytes, owners: list[tuple[str, bytes]]) -> None:
    """Refuse a name or a key that is another's."""
    for name, public_key in owners:
        if name == asked.name and public_key != key:
            raise KitError(
                f"the name {name!r} belongs to the key {fingerprint_of_bytes(public_key)}, and the "
                f"request's key is {fingerprint(asked.key())}: if the institution has lost its "
                "key, it asks under a new name"
            )
        if public_key == key and name != asked.name:
            raise KitError(
                f"the request's key {fingerprint(asked.key())} belongs to {name!r}, not "
                f"{asked.name!r}: ask under that name, or with a new key"
            )
