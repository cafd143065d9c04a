"""What ``ipfl doctor institution`` looks at."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipfl_flower.cli.authority import read_certificate
from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.doctoring.files import room, secrets_kept, writable
from ipfl_flower.cli.doctoring.finding import (
    Attempt,
    Finding,
    NotKnownError,
    State,
    Verdict,
    attempt,
    fail,
    look,
    ok,
    warn,
    worst,
)
from ipfl_flower.cli.doctoring.fleet import FleetAnswer, ask_fleet, judge_key
from ipfl_flower.cli.doctoring.network import lasting, reached, trusted
from ipfl_flower.cli.doctoring.trainer import (
    InstitutionFile,
    describe,
    device_used,
    layout_known,
    operator_key_pinned,
    trainer_fits,
    trainer_rooms,
    trainer_versions,
)
from ipfl_flower.cli.doctoring.versions import versions_here
from ipfl_flower.cli.documents import read_file
from ipfl_flower.cli.flower import flower_cli
from ipfl_flower.cli.greeting import Code
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.node_keys import FILE, fingerprint, load_public_key, openssh, read_node_key
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.supernode import TrainerAddress
from ipfl_flower.cli.versions import check_versions
from ipfl_flower.door.allowed import read_allowed
from ipfl_flower.trainer_api import Address, Description, Tls

FLEET_FIXES: Mapping[Code, str] = {
    Code.CERTIFICATE_EXPIRED: "ask the operator to renew it",
    Code.CLOCK: "set this machine's clock (NTP), or ask the operator to set his",
    Code.WRONG_NAME: "ask the operator for a certificate for that name, or a kit with the right "
    "address",
    Code.WRONG_CA: "somebody else listens there, or the operator has a new CA: ask him for a new "
    "kit",
}
_RENEW = "ipfl certs trainer DIR --renew"
TRAINER_FIXES: Mapping[Code, str] = {
    Code.CERTIFICATE_EXPIRED: f"{_RENEW}, then restart trainer and SuperNode",
    Code.CLOCK: "set this machine's clock (NTP), or the trainer's",
    Code.WRONG_NAME: f"{_RENEW} --host with that name, then restart the trainer",
    Code.WRONG_CA: "give trainer and SuperNode the same ca.pem",
}


@dataclass(frozen=True)
class Asked:
    """What the institution's doctor is told.

    Attributes
    ----------
    folder : Path
        Where ``ipfl join`` wrote the kit.
    trainer : TrainerAddress
    institution : Path or None
        The institution.toml, where the trainer runs on this machine.
    """

    folder: Path
    trainer: TrainerAddress
    institution: Path | None = None

    @property
    def tls(self) -> Tls | None:
        """The files for TLS to the trainer; None: it is on this machine."""
        self.trainer.node_config()  # Refuses half of them.
        given = self.trainer
        if given.ca is None or given.certificate is None or given.key is None:
            return None
        return Tls(given.ca, given.certificate, given.key)


def examine_institution(asked: Asked) -> Iterator[Finding]:
    """Make the checks of an institution's side, one after another."""
    kit = attempt("kit", lambda: Kit.read(asked.folder / "kit.json"), kit_good)
    yield kit.finding
    yield look("versions", lambda: versions_fit(kit.needed()))
    yield look("node key", lambda: key_is_the_kits(asked.folder, kit.needed()))
    yield look("secrets", lambda: secrets_kept(secret_files(asked)))
    yield look("operator key", lambda: authority_is_the_kits(asked.folder, kit.needed()))
    yield look("app bundles", lambda: bundles_allowed(asked.folder, kit.needed()))
    yield from _examine_fleet(asked, kit)
    yield from _examine_trainer(asked, kit)


def _examine_fleet(asked: Asked, kit: Attempt[Kit]) -> Iterator[Finding]:
    ca = asked.folder / "ca.pem"

    def address() -> Address:
        return Address.parse(kit.needed().fleet)

    yield look(
        "fleet address",
        lambda: reached(address().host, address().port, "ask the operator to start the SuperLink"),
    )
    yield look("fleet tls", lambda: trusted(str(address()), ca, FLEET_FIXES))
    answer = attempt(
        "clock",
        lambda: ask_fleet(str(address()), ca, asked.folder / FILE),
        FleetAnswer.clock,
    )
    yield answer.finding
    yield look(
        "registration",
        lambda: judge_key(
            answer.needed(),
            kit.needed().name,
            fingerprint(load_public_key(kit.needed().public_key)),
        ),
    )


def _examine_trainer(asked: Asked, kit: Attempt[Kit]) -> Iterator[Finding]:
    file = attempt(
        "institution.toml", lambda: read_institution(asked), lambda _: ok(f"{asked.institution}")
    )
    yield file.finding
    if not asked.trainer.address.startswith("unix:"):
        yield look("trainer tls", lambda: trainer_tls(asked))
    trainer = attempt(
        "trainer",
        lambda: describe(asked.trainer.address, asked.tls),
        lambda found: trainer_fits(found, kit.needed()),
    )
    yield trainer.finding

    def described() -> Description:
        return trainer.needed()

    def stated() -> InstitutionFile:
        return file.needed()

    yield look("trainer versions", lambda: trainer_versions(described()))
    yield look("device", lambda: device_used(described(), file.value))
    yield look("model layout", lambda: layout_known(described()))
    yield look("receipt key", lambda: operator_key_pinned(stated(), kit.needed()))
    yield look("receipts folder", lambda: writable(stated().state_dir / "receipts"))
    yield look("disk", lambda: room(trainer_rooms(stated(), described())))


def kit_good(kit: Kit) -> Verdict:
    """Tell whether the kit's time has come and isn't over; its signature was read with it.

    Raises
    ------
    KitError
        It has not, or is.
    """
    kit.check_time()
    what = f"the kit of {kit.name}, for {kit.fleet}, is signed; its CA"
    return lasting(
        kit.authority(),
        what,
        {**FLEET_FIXES, Code.CERTIFICATE_EXPIRED: "ask the operator for a new CA and kit"},
    )


def versions_fit(kit: Kit) -> Verdict:
    """Compare the versions here with the operator's.

    Raises
    ------
    KitError
        They don't work together.
    """
    check_versions(kit.versions, "the operator")
    return versions_here("of the operator's series")


def key_is_the_kits(folder: Path, kit: Kit) -> Verdict:
    """Tell whether the node key is the one that was admitted.

    Raises
    ------
    KitError
        It is missing or damaged.
    """
    own = read_node_key(folder).public_key()
    if openssh(own) != kit.public_key:
        return fail(
            f"{folder / FILE} ({fingerprint(own)}) is not the kit's key "
            f"({fingerprint(load_public_key(kit.public_key))}): restore it, or ask for a new kit"
        )
    return ok(f"{fingerprint(own)}, as in the kit")


def secret_files(asked: Asked) -> list[Path]:
    """List the files that nobody else may read."""
    key = asked.trainer.key
    return [asked.folder / FILE, *([] if key is None else [key])]


def authority_is_the_kits(folder: Path, kit: Kit) -> Verdict:
    """Tell whether the CA and the operator's key beside the kit are the kit's.

    Raises
    ------
    KitError
        One can't be read.
    """
    if read_certificate(folder / "ca.pem") != kit.authority():
        return fail(f"{folder / 'ca.pem'} is not the kit's: run ipfl join with the kit again")
    key = read_file(folder / "operator.key", "operator's public key").decode(errors="replace")
    if key.strip() != kit.operator_key:
        return fail(
            f"{folder / 'operator.key'} is not the key that signed the kit: "
            "run ipfl join with the kit again"
        )
    return ok(f"ca.pem and operator.key are the kit's, signed by {kit.operator_key}")


def bundles_allowed(folder: Path, kit: Kit) -> Verdict:
    """Tell whether the operator's app may run here, and whether it is what is installed here.

    Raises
    ------
    AllowedError
        The list of what may run is missing or damaged.
    """
    allowed = read_allowed(folder)
    missing = [bundle for bundle in kit.bundles if bundle not in allowed]
    if missing:
        return fail(f"the operator's app may not run here: ipfl allow {folder} {missing[0]}")
    try:
        own = installed_bundle()
    except (LaunchError, OSError) as error:
        return warn(f"{kit.bundles[0]} is allowed; it can't be compared with what is here: {error}")
    if own not in kit.bundles:
        return warn(
            f"the operator's app {kit.bundles[0]} is allowed, and is another than what is "
            f"installed here ({own}): ask the operator for its sources"
        )
    return ok(f"{own} is allowed, the operator's, and what is installed here")


def installed_bundle() -> str:
    """Return the SHA-256 of the app bundle that the installed sources make.

    Raises
    ------
    LaunchError, OSError
        It can't be built.
    """
    with tempfile.TemporaryDirectory() as scratch, flower_cli("") as flower:
        return flower.bundle(stage_app(Path(scratch) / "app"))


def read_institution(asked: Asked) -> InstitutionFile:
    """Read the institution.toml, if it was named.

    Raises
    ------
    NotKnownError
        It wasn't.
    """
    if asked.institution is None:
        raise NotKnownError(
            "--institution was not given: run this where the trainer's disk is, too"
        )
    return InstitutionFile.read(asked.institution)


def trainer_tls(asked: Asked) -> Verdict:
    """Tell whether the trainer's certificate and our own for it are good, and for how long."""
    tls, address = asked.tls, Address.parse(asked.trainer.address)
    if tls is None:
        return (
            ok(f"{address} is on this machine: none is needed")
            if address.local
            else fail(
                f"the trainer at {address} is on another machine: give --trainer-ca, "
                "--trainer-certificate and --trainer-key"
            )
        )
    start = "start ipfl trainer there, with --listen"
    connected = reached(address.host, address.port, start)
    if connected.state is not State.OK:
        return connected
    own = lasting(read_certificate(tls.certificate), f"{tls.certificate}", TRAINER_FIXES)
    theirs = trusted(str(address), tls.ca, TRAINER_FIXES, (tls.certificate, tls.key))
    return worst(own, theirs)
