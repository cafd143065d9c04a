"""A real PostgreSQL server for the tests: Debian's, on a free port, in a temporary folder."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

USER, PASSWORD = "market", "tell-nobody"


def find_binaries() -> Path | None:
    """Find the folder with initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


@dataclass
class Server:
    """A running server; its user USER may do everything and has PASSWORD."""

    port: int
    process: subprocess.Popen

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple]:
        """Run SQL as the server's owner, past the ledger."""
        conninfo = self.url(database).replace("+psycopg", "")
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template: str = "template0") -> str:
        """Create a database and return its name."""
        name = f"ledger_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database: each is hundreds of files, and a session makes hundreds of them."""
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")


@contextmanager
def running(binaries: Path, *, durable: bool = False) -> Iterator[Server]:
    """Start a server, wait until it accepts connections, and stop it at the end.

    Unless `durable`, it does not wait for the disk.
    """
    folder = Path(tempfile.mkdtemp(prefix="ipfl-postgres-"))
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root; Debian's package made it a user
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = [
            "setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups",
            "--pdeathsig=KILL",
        ]  # fmt: skip
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        data = folder / "data"
        arguments = ["-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}"]
        arguments += ["-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [*as_user, binaries / "initdb", *arguments], check=True, capture_output=True, cwd="/"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = [
            "-D",
            data,
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "-k",
            "",
            *([] if durable else ["-F"]),
        ]
        process = subprocess.Popen(
            [*as_user, binaries / "postgres", *options],
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise RuntimeError(f"PostgreSQL did not start: {''.join(said)}")
            log = threading.Thread(target=process.stderr.read)  # a full pipe would stop the server
            log.start()
            yield Server(port, process)
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(timeout=60)
        log.join()
        process.stderr.close()
    finally:
        shutil.rmtree(folder)
