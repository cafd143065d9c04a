"""What the operator's machine says: disks, files, certificates, the server's memory, the door."""

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from prometheus_client.metrics_core import Metric

from ipfl_flower.console import catalogue as c
from ipfl_flower.console.page import Described, Page
from ipfl_flower.ledger import Ledger, LedgerError

CERTIFICATES_MAX: Final = 32
_SERVER: Final = re.compile(r"process (\d+) on (.+)")


class DiskCollector(Described):
    """Room on the disks of folders.

    Parameters
    ----------
    folders : Mapping of str to Path
        Label to folder. One that isn't there yet has no sample.
    """

    specs = (c.DISK_FREE, c.DISK_SIZE)

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def collect(self) -> Iterable[Metric]:
        """Look at the disks."""
        page = Page()
        for label, folder in self._folders.items():
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue
            page.add(c.DISK_FREE, usage.free, label)
            page.add(c.DISK_SIZE, usage.total, label)
        return page


class FileCollector(Described):
    """Sizes of the market's files.

    Parameters
    ----------
    ledger, models, initial : Path or None
        The ledger's file, the folder of the bank, the file of θ⁰; None: not known here.
    """

    specs = (c.LEDGER_BYTES, c.BANK_BYTES, c.MODEL_BYTES)

    def __init__(self, ledger: Path | None, models: Path | None, initial: Path | None) -> None:
        # What is written last lies beside the ledger, until SQLite takes it over.
        beside = [] if ledger is None else [ledger.with_name(f"{ledger.name}-wal")]
        self._ledger = None if ledger is None else [ledger, *beside]
        self._models = models
        self._initial = initial

    def collect(self) -> Iterable[Metric]:
        """Look at the files."""
        page = Page()
        if self._ledger is not None:
            page.add(c.LEDGER_BYTES, _bytes(self._ledger))
        if self._models is not None and self._models.is_dir():
            page.add(c.BANK_BYTES, _bytes(self._models.glob("round-*.bank*")))
        if self._initial is not None and self._initial.is_file():
            page.add(c.MODEL_BYTES, _bytes([self._initial]))
        return page


class CertificateCollector(Described):
    """When the certificates in a folder expire; what is no certificate there is passed over.

    Parameters
    ----------
    folder : Path
        That ``ipfl certs operator`` made. Of more than `CERTIFICATES_MAX` files the first count.
    """

    specs = (c.CERTIFICATE_ENDS,)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Read the certificates."""
        page = Page()
        for file in sorted(self._folder.glob("*.pem"))[:CERTIFICATES_MAX]:
            try:
                certificate = x509.load_pem_x509_certificate(file.read_bytes())
            except (OSError, ValueError):
                continue
            page.add(c.CERTIFICATE_ENDS, certificate.not_valid_after_utc.timestamp(), file.name)
        return page


class DoorCollector(Described):
    """Who was refused at the SuperLink's door.

    Parameters
    ----------
    read : callable
        Gives the counts by kind.
    """

    specs = (c.REFUSALS,)

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Read the counts."""
        page = Page()
        for kind, count in self._read().items():
            page.add(c.REFUSALS, count, kind)
        return page


class ServerCollector(Described):
    """Memory of the process that serves a ledger, if it is one of this machine's."""

    specs = (c.SERVER_MEMORY,)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """Ask who serves the ledger, and the kernel how large it is."""
        page = Page()
        try:
            server = _SERVER.fullmatch(self._ledger.server() or "")
            if server is not None and server[2] == platform.node():
                pages = int(Path(f"/proc/{server[1]}/statm").read_text().split()[1])
                page.add(c.SERVER_MEMORY, pages * os.sysconf("SC_PAGE_SIZE"))
        except (LedgerError, OSError):  # it has just ended: that is what SERVED is for
            pass
        return page


def _bytes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except OSError:  # a bank is deleted when nobody is owed a centre of it any more
            continue
    return total
