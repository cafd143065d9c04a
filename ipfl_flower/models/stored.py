"""Models that lie on disk: read a tensor at a time, so that none need be in memory whole."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.layout import STORED, Layout, model_digest
from ipfl_flower.models.rows import read_fully, write_fully


class StoredModel(Mapping[str, NDArray[Any]]):
    """The tensors of a row on disk; each look at one reads it anew.

    Parameters
    ----------
    layout
        Of the row.
    read_into
        Fills a buffer with the row's bytes from a given one on.
    """

    def __init__(self, layout: Layout, read_into: Callable[[memoryview, int], None]) -> None:
        self._layout = layout
        self._read_into = read_into
        self._index = {name: k for k, name in enumerate(layout.names)}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Read one tensor, as it lies in the row."""
        layout, k = self._layout, self._index[name]
        tensor = np.empty(layout.counts[k], STORED[layout.dtypes[k]])
        self._read_into(tensor.view(np.uint8).data, layout.offsets[k])
        return tensor.reshape(layout.shapes[k])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of the row."""
        return iter(self._layout.names)

    def __len__(self) -> int:
        return len(self._index)


class Reference:
    """θ_ref as a row in a file without a name: it takes no memory and goes with the process.

    Parameters
    ----------
    layout
        Of the model.
    arrays
        θ_ref, which passed ``layout.check``.
    folder
        On whose disk it lies.

    Attributes
    ----------
    digest : str
        See :func:`model_digest`.

    Raises
    ------
    BankError
        If it can't be written.
    """

    def __init__(self, layout: Layout, arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
        self.layout = layout
        self.digest = model_digest(layout, arrays)
        self._path = folder / "reference"
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - see close()
        position = 0
        try:
            for piece in layout.row(arrays):
                write_fully(self._file.fileno(), piece.data, position, self._path)
                position += len(piece)
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> StoredModel:
        """θ_ref, a tensor at a time."""
        return StoredModel(self.layout, self.read_into)

    def read_into(self, buffer: memoryview, first: int) -> None:
        """Fill `buffer` with the row's bytes from its byte `first` on."""
        read_fully(self._file.fileno(), buffer, first, self._path)

    def close(self) -> None:
        """Delete it; closing twice is fine."""
        self._file.close()
