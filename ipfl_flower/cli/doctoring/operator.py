"""What ``ipfl doctor operator`` looks at."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ipfl_flower.cli.admit import read_authority
from ipfl_flower.cli.authority import hosts_of, read_certificate
from ipfl_flower.cli.doctoring.files import Room, room, secrets_kept, writable
from ipfl_flower.cli.doctoring.finding import (
    Finding,
    NotKnownError,
    Verdict,
    attempt,
    fail,
    look,
    ok,
)
from ipfl_flower.cli.doctoring.fleet import ask_fleet
from ipfl_flower.cli.doctoring.layout import Tensor, layout_line, model_bytes
from ipfl_flower.cli.doctoring.market import (
    admissions_kept,
    contract_kept,
    initial_tensors,
    ledger_sound,
    open_ledger,
    refused_lately,
)
from ipfl_flower.cli.doctoring.network import lasting, reached, trusted
from ipfl_flower.cli.doctoring.versions import versions_here
from ipfl_flower.cli.documents import KitError, read_file
from ipfl_flower.cli.flower import RegisteredNode, flower_cli
from ipfl_flower.cli.greeting import Code
from ipfl_flower.cli.kit import check_certificate
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.run import read_market
from ipfl_flower.ledger import Ledger
from ipfl_flower.settings import Settings
from ipfl_flower.trainer_api import Address

# The bank of a round and of the one before, and the centres: a row each an institution; and θ_ref.
MODELS_EACH = 3
# A model out to each institution and one back, in the SuperLink's database while a round lasts.
MESSAGES_EACH = 2


@dataclass(frozen=True)
class Operator:
    """What the operator's doctor is told.

    Attributes
    ----------
    market : Path
        market.toml.
    certificates : Path
        The folder that ``ipfl certs operator`` made.
    superlink : str
        The SuperLink's name in Flower's config.toml.
    fleet : str or None
        HOST:PORT at which institutions reach the SuperLink.
    superlink_folder : Path or None
        Of ``ipfl superlink``.
    """

    market: Path
    certificates: Path
    superlink: str = "market"
    fleet: str | None = None
    superlink_folder: Path | None = None

    @property
    def address(self) -> Address:
        """The fleet address, parsed."""
        if self.fleet is None:
            raise NotKnownError("--fleet was not given")
        return Address.parse(self.fleet)

    @property
    def fixes(self) -> Mapping[Code, str]:
        """What the operator does about a certificate."""
        renew = f"ipfl certs operator {self.certificates} --renew"
        host = "NAME" if self.fleet is None else Address.parse(self.fleet).host
        return {
            Code.CERTIFICATE_EXPIRED: f"{renew}, then restart the SuperLink",
            Code.CLOCK: "set this machine's clock (NTP)",
            Code.WRONG_NAME: f"{renew} --host {host}, then restart the SuperLink",
            Code.WRONG_CA: f"the SuperLink runs with other certificates than those in "
            f"{self.certificates}: restart it with these, or name its own",
        }


def examine_operator(operator: Operator) -> Iterator[Finding]:
    """Make the checks of the operator's side, one after another."""
    yield look("versions", lambda: versions_here("institutions need the same series"))
    settings = attempt(
        "market.toml",
        lambda: Settings.read(read_market(operator.market)),
        lambda _: ok(f"{operator.market} is valid"),
    )
    yield settings.finding
    yield look("certificates", lambda: certificates_good(operator))
    yield look("secrets", lambda: secrets_kept(secret_files(operator, settings.value)))
    yield from _examine_fleet(operator)
    nodes = attempt("superlink", lambda: ask_nodes(operator), _superlink_there)
    yield nodes.finding
    with ExitStack() as stack:
        ledger = attempt(
            "ledger",
            lambda: stack.enter_context(open_ledger(settings.needed())),
            ledger_sound,
        )
        yield ledger.finding
        yield look("receipt key", lambda: contract_kept(settings.needed(), ledger.needed()))
        yield look("admissions", lambda: admissions_kept(ledger.needed(), nodes.needed()))
        tensors = attempt(
            "initial model",
            lambda: initial_tensors(settings.needed()),
            lambda found: ok(f"θ⁰ has {layout_line(found)}"),
        )
        yield tensors.finding
        yield look("models folder", lambda: writable(settings.needed().models_dir))
        yield look(
            "disk",
            lambda: room(rooms(operator, settings.needed(), tensors.needed(), ledger.value)),
        )
    yield look("refusals", lambda: refused_lately(operator.superlink_folder))


def _examine_fleet(operator: Operator) -> Iterator[Finding]:
    ca = operator.certificates / "ca.pem"
    start = f"ipfl superlink DIR --certificates {operator.certificates} --fleet-address HOST:PORT"
    yield look(
        "fleet address",
        lambda: reached(operator.address.host, operator.address.port, f"start it: {start}"),
    )
    yield look("fleet tls", lambda: trusted(str(operator.address), ca, operator.fixes))
    yield look("clock", lambda: ask_fleet(str(operator.address), ca).clock())


def certificates_good(operator: Operator) -> Verdict:
    """Tell whether CA, certificate and key belong together, are for the host, and last.

    Raises
    ------
    KitError
        One is damaged, expired, or for another host.
    NotKnownError
        The SuperLink's is kept elsewhere.
    """
    folder = operator.certificates
    ca = read_certificate(folder / "ca.pem")
    if operator.fleet is not None:
        read_authority(folder, operator.fleet)
    check_certificate(ca, str(folder / "ca.pem"), datetime.now(UTC))
    if not (folder / "server.pem").exists():
        raise NotKnownError(f"{folder} has no server.pem: look where the SuperLink runs, too")
    server = read_certificate(folder / "server.pem")
    try:
        server.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return fail(
            f"{folder / 'server.pem'} is not signed by {folder / 'ca.pem'}: "
            f"{operator.fixes[Code.CERTIFICATE_EXPIRED]}"
        )
    content = read_file(folder / "server.key", "SuperLink's key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise KitError(
            f"{folder / 'server.key'} holds no private key: restore it from a backup"
        ) from error
    if key.public_key() != server.public_key():
        return fail(
            f"{folder / 'server.key'} is not the key of {folder / 'server.pem'}: restore both"
        )
    names = ", ".join(hosts_of(server))
    return lasting(server, f"{folder / 'server.pem'}, for {names},", operator.fixes)


def secret_files(operator: Operator, settings: Settings | None) -> list[Path]:
    """List the files that are here and that nobody else may read."""
    names = ("server.key", "superexec.secret", "ca.key")
    files = [operator.certificates / name for name in names]
    if settings is not None:
        files.append(settings.receipt_key_file)
    if operator.superlink_folder is not None:
        files.append(operator.superlink_folder / "superlink.db")
    return [file for file in files if os.path.lexists(file)]


def ask_nodes(operator: Operator) -> list[RegisteredNode]:
    """Ask the SuperLink's control API for its nodes.

    Raises
    ------
    LaunchError
        It doesn't answer.
    """
    try:
        with flower_cli(operator.superlink) as flower:
            return flower.nodes()
    except LaunchError as error:
        raise LaunchError(
            f"{error}: start ipfl superlink, or correct [superlink.{operator.superlink}] in "
            "Flower's config.toml"
        ) from error


def _superlink_there(nodes: list[RegisteredNode]) -> Verdict:
    online = sum(node.status == "online" for node in nodes)
    return ok(f"its control API answers; nodes known: {len(nodes)}, online: {online}")


def rooms(
    operator: Operator, settings: Settings, tensors: list[Tensor], ledger: Ledger | None
) -> list[Room]:
    """List what a round writes, by folder."""
    institutions = settings.institutions_min
    if ledger is not None:
        taking_part = len(ledger.institutions()) - len(ledger.expelled())
        institutions = max(institutions, taking_part)
    model = model_bytes(tensors)
    found = [Room(settings.models_dir, (MODELS_EACH * institutions + 1) * model)]
    if operator.superlink_folder is not None:
        found.append(Room(operator.superlink_folder, MESSAGES_EACH * institutions * model))
    return found
