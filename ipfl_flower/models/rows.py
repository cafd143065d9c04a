"""The bank's file: equally long rows, each there with its digest or not at all.

A header, a table of one entry a row, and the rows. An entry is written when the bytes of its row
are on the disk, so after a crash a row is complete or absent. Rows start at multiples of a page:
writing one never touches another's blocks.
"""

import hashlib
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.files import sync_folder
from ipfl_flower.models.layout import Layout, row_digest

PAGE = 4096
_MAGIC = b"IPFLBANK"
_VERSION = 1
# magic, version, rows, bytes a row, layout digest, reference digest; then SHA-256 of these
_HEADER = struct.Struct("<8sIQQ32s32s")
_ENTRY_BYTES = 64  # digest of the row, and a seal over its number and digest; zero: no row
_ABSENT = bytes(_ENTRY_BYTES)
_REMEDY = "delete it, and collect the round's models again"


class BankError(RuntimeError):
    """The bank's file can't be used: damaged, of another market, closed, or its disk is full."""


class RowFile:
    """The rows on disk, durable one by one.

    Parameters
    ----------
    path
        Made if it doesn't exist, continued if it does.
    layout
        Of every row.
    rows
        How many there may be.
    reference
        Digest, in hex, of the reference row: what the file's models are compared with.

    Raises
    ------
    BankError
        If the file exists and is damaged, or is of another layout, number of rows, or reference;
        or can't be made or opened.
    """

    def __init__(self, path: Path, layout: Layout, rows: int, reference: str) -> None:
        self.path = path
        self._layout = layout
        self._table = PAGE
        self._first = PAGE + _pages(rows * _ENTRY_BYTES)
        self._stride = _pages(layout.bytes)
        self._file: BinaryIO | None = None
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            rows,
            layout.bytes,
            bytes.fromhex(layout.digest),
            bytes.fromhex(reference),
        )
        header += hashlib.sha256(header).digest()
        if not path.exists():
            self._create(header, self._first + rows * self._stride)
        try:
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise BankError(
                f"{path} can't be opened ({error.strerror}): let this process read and write it"
            ) from error
        try:
            self._check_header(header, self._first + rows * self._stride)
            self.digests = [self._read_entry(i) for i in range(rows)]
        except BankError:
            self.close()
            raise

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which rows are there, (rows,)."""
        return np.array([digest is not None for digest in self.digests])

    def has(self, i: int) -> bool:
        """Return whether row i is there."""
        return self.digests[i] is not None

    def digest(self, i: int) -> str:
        """Return the digest of row i.

        Raises
        ------
        BankError
            If it is absent.
        """
        digest = self.digests[i]
        if digest is None:
            raise BankError(f"{self.path} holds no row {i}: put it first")
        return digest

    def write(self, i: int, row: Iterable[NDArray[np.uint8]], digest: str) -> None:
        """Make `row`, pieces of bytes whose digest is `digest`, row i, durably.

        Raises
        ------
        BankError
            If it can't be written; row i is then absent.
        """
        position = self._first + i * self._stride
        if self.has(i):
            # While the bytes change the old digest would be a lie.
            self.digests[i] = None
            self._write_entry(i, _ABSENT)
        for piece in row:
            write_fully(self._descriptor, piece.data, position, self.path)
            position += len(piece)
        self._sync()
        self._write_entry(i, bytes.fromhex(digest) + _seal(i, digest))
        self.digests[i] = digest

    def read(self, i: int) -> NDArray[np.uint8]:
        """Read row i and check its digest.

        Raises
        ------
        BankError
            If there is no row i, or its bytes are not those that were written.
        """
        digest = self.digest(i)
        row = np.empty(self._layout.bytes, np.uint8)
        self.read_into(row.data, i, 0)
        if row_digest(self._layout, [row]) != digest:
            raise BankError(f"{self.path} was changed on the disk: row {i}; {_REMEDY}")
        return row

    def read_into(self, buffer: memoryview, i: int, first: int) -> None:
        """Fill `buffer` with bytes of row i from its byte `first` on.

        Raises
        ------
        BankError
            If the file ends before.
        """
        read_fully(self._descriptor, buffer, self._first + i * self._stride + first, self.path)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise BankError(f"{self.path} is closed")
        return self._file.fileno()

    def _create(self, header: bytes, file_bytes: int) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(header)
                file.truncate(file_bytes)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error
        sync_folder(self.path.parent)

    def _check_header(self, expected: bytes, file_bytes: int) -> None:
        found = os.pread(self._descriptor, len(expected), 0)
        if found != expected:
            body, check = found[: _HEADER.size], found[_HEADER.size :]
            if hashlib.sha256(body).digest() != check or not body.startswith(_MAGIC):
                raise BankError(f"{self.path} is damaged, or not a bank; {_REMEDY}")
            names = ("magic", "version", "rows", "bytes a row", "layout", "reference model")
            pairs = zip(names, _HEADER.unpack(body), _HEADER.unpack_from(expected), strict=True)
            other = ", ".join(name for name, is_, must_be in pairs if is_ != must_be)
            raise BankError(f"{self.path} is a bank of another market ({other}): give a fresh path")
        if os.fstat(self._descriptor).st_size != file_bytes:
            raise BankError(f"{self.path} is cut off or too long; {_REMEDY}")

    def _read_entry(self, i: int) -> str | None:
        entry = os.pread(self._descriptor, _ENTRY_BYTES, self._table + i * _ENTRY_BYTES)
        if entry == _ABSENT:
            return None
        digest = entry[:32].hex()
        if entry[32:] != _seal(i, digest):
            raise BankError(f"{self.path} is damaged: the entry of row {i}; {_REMEDY}")
        return digest

    def _write_entry(self, i: int, entry: bytes) -> None:
        position = self._table + i * _ENTRY_BYTES
        write_fully(self._descriptor, memoryview(entry), position, self.path)
        self._sync()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def read_fully(descriptor: int, buffer: memoryview, position: int, path: Path) -> None:
    """Fill `buffer` from the file: one call to the system returns 2 GiB at most."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:] if done else buffer], position + done)
        if not count:
            raise BankError(f"{path} was cut off while in use; {_REMEDY}")
        done += count


def write_fully(descriptor: int, data: memoryview, position: int, path: Path) -> None:
    """Write all of `data` to the file: one call to the system takes 2 GiB at most."""
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(descriptor, data[done:] if done else data, position + done)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> BankError:
    return BankError(f"{path} can't be written ({error.strerror}): free space on its disk")


def _pages(length: int) -> int:
    return -(-length // PAGE) * PAGE


def _seal(i: int, digest: str) -> bytes:
    return hashlib.sha256(f"row {i} {digest}".encode()).digest()
