"""A whole fleet on one machine: SuperLink, executor, trainers and SuperNodes as real processes."""

import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ipfl_flower.cli.certs import make_node_key, make_server_certificates, write_private
from ipfl_flower.cli.executor import executor_command
from ipfl_flower.cli.flower import SCRIPTS, FlowerCli
from ipfl_flower.cli.flower_versions import fleet_api
from ipfl_flower.cli.processes import (
    MEMORY,
    PYTHON,
    LaunchError,
    ProcessGroup,
    free_port,
    wait_for_port,
)
from ipfl_flower.cli.superlink_command import superlink_command
from ipfl_flower.door import allowed
from ipfl_flower.trainer_api import TrainerClient, TrainerUnreachableError

CONNECTION = "market"
LOOPBACK = "127.0.0.1"
START_DEADLINE_S = 60.0
# Trainers that start at the same time share the cores while they load torch.
TRAINER_DEADLINE_S = 180.0
TRAINER_PATIENCE_S = 1.0
# Of each process but the SuperLink.
RESTARTS_MAX = 5


@dataclass(frozen=True)
class Node:
    """One institution's trainer and SuperNode: their name, and the trainer's institution file."""

    name: str
    institution_file: Path


def environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's processes: no network but ours, one thread each.

    Parameters
    ----------
    home : Path
        ``FLWR_HOME``: connections and unpacked apps; nothing of the user's own is touched.
    """
    return {
        **os.environ,
        # Flower starts its apps by name.
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        **MEMORY,
        "PYTHONUNBUFFERED": "1",
    }


class Fleet:
    """Starts a SuperLink (gRPC fleet, TLS, node authentication) and its institutions on loopback.

    An institution is what it is on its own machines: a trainer, which has the data, and a SuperNode
    with our executor, which are told nothing but where the trainer listens.

    Parameters
    ----------
    folder : Path
        Holds certificates, keys, logs and Flower's own state; absolute.
    group : ProcessGroup
        Owns the processes; made with the environment that `environment` returns.
    sockets : Path
        Where the trainers' Unix sockets go. Their names must be short: a folder for them alone.
    fleet_host : str
        Where the SuperLink's fleet API listens: an address of this machine. Everything else stays
        on loopback, if this Flower has a port for it (`flower_versions`).
    fleet_port : int, optional
        Its port; a free one by default.
    """

    def __init__(
        self,
        folder: Path,
        group: ProcessGroup,
        sockets: Path,
        *,
        fleet_host: str = LOOPBACK,
        fleet_port: int | None = None,
    ) -> None:
        self._folder = folder
        self._group = group
        self._sockets = sockets
        self._door = folder / "door"
        self._fleet_host = fleet_host
        self._fleet_port = fleet_port
        self._control = ""  # HOST:PORT, once the SuperLink has been started
        self.flower = FlowerCli(group, CONNECTION)
        self._api = fleet_api()
        self.transport = f"{self._api.name} over TLS, authenticated nodes"
        hosts = dict.fromkeys([LOOPBACK, "localhost", fleet_host])
        self._certificates = make_server_certificates(folder / "certificates", list(hosts))
        # Ports are chosen right before something binds them, one at a time, and never twice.
        self._ports = threading.Lock()
        self._used: set[int] = set()

    @property
    def ca(self) -> Path:
        """The certificate that institutions check the SuperLink's against."""
        return self._certificates.ca

    @property
    def fleet_address(self) -> str:
        """Where SuperNodes connect, once the SuperLink has been started."""
        return f"{self._fleet_host}:{self._fleet_port}"

    def start_superlink(self) -> None:
        """Start the SuperLink and the executor of the server app, and wait until it listens."""
        fleet_port = self._fleet_port = self._fleet_port or self._free_port()
        host, port = self._fleet_host, fleet_port
        if self._api.own_port:
            host, port = LOOPBACK, self._free_port()
        self._control = f"{host}:{port}"
        secret = self._folder / "certificates" / "superexec.secret"
        write_private(secret, secrets.token_hex(32).encode())
        files = self._certificates
        self._group.start(
            "superlink",
            superlink_command(
                certificates=secret.parent,
                database=self._folder / "superlink.db",
                fleet_address=self.fleet_address,
                host=host,
                port=port,
            ),
        )
        for at, number in ((self._fleet_host, fleet_port), (host, port)):
            wait_for_port(number, self._group, "superlink", deadline_s=START_DEADLINE_S, host=at)
        self._group.start(
            "superexec",
            executor_command(self._control, secret, files.ca),
            restarts=RESTARTS_MAX,
        )
        self._write_connection()

    def start_trainer(self, node: Node) -> None:
        """Start the trainer of `node`; `wait_for_trainer` tells when it has loaded its data."""
        self._group.start(
            f"trainer-{node.name}",
            [
                *(*PYTHON, "ipfl_flower.trainer.serve", node.institution_file),
                *("--listen", self._trainer_address(node)),
            ],
            restarts=RESTARTS_MAX,
        )

    def wait_for_trainer(self, node: Node) -> None:
        """Wait until the trainer of `node` answers.

        Raises
        ------
        LaunchError
            If it ends first, or the deadline passes.
        """
        name = f"trainer-{node.name}"
        end = time.monotonic() + TRAINER_DEADLINE_S
        with TrainerClient(self._trainer_address(node), patience_s=TRAINER_PATIENCE_S) as client:
            while True:
                try:
                    client.describe(deadline_s=TRAINER_DEADLINE_S)
                except TrainerUnreachableError as error:
                    if name in self._group.dead():
                        raise LaunchError(f"{name} {self._group.dead()[name]}") from error
                    if time.monotonic() > end:
                        raise LaunchError(str(error)) from error
                else:
                    return

    def allow(self, bundle: str) -> None:
        """Let the institutions run an app bundle, named by its SHA-256 (hex), and no other."""
        self._door.mkdir(mode=0o700, exist_ok=True)
        (self._door / allowed.FILE).write_text(f"{bundle}\n")

    def start_node(self, node: Node) -> None:
        """Make a key for `node`, register it, and start its SuperNode with our executor.

        They are what `ipfl supernode` starts at an institution: the bundle is checked against what
        `allow` wrote.
        """
        port, secret = self._free_port(), self._folder / "keys" / f"{node.name}.secret"
        options = self.node_options(node, port)
        write_private(secret, secrets.token_hex(32).encode())
        self._group.start(
            f"supernode-{node.name}",
            [*options, "--isolation", "process", "--superexec-auth-secret-file", secret],
            restarts=RESTARTS_MAX,
        )
        self._group.start(
            f"executor-{node.name}",
            [
                *(*PYTHON, "ipfl_flower.door.executor", "--runtime", f"{LOOPBACK}:{port}"),
                *("--secret", secret, "--folder", self._door, "--parent", str(os.getpid())),
            ],
            restarts=RESTARTS_MAX,
        )

    def node_options(self, node: Node, port: int | None = None) -> list[str | Path]:
        """Make a key for `node`, register it, and return a command line of its SuperNode."""
        key = self._folder / "keys" / node.name
        self.flower.register(node.name, make_node_key(key))
        return [
            *(SCRIPTS / "flower-supernode", "--superlink", self.fleet_address),
            *("--root-certificates", self._certificates.ca),
            *("--auth-supernode-private-key", key),
            *("--host", LOOPBACK, "--port", str(port or self._free_port())),
            *("--node-config", f"trainer={json.dumps(self._trainer_address(node))}"),
        ]

    def _trainer_address(self, node: Node) -> str:
        return f"unix://{self._sockets / node.name}.sock"

    def _free_port(self) -> int:
        with self._ports:
            while (port := free_port()) in self._used:
                pass
            self._used.add(port)
            return port

    def _write_connection(self) -> None:
        home = self._folder / "flower"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{self._control}"\n'
            f"root-certificates = {json.dumps(str(self._certificates.ca))}\n"
        )
