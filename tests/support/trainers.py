"""Real trainers for tests: an institution of the digits, its process, and certificates."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.device import DEVICE

from ipfl_flower.trainer_api import Tls, TrainerClient

MODULE = ("-m", "ipfl_flower.trainer.serve")
ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 90.0
END_DEADLINE_S = 60.0
MEASURED = frozenset({"fit_seconds", "samples_per_second", "gpu_memory_bytes"})
"""Metrics that differ each time."""


def institution_file(folder, *, iterations=20, cost=0.05, name="alder", leaving="false", more=""):
    """Write an institution.toml for a slice of the digits; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "institution.toml"
    file.write_text(
        f'name = "{name}"\nstate_dir = "state"\ndevice = "{DEVICE}"\nleaving = {leaving}\n{more}\n'
        f"[terms]\ncost = {cost}\neagerness = 6000.0\n"
        f"[training]\niterations = {iterations}\nbatch_size = 16\nlearning_rate = 0.2\n"
        '[task]\nname = "digits"\nsplit = "clusters"\ninstitution = 1\ninstitutions = 6\n'
        "samples = 60\nseed = 1\n",
        encoding="utf-8",
    )
    return file


@dataclass
class TrainerProcess:
    """``python -m ipfl_flower.trainer.serve`` as a child, and what it printed."""

    process: subprocess.Popen
    address: str = ""
    errors: list[str] = field(default_factory=list)

    def client(self, **options):
        return TrainerClient(self.address, **options)

    def end(self, number=signal.SIGTERM):
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_DEADLINE_S)


@contextmanager
def trainer_process(file, *options, command=MODULE, **variables):
    """Run a trainer until the block ends, from when it says that it serves."""
    # The tests' own tasks are in tests/support.
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    child = subprocess.Popen(
        [sys.executable, *command, str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    trainer = TrainerProcess(child)
    reader = threading.Thread(target=lambda: trainer.errors.extend(child.stderr))
    reader.start()
    # A trainer that never serves is ended, and the line that is waited for is then empty.
    watchdog = threading.Timer(START_DEADLINE_S, child.kill)
    watchdog.start()
    try:
        line = child.stdout.readline()
        watchdog.cancel()
        assert line.startswith("serving "), "".join(trainer.errors)
        trainer.address = line.split(" on ")[1].strip()
        yield trainer
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        reader.join()
        child.stdout.close()
        child.stderr.close()


def serve_fails(file, *options):
    """Run a trainer that must not start; return its exit code and its standard error."""
    done = subprocess.run(
        [sys.executable, *MODULE, str(file), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stderr


class Authority:
    """A certificate authority that signs for one address, servers and clients alike."""

    def __init__(self, folder, host="127.0.0.1"):
        folder.mkdir()
        self._folder = folder
        self._host = host
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.ca = folder / "ca.pem"
        builder = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write(self.ca, builder.sign(self._key, hashes.SHA256()))

    def issue(self, name, ca=None):
        """Return the files of one side, which trusts `ca` (by default this authority)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(self._host))])
        builder = self._builder(subject, key.public_key()).add_extension(names, critical=False)
        certificate, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._write(certificate, builder.sign(self._key, hashes.SHA256()))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Tls(ca or self.ca, certificate, private)

    def _builder(self, subject, key):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    @staticmethod
    def _write(path, certificate):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
