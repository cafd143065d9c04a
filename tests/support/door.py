"""An operator and institutions for tests of the door: real launchers, on loopback."""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.certs import make_node_key, make_server_certificates, write_private
from ipfl_flower.cli.executor import executor_command
from ipfl_flower.cli.fleet import environment
from ipfl_flower.cli.flower import FlowerCli
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.processes import ProcessGroup, free_port, wait_for_port

SCRIPTS = Path(sysconfig.get_path("scripts"))
IPFL = (SCRIPTS / "ipfl",)
START_S = 60.0
NOTHING = "0" * 64  # no bundle has this hash

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "door"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "test"
fab-include = ["door_app/*.py"]
[tool.flwr.app.components]
serverapp = "door_app.server:app"
clientapp = "door_app.client:app"
[tool.flwr.app.config]
out = ""
"""
SERVER = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    deadline = time.monotonic() + 60
    while not (nodes := list(grid.get_node_ids())):
        assert time.monotonic() < deadline, "no node"
        time.sleep(0.1)
    sent = list(grid.push_messages([
        Message(RecordDict({"c": ConfigRecord({"a": 1})}), dst_node_id=node, message_type="train")
        for node in nodes
    ]))
    replies = []
    while len(replies) < len(sent):
        assert time.monotonic() < deadline, "no reply"
        replies += grid.pull_messages(sent)
        time.sleep(0.1)
    Path(context.run_config["out"]).write_text(json.dumps([
        {"code": r.error.code, "reason": r.error.reason} if r.has_error()
        else {"said": r.content["c"]["said"]} for r in replies
    ]))
"""
# What a hostile bundle does as soon as anything of it is used: on import, and in a message.
CLIENT = """
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

MARKER = Path({marker!r})
MARKER.write_text("imported")
app = ClientApp()

@app.train()
def train(message, context):
    MARKER.write_text("ran")
    said = str(context.node_config["trainer"])
    return Message(RecordDict({{"c": ConfigRecord({{"said": said}})}}), reply_to=message)
"""


@dataclass(frozen=True)
class Operator:
    """A SuperLink that `ipfl superlink` runs, and its executor.

    Attributes
    ----------
    folder : Path
        Of the operator; ``superlink`` is the launcher's.
    fleet : str
        Where institutions connect.
    """

    folder: Path
    group: ProcessGroup
    fleet: str
    flower: FlowerCli

    @property
    def ca(self) -> Path:
        return self.folder / "certificates" / "ca.pem"

    @property
    def printed(self) -> str:
        return self.group.log("superlink").read_text()

    def refusals(self) -> dict[str, int]:
        """Return the counts by kind; those of none are left out."""
        file = self.folder / "superlink" / "refusals.json"
        if not file.exists():
            return {}
        counts = json.loads(file.read_text())["counts"]
        return {kind: number for kind, number in counts.items() if number}

    def wait_for_refusal(self, kind: str, more_than: int) -> int:
        """Wait until more of a kind are counted, and return how many."""
        return wait_until(
            lambda: n if (n := self.refusals().get(kind, 0)) > more_than else None,
            f"a refusal {kind}: {self.printed}",
        )

    def play(self, app: Path, out: Path) -> list[dict]:
        """Run an app to its end and return the replies that its server app saw."""
        config = out.with_suffix(".toml")
        config.write_text(to_toml({"out": str(out)}))
        run = self.flower.submit(app, config)
        return wait_until(
            lambda: json.loads(out.read_text()) if self._finished(run) else None,
            f"run {run}: {self.group.log('superexec').read_text()}",
        )

    def _finished(self, run: int) -> bool:
        status = self.flower.run_status(run)
        assert status in ("pending", "starting", "running", "finished:completed"), status
        return status == "finished:completed"


def wait_until(condition, what, deadline_s=START_S):
    """Return the first result of `condition` that is not None or false."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.1)
    return found


@contextmanager
def operator(folder: Path, *, expired: bool = False) -> Iterator[Operator]:
    """Run an operator's SuperLink and executor on loopback."""
    files = make_server_certificates(folder / "certificates", ["127.0.0.1", "localhost"])
    if expired:
        expire(folder / "certificates")
    secret = folder / "certificates" / "superexec.secret"
    write_private(secret, secrets.token_hex(32).encode())
    fleet_port, port = free_port(), free_port()
    home = folder / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "market"\n[superlink.market]\naddress = "127.0.0.1:{port}"\n'
        f"root-certificates = {json.dumps(str(files.ca))}\n"
    )
    with ProcessGroup(folder / "logs", environment(home)) as group:
        group.start(
            "superlink",
            [
                *(*IPFL, "superlink", folder / "superlink", "--certificates", secret.parent),
                *("--fleet-address", f"127.0.0.1:{fleet_port}", "--port", str(port)),
            ],
        )
        for number in (fleet_port, port):
            wait_for_port(number, group, "superlink", deadline_s=START_S)
        group.start(
            "superexec",
            executor_command(f"127.0.0.1:{port}", secret, files.ca),
        )
        yield Operator(folder, group, f"127.0.0.1:{fleet_port}", FlowerCli(group, "market"))


@contextmanager
def tls_server(files) -> Iterator[int]:
    """Serve handshakes on loopback, and give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def expire(folder: Path, days: float = -1.0) -> None:
    """Put a server certificate in place of that in `folder`, which expires in so many days."""
    old = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    new = builder.sign(ca_key, hashes.SHA384())
    (folder / "server.pem").write_bytes(new.public_bytes(serialization.Encoding.PEM))


def join(folder: Path, fleet: str, ca: Path, bundle: str = NOTHING) -> Path:
    """Make the folder of an institution that has joined; return its public key's file."""
    folder.mkdir(mode=0o700)
    public = make_node_key(folder / "node.key")
    (folder / "ca.pem").write_bytes(ca.read_bytes())
    (folder / "allowed").write_text(f"{bundle}\n")
    Kit.signed(
        Ed25519PrivateKey.generate(),
        name=folder.name,
        public_key=" ".join(public.read_text().split()[:2]),
        fleet=fleet,
        ca=ca.read_text(),
        bundles=[bundle],
        terms={},
        versions={"flwr": version("flwr")},
        issued=datetime.now(UTC),
    ).write(folder / "kit.json")
    return public


def supernode_command(folder: Path) -> list[str | Path]:
    """Return the command of the institution's SuperNode, with a runtime API on a free port."""
    address = f"unix://{folder}/trainer.sock"
    return [*IPFL, "supernode", folder, "--trainer", address, "--port", str(free_port())]


def refused_supernode(folder: Path) -> tuple[int, str]:
    """Run an institution's SuperNode that will not be let in; return exit code and last line."""
    ended = subprocess.run(
        [str(part) for part in supernode_command(folder)],
        env=os.environ.copy(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=START_S,
        check=False,
    )
    return ended.returncode, ended.stderr.strip().split("\n")[-1]


@contextmanager
def running_supernode(folder: Path, log: Path) -> Iterator[subprocess.Popen]:
    """Run an institution's SuperNode until the block ends; wait until it is let in."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            [str(part) for part in supernode_command(folder)], stdout=file, stderr=file
        ) as process,
    ):
        try:
            wait_until(
                lambda: "SuperNode ID:" in log.read_text() or process.poll(),
                f"the SuperNode in {folder}",
            )
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)


def write_app(folder: Path, marker: Path) -> Path:
    """Write an app whose client app leaves a marker when anything of it is run."""
    package = folder / "door_app"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text("")
    (package / "server.py").write_text(SERVER)
    (package / "client.py").write_text(CLIENT.format(marker=str(marker)))
    return folder
