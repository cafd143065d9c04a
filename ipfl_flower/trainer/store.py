"""What an institution keeps on its disk: its trained model, its best one, and its last reply.

Of a model whose task doesn't share all of it there are two files: what was traded, and the private
part that goes with it.

Model files are written under new names first; ``state.json`` names those that count, and replacing
it, in one rename, is the commit. So a crash at any moment leaves the state before or the one after,
never a mixture of two rounds.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ipfl_flower.trainer.arrays import read_into, write_arrays
from ipfl_flower.trainer.errors import ArraysError, ArraysFileError, StoreError
from ipfl_flower.trainer.learner import Scores

_RESTORE = "restore it from a backup, or move the folder away to start anew as a newcomer"
_FILE = r"^[a-z]+-[0-9]+\.npz$"


class Kept(BaseModel):
    """A model on disk.

    Attributes
    ----------
    file
        Name of its shared part in the store's folder.
    private
        Name of the private part that it was judged with; None: as the task builds it.
    round
        The round in which it was trained, or whose trades made the centre.
    source
        Whether this institution trained it, or was sent it.
    scores
        How it does on this institution's data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=_FILE)
    private: str | None = Field(default=None, pattern=_FILE)
    round: int = Field(ge=0)
    source: Literal["trained", "centre"]
    scores: Scores


class State(BaseModel):
    """All that ``state.json`` says.

    Attributes
    ----------
    institution
        Whose state it is.
    commits
        How often it was written.
    trained
        The model trained last, and with it the last round; None before the first.
    best
        The best model so far by the validation data, trained or a centre.
    metrics
        What was replied in the last round.
    initial
        The file of θ⁰, from which the first round began.
    begun
        When the training of rounds was begun within a day, seconds since 1970; kept where the
        institution limits it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    institution: str
    commits: int = Field(default=0, ge=0)
    trained: Kept | None = None
    best: Kept | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    initial: str | None = Field(default=None, pattern=_FILE)
    begun: list[float] = Field(default_factory=list)

    def new_file(self, content: Literal["trained", "centre", "private", "initial"]) -> str:
        """Name a model file of the next commit; no earlier commit has used the name."""
        return f"{content}-{self.commits + 1:06d}.npz"


class Store:
    """The folder of one institution's state.

    Parameters
    ----------
    folder
        Made on the first commit.
    institution
        The name of its owner.
    """

    def __init__(self, folder: Path, institution: str) -> None:
        self._folder = folder
        self._institution = institution

    def state(self) -> State:
        """Read the last committed state, or an empty one for a newcomer.

        Raises
        ------
        StoreError
            ``state.json`` is damaged or another institution's.
        """
        path = self._folder / "state.json"
        try:
            state = State.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return State(institution=self._institution)
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it isn't what was written"
            raise StoreError(f"{path} is damaged ({reason}): {_RESTORE}") from error
        if state.institution != self._institution:
            raise StoreError(
                f"{path} is the state of institution {state.institution!r}, not of "
                f"{self._institution!r}: give each its own state_dir"
            )
        return state

    def read(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Read one part of a model into tensors; its bytes are checked against the file's CRC.

        Parameters
        ----------
        name
            A file that the state names.
        tensors
            The same part of the task's model. After an error they hold anything.

        Raises
        ------
        StoreError
            The file is missing or damaged, or is of another task's model.
        """
        path = self._folder / name
        try:
            read_into(path, tensors)
        except ArraysFileError as error:
            raise StoreError(f"{error}: {_RESTORE}") from error
        except ArraysError as error:
            raise StoreError(
                f"{path} isn't a model of this task ({error}): undo the change of [task], or set "
                "an empty state_dir"
            ) from error

    def commit(self, state: State, models: Mapping[str, Mapping[str, NDArray[Any]]]) -> State:
        """Make ``state`` the current one, durably, and drop the files that it doesn't name.

        Parameters
        ----------
        state
            The new state, derived from :meth:`state`.
        models
            New parts of models by file name, written from the memory where they lie; those that
            ``state`` doesn't name are passed over.

        Returns
        -------
        State
            As it was written, from which the next is derived.

        Raises
        ------
        StoreError
            The folder can't be written; the state is the one before or the new one, whole.
        """
        kept = [model for model in (state.trained, state.best) if model is not None]
        files = [state.initial, *(name for model in kept for name in (model.file, model.private))]
        named = {name for name in files if name}
        committed = state.model_copy(update={"commits": state.commits + 1})
        try:
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700, parents=True)
                _sync_folder(self._folder.parent)
            for name in named & models.keys():
                write_arrays(self._folder / name, models[name])
            self._write_state(committed)
            for path in self._folder.glob("*.npz"):
                if path.name not in named:
                    path.unlink()
        except OSError as error:
            raise StoreError(
                f"{self._folder} can't be written ({error.strerror}): free space on its disk, or "
                "let this process write there"
            ) from error
        return committed

    def _write_state(self, state: State) -> None:
        """Replace ``state.json``: the commit."""
        temporary = self._folder / "state.json.tmp"
        with temporary.open("wb") as file:
            file.write(state.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        # The names of the new models must be on the disk before the rename makes them count.
        _sync_folder(self._folder)
        temporary.replace(self._folder / "state.json")
        _sync_folder(self._folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
