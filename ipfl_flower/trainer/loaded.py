"""An institution in memory: its file, its data and its model, kept up with the file."""

import fcntl
import logging
import os
import tomllib
from pathlib import Path
from typing import Any

from ipfl_flower.trainer.errors import InstitutionError
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.trainer import Trainer

logger = logging.getLogger(__name__)

# What the model and the data in memory were made from.
_MADE_FROM = ("device", "training", "task")


class LoadedInstitution:
    """Reads an institution.toml, and again when its bytes have changed.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: bytes | None = None
        self._trainer: Trainer | None = None
        self._lock: int | None = None

    @property
    def trainer(self) -> Trainer | None:
        """The trainer as last read; None before the first time."""
        return self._trainer

    def refresh(self) -> Trainer:
        """Return a trainer that is up to date with the file.

        A change of terms, limits or ``leaving`` leaves model and data in memory. Where the file is
        wrong, what was read before is kept, and asking again reads it again.

        Raises
        ------
        InstitutionError
            The file is wrong, changes what needs a restart, or another trainer has the state_dir.
        TaskDataError, TaskError
            The data can't be had.
        """
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise InstitutionError(f"{self._path} can't be read: {error.strerror}") from error
        if self._trainer is not None and content == self._content:
            return self._trainer
        institution = Institution.load(self._path)
        if self._trainer is None:
            self._lock = self._lock or _lock(institution.state_dir)
            self._trainer = Trainer(institution)
        else:
            self._trainer = self._renewed(self._trainer, institution, content)
            logger.info("%s has changed and was read again", self._path)
        self._content = content
        return self._trainer

    def close(self) -> None:
        """Let another trainer have the state_dir."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _renewed(self, trainer: Trainer, institution: Institution, content: bytes) -> Trainer:
        before = trainer.institution
        for name in ("name", "state_dir"):
            if getattr(before, name) != getattr(institution, name):
                raise InstitutionError(
                    f"{self._path}: {name} can't change while the trainer runs: start it again"
                )
        if _tables(content) == _tables(self._content or b""):
            return Trainer(institution, trainer.learner)
        return Trainer(institution)


def _tables(content: bytes) -> list[Any]:
    file = tomllib.loads(content.decode())
    return [file.get(name) for name in _MADE_FROM]


def _lock(state_dir: Path) -> int:
    """Take the state_dir for this process alone; the lock goes with it, however it ends."""
    path = state_dir / "trainer.lock"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InstitutionError(
            f"{state_dir} can't be written ({error.strerror}): let this process write there"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InstitutionError(
            f"another trainer uses {state_dir}: stop it, or give each its own state_dir"
        ) from error
    return descriptor
