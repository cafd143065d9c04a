"""The folder of one demo: made anew, locked while a demo runs, never another's."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ipfl_flower.cli.processes import LaunchError

LOCK = ".ipfl-demo"


@contextmanager
def demo_folder(path: Path) -> Iterator[Path]:
    """Empty and lock the demo's folder for the time of the context.

    Parameters
    ----------
    path : Path
        Made when missing. What an earlier demo left in it is removed.

    Yields
    ------
    Path
        The folder, absolute.

    Raises
    ------
    LaunchError
        If another demo runs there, or the folder holds something that no demo wrote.
    """
    folder = path.resolve()
    if folder.exists() and not folder.is_dir():
        raise LaunchError(f"{folder} is a file: name a folder with --dir")
    lock_file = folder / LOCK
    if folder.exists() and any(folder.iterdir()) and not lock_file.exists():
        raise LaunchError(
            f"{folder} holds files that no demo wrote: name an empty or new folder with --dir"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # keys, and Flower's own files, which hold models and are 0644
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LaunchError(f"{folder} can't be written: {error.strerror}; see --dir") from error
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LaunchError(
                f"another demo (process {lock.read().strip()}) runs in {folder}: "
                "wait for it, or name another folder with --dir"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for item in folder.iterdir():
            if item != lock_file:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        yield folder
