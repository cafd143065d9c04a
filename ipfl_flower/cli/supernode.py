"""``ipfl supernode``: an institution's SuperNode, which runs allowed app bundles alone."""

import os
import re
import secrets
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer

from ipfl_flower import logs
from ipfl_flower.cli.certs import write_private
from ipfl_flower.cli.child import Child, Stop, exit_code, say, wait
from ipfl_flower.cli.documents import read_file
from ipfl_flower.cli.fleet import environment
from ipfl_flower.cli.flower import SCRIPTS
from ipfl_flower.cli.greeting import Code, Fault, certificate_fault
from ipfl_flower.cli.kit import KIT_FILE, Kit
from ipfl_flower.cli.node_keys import fingerprint, load_node_key, openssh
from ipfl_flower.cli.processes import PYTHON, LaunchError
from ipfl_flower.door.allowed import AllowedError, read_allowed
from ipfl_flower.trainer_api import Address, AddressError

# An executor that fails this often, each time within so short a time, will not get better.
EXECUTOR_FAILURES_MAX = 5
EXECUTOR_YOUNG_S = 10.0

_ERROR = re.compile(r"\[code: (\d+)\]|Exit Code: (\d+)")
_NOT_ACTIVATED = "2004"
_VERSIONS = "606"


@dataclass(frozen=True)
class Institution:
    """What ``ipfl supernode`` needs of an institution's folder.

    Attributes
    ----------
    folder : Path
    fleet : str
        HOST:PORT of the SuperLink.
    key : str
        The SuperNode key's fingerprint.
    name : str
        As the kit has it.
    """

    folder: Path
    fleet: str
    key: str
    name: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the folder that ``ipfl join`` wrote.

        Raises
        ------
        LaunchError, KitError
            If something is missing or damaged.
        """
        kit = Kit.read(folder / KIT_FILE)
        own = load_node_key(folder, group=True).public_key()
        if openssh(own) != kit.public_key:
            raise LaunchError(
                f"{folder / KIT_FILE} is for another key than {folder / 'node.key'} "
                f"({fingerprint(own)}): run ipfl join with this key's kit"
            )
        ca = folder / "ca.pem"
        if read_file(ca, "CA's certificate (ipfl join writes it)") != kit.ca.encode():
            raise LaunchError(
                f"{ca} is not the CA of {folder / KIT_FILE}: run ipfl join with the kit again"
            )
        try:
            read_allowed(folder)
        except AllowedError as error:
            raise LaunchError(str(error)) from error
        return cls(folder.absolute(), kit.fleet, fingerprint(own), kit.name)

    @property
    def ca(self) -> Path:
        """The certificate that the SuperLink's is checked against."""
        return self.folder / "ca.pem"


@dataclass(frozen=True)
class TrainerAddress:
    """Where the trainer listens, and the files for TLS if that is another machine."""

    address: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def node_config(self) -> str:
        """Return Flower's node config that names the trainer.

        Raises
        ------
        LaunchError
            If the address is none, only some of the files are given, or a value can't be written
            in a node config.
        """
        files = {
            "trainer-ca": self.ca,
            "trainer-certificate": self.certificate,
            "trainer-key": self.key,
        }
        given = {name: str(file.absolute()) for name, file in files.items() if file is not None}
        if given and len(given) < len(files):
            missing = ", ".join(f"--{name}" for name in files if name not in given)
            raise LaunchError(f"{missing} is missing: TLS to the trainer needs all three files")
        pairs = {"trainer": self.address, **given}
        for name, value in pairs.items():
            if any(sign in value for sign in "\"'\\") or not value.isprintable():
                raise LaunchError(f"--{name} {value!r} has a quote, backslash or unprintable sign")
        try:
            Address.parse(self.address)
        except AddressError as error:
            raise LaunchError(f"--trainer: {error}") from error
        return " ".join(f'{name}="{value}"' for name, value in pairs.items())


def supernode(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where ipfl join wrote the kit.")],
    *,
    trainer: Annotated[str, typer.Option(help="unix:///path or host:port.", show_default=False)],
    trainer_ca: Annotated[Path | None, typer.Option(help="Of the trainer, PEM.")] = None,
    trainer_certificate: Annotated[
        Path | None, typer.Option(help="The SuperNode's, for the trainer, PEM.")
    ] = None,
    trainer_key: Annotated[Path | None, typer.Option(help="Of that certificate, PEM.")] = None,
    host: Annotated[str, typer.Option(help="Of the runtime API: never public.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the runtime API.")] = 9094,
) -> None:
    """Run the institution's SuperNode; only app bundles in DIR/allowed run here."""
    address = TrainerAddress(trainer, trainer_ca, trainer_certificate, trainer_key)
    raise typer.Exit(run_supernode(Institution.read(folder), address, host, port))


def run_supernode(institution: Institution, trainer: TrainerAddress, host: str, port: int) -> int:
    """Run flower-supernode and our executor until the former ends, and return an exit code.

    Raises
    ------
    LaunchError
        If a setting is wrong, or a program can't be started.
    """
    logs.configure()
    logs.note(institution=institution.name)
    node_config = trainer.node_config()
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        if (fault := _certificate_fault(institution)) is not None:
            say(f"ipfl: {fault.line}")
            return fault.code
        # Unpacked bundles and the secret live as long as this process, and nobody else sees them.
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ipfl-supernode-")))
        secret = private / "superexec.secret"
        write_private(secret, secrets.token_hex(32).encode())
        env = environment(private / "flwr")
        command: list[str | Path] = [
            *(SCRIPTS / "flower-supernode", "--superlink", institution.fleet),
            *("--root-certificates", institution.ca),
            *("--auth-supernode-private-key", institution.folder / "node.key"),
            *("--isolation", "process", "--superexec-auth-secret-file", secret),
            *("--host", host, "--port", str(port), "--node-config", node_config),
        ]
        heard = Heard()
        child = stack.enter_context(Child(command, env, heard.read))
        stop.hand_to(child)
        runtime = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        executor = Executor(runtime, secret, institution.folder, env)
        stack.callback(executor.end)

        def tend() -> None:
            if stop.asked:
                executor.end()  # It would only complain that the SuperNode is gone.
            elif not executor.tend():
                child.signal(signal.SIGTERM)

        code = wait(child, stop, tend)
    if stop.asked:
        return exit_code(code)
    if executor.failed:
        return 1
    fault = heard.fault(institution) or _certificate_fault(institution)
    if fault is None and code == 0:
        # Flower's way out when a call is not authenticated; it says no more.
        fault = Fault(
            Code.KEY_REFUSED,
            f"the SuperLink at {institution.fleet} no longer accepts this key ({institution.key}): "
            f"it was expelled, or this machine's clock is wrong; ask the operator",
        )
    if fault is not None:
        say(f"ipfl: {fault.line}")
        return fault.code
    say(f"ipfl: flower-supernode ended by itself (exit code {code}); what it said last is above")
    return exit_code(code)


class Heard:
    """What the SuperNode printed, as far as it says why it ends."""

    def __init__(self) -> None:
        self._codes: set[str] = set()

    def read(self, line: str) -> None:
        """Hand a line on, and note the error codes in it."""
        say(line)
        for api, end in _ERROR.findall(line):
            self._codes.add(api or end)

    def fault(self, institution: Institution) -> Fault | None:
        """Return what the error codes mean, if they are of those that are told apart."""
        if _NOT_ACTIVATED in self._codes:
            return Fault(
                Code.KEY_REFUSED,
                f"the SuperLink at {institution.fleet} does not let this key in "
                f"({institution.key}): it was not admitted or was expelled, or a SuperNode with it "
                f"is still shown online, up to a minute after it was killed; if it lasts, ask the "
                f"operator for ipfl admit",
            )
        if _VERSIONS in self._codes:
            return Fault(
                Code.INCOMPATIBLE,
                f"the SuperLink at {institution.fleet} runs a version of Flower that does not work "
                f"with this one: install the version that the kit names",
            )
        return None


class Executor:
    """Our executor (`ipfl_flower.door.executor`), started again when it ends.

    Parameters
    ----------
    runtime : str
        HOST:PORT of the SuperNode's Runtime API.
    secret : Path
        What the SuperNode asks of whoever takes tasks.
    folder : Path
        The institution's.
    env : mapping of str to str
    """

    def __init__(self, runtime: str, secret: Path, folder: Path, env: Mapping[str, str]) -> None:
        self._command: list[str | Path] = [
            *(*PYTHON, "ipfl_flower.door.executor"),
            *("--runtime", runtime, "--secret", secret, "--folder", folder),
            *("--parent", str(os.getpid())),
        ]
        self._env = env
        self._failures = 0
        self._start()

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self._failures >= EXECUTOR_FAILURES_MAX

    def tend(self) -> bool:
        """Start it again if it has ended; return False when it is given up."""
        code = self._child.poll()
        if code is None or self.failed:
            return not self.failed
        young = time.monotonic() - self._started < EXECUTOR_YOUNG_S
        self._failures = self._failures + 1 if young else 1
        self.end()
        if self.failed:
            say(f"ipfl: the executor ended {self._failures} times in a row: see above; giving up")
            return False
        say(f"ipfl: the executor ended (exit code {code}); started again")
        self._start()
        return True

    def end(self) -> None:
        """End it, and the client app that it runs."""
        self._child.end(grace_s=0.0)

    def _start(self) -> None:
        self._child = Child(self._command, self._env, say)
        self._started = time.monotonic()


def _certificate_fault(institution: Institution) -> Fault | None:
    try:
        return certificate_fault(institution.fleet, institution.ca)
    except OSError as error:
        say(f"ipfl: can't reach the SuperLink at {institution.fleet} ({error}); trying again")
        return None
