"""Files and folders: who may read them, who may write them, how much room there is."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipfl_flower.cli.doctoring.finding import NotKnownError, Verdict, fail, ok, warn

_UNITS = ("B", "kB", "MB", "GB", "TB")


def secrets_kept(files: Sequence[Path]) -> Verdict:
    """Tell whether secrets can be read by this user, and by nobody else.

    Raises
    ------
    NotKnownError
        None is here.
    """
    if not files:
        raise NotKnownError("no secret is here")
    problems = [problem for file in files if (problem := secret_problem(file)) is not None]
    if problems:
        return fail("; ".join(problems))
    return ok(f"{', '.join(file.name for file in files)}: read by this user alone")


def secret_problem(file: Path) -> str | None:
    """Return what is wrong with the permissions of a secret, or None.

    A group may read what belongs to somebody else: that is how Kubernetes mounts secrets, owned by
    root and readable for the pod's own group.
    """
    try:
        found = file.stat()
    except OSError as error:
        return f"{file} can't be read: {error.strerror}"
    if not os.access(file, os.R_OK):
        return f"{file} can't be read by this user: chown it to the user that uses it"
    mode = stat.S_IMODE(found.st_mode)
    group = 0o040 if found.st_uid != os.getuid() else 0
    if mode & 0o077 & ~group:
        return f"{file} (mode {mode:04o}) can be read by others: chmod 600 it"
    return None


def writable(folder: Path) -> Verdict:
    """Tell whether files can be made in a folder, or in the one in which it will be made."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return fail(
            f"nothing can be written in {place} ({error.strerror}): "
            "chown it to the user that does, or mount it writable"
        )
    return ok(f"{folder} can be written" if place == folder else f"{folder} can be made")


@dataclass(frozen=True)
class Room:
    """Bytes that are written in a folder at most, beside what is there."""

    folder: Path
    bytes: int


def room(needs: Iterable[Room]) -> Verdict:
    """Tell whether the disks have room for what comes.

    Parameters
    ----------
    needs : iterable of Room
        Those on one file system share its free space.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for need in needs:
        place = _existing(need.folder)
        first, so_far = disks.get(place.stat().st_dev, (need.folder, 0))
        disks[place.stat().st_dev] = (first, so_far + need.bytes)
    lines, verdict = [], ok
    for folder, wanted in disks.values():
        free = shutil.disk_usage(_existing(folder)).free
        lines.append(f"{size(free)} free at {folder}, a round takes up to {size(wanted)}")
        if free < wanted:
            verdict = fail
        elif free < 2 * wanted and verdict is ok:
            verdict = warn
    line = ", ".join(lines)
    return ok(line) if verdict is ok else verdict(f"{line}: make room, or take a larger disk")


def size(number: float) -> str:
    """Write a number of bytes."""
    unit = 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {_UNITS[unit]}"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
