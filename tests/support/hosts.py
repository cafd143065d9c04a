"""Hosts of their own for tests: an operator and institutions that do what the docs say."""

import os
import re
import shutil
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.compose import COMPOSE, Project, command, project
from support.containers import TAG
from support.guide import Terminal, blocks

from ipfl_flower.cli.bundle import to_toml

NAMES = ("alder", "birch")
NEWCOMER = "cedar"
IMAGES, OPEN, ADMIT, RUN, CONSOLE, DOCTOR, RENEW, BACKUP, EXPEL = blocks(
    "operate.md", "In containers"
)
ASK, JOIN, START, CHECK = blocks("join.md", "In containers")
[INSTITUTION] = blocks("join.md", "3. Start the trainer", "toml")
# Enough that the market does not end before the newcomer has come.
ROUNDS = 1000


@dataclass
class House:
    """A host of its own: its folder with compose files, a terminal in it, and what it runs."""

    project: Project
    terminal: Terminal
    data: Path | None = None
    said: dict[str, str] = field(default_factory=dict)


@dataclass
class Operator(House):
    """The operator's host, and what was seen of its market."""

    address: str = ""
    seen: dict = field(default_factory=dict)

    @property
    def desk(self) -> Path:
        """Where requests come in and kits go out."""
        return self.terminal.folder / "operator"


@contextmanager
def open_operator(folder: Path, address: str) -> Iterator[Operator]:
    """Give an operator that has done what comes before the first institution."""
    port = free_port(address)
    environment = {
        "IPFL_HOST": address,
        "IPFL_PUBLISH": f"{address}:{port}",
        "IPFL_PORT": str(port),
        "IPFL_CONSOLE": "127.0.0.1:",
    }
    compose = compose_files(folder / "operator")
    settings = tomllib.loads((compose / "operator" / "market.toml").read_text())
    edited = {"rounds": ROUNDS, "deadline-s": 400, "absence-s": 30, "join-deadline-s": 300}
    (compose / "operator" / "market.toml").write_text(to_toml(settings | edited))
    with project(str(compose / "operator.yml"), **environment) as made:
        instead = {
            "market.example": address,
            "python ipfl-trainer": f"python ipfl-trainer:{TAG}",
            "/backup": str(folder / "backup"),
        }
        terminal = open_terminal(folder / "operator", made, environment, instead)
        terminal.type(OPEN)
        yield Operator(made, terminal, address=f"{address}:{port}")


@contextmanager
def institution(name: str, folder: Path) -> Iterator[House]:
    """Give an institution's host, on which nothing was done yet."""
    compose = compose_files(folder / name)
    data = folder / name / "data"
    data.mkdir()
    # For the commands that take it all away; at the terminal the docs' lines set these.
    environment = {"IPFL_NAME": name, "IPFL_DATA": str(data), "COMPOSE_PROFILES": "cpu"}
    with project(str(compose / "institution.yml"), **environment) as made:
        instead = {"/srv/alder": str(data), "alder": name}
        yield House(made, open_terminal(folder / name, made, {}, instead), data)


def compose_files(folder: Path) -> Path:
    """Copy what a host has of the checkout."""
    return shutil.copytree(COMPOSE, folder / "deploy" / "compose")


def open_terminal(folder: Path, made: Project, environment: dict, instead: dict) -> Terminal:
    """Open a terminal on a host: root's, or that of somebody who can't give files away."""
    environment = {**environment, "COMPOSE_PROJECT_NAME": made.name, "IPFL_TAG": TAG}
    instead = {"docker compose": " ".join(command()), **instead}
    if os.geteuid() != 0:
        instead |= {
            "--user 0": f"--user {os.geteuid()}:{os.getegid()}",
            "chown -R 10001:10001": "chmod -R a+rwX",
            "chown 10001:10001": "chmod a+rwx",
            "install -d -o 10001 -g 10001 -m 0700": "install -d -m 0777",
        }
    return Terminal(folder, environment, instead)


def join(operator: Operator, there: House, name: str) -> None:
    """Carry the request to the operator and the kit back, telephone, and start."""
    said = there.terminal.type(ASK)
    [fingerprint] = re.findall(r"fingerprint, to be read out.*: (SHA256:\S+)", said)
    kit = there.terminal.folder / "kit"
    shutil.move(kit / f"{name}.request.json", operator.desk)
    operator.terminal.learn("alder", name)
    operator.terminal.learn("SHA256:…", fingerprint)
    said = operator.terminal.type(ADMIT)
    [key] = re.findall(r"operator key, to be read out.*: ([0-9a-f]{64})", said)
    shutil.move(operator.desk / f"{name}.kit.json", kit)
    there.terminal.learn("1f0a…", key)
    there.terminal.type(JOIN)
    write_institution(there, name)
    there.terminal.type(START)


def write_institution(there: House, name: str) -> None:
    """Write institution.toml as in the docs, with the container's path and its own slice."""
    number = (*NAMES, NEWCOMER).index(name)
    text = there.terminal.text(INSTITUTION)
    for docs, here in (
        ('state_dir = "state"', 'state_dir = "/state"'),
        ("institution = 0 ", f"institution = {number} "),
    ):
        assert docs in text
        text = text.replace(docs, here)
    file = there.data / "institution.toml"
    file.write_text(text)
    file.chmod(0o644)
    file.parent.chmod(0o755)


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return listener.getsockname()[1]
