"""Files that appear whole, durably, and never in place of another."""

import os
from contextlib import suppress
from pathlib import Path


def write_new(path: Path, content: bytes) -> None:
    """Write a file (mode 0600) unless there is one; at any moment it is absent or whole.

    Raises
    ------
    OSError
        It can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
        ) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # a link, unlike a rename, takes no other's place
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder and, if need be, the one that it lies in, for this user alone.

    Raises
    ------
    OSError
        It can't be made.
    """
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
