"""The prox-centres of a round, in a file of their own: computed in one pass, sent one at a time."""

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.blocks import Block, add, block_columns, cut, in_order
from ipfl_flower.models.layout import Layout
from ipfl_flower.models.rows import BankError, RowFile, read_fully, write_fully
from ipfl_flower.models.stored import Reference, StoredModel
from ipfl_flower.models.window import Window


class CentreFile:
    """Θ̄ = Θ + M V on disk (mechanism.md §6).

    It is not synced, and lasts as long as the object: after a crash the centres are computed again,
    to the same bytes.

    Parameters
    ----------
    path
        Made by :meth:`write`.
    layout
        Of the centres, which is the models'.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self._layout = layout
        self._file: BinaryIO | None = None
        self._place: dict[int, int] = {}

    def write(
        self,
        models: RowFile,
        reference: Reference,
        mixing: NDArray[np.float64],
        threads: int,
    ) -> list[int]:
        """Compute the centres of the rows of `mixing` that are not all zero; forget earlier ones.

        Parameters
        ----------
        models
            The bank's rows.
        reference
            θ_ref.
        mixing : float64 (m, m)
            M, finite; only rows that are present have weights.
        threads
            That share the pass.

        Returns
        -------
        list of int
            The rows that have a centre, ascending.

        Raises
        ------
        BankError
            If a model can't be read or a centre can't be written.
        """
        self.close()
        self._file = self.path.open("w+b", buffering=0)
        weighted = mixing != 0.0
        buyers = np.flatnonzero(weighted.any(axis=1))
        if not len(buyers):
            return []
        # A model that nobody mixes is not read: if it is beyond float32, 0 · ∞ would spoil all.
        used = np.flatnonzero(weighted.any(axis=0) | weighted.any(axis=1))
        self._file.truncate(len(buyers) * self._layout.bytes)
        weights = mixing[np.ix_(buyers, used)].astype(np.float32)
        columns = block_columns(len(used), self._layout.size)
        blocks = cut(self._layout, columns)
        windows: SimpleQueue[Window] = SimpleQueue()
        for _ in range(min(threads, len(blocks))):
            windows.put(
                Window(
                    models,
                    self._layout,
                    reference,
                    [int(i) for i in used],
                    blocks,
                    columns,
                    exact=False,
                    keep_raw=True,
                )
            )
        own = [int(k) for k in np.searchsorted(used, buyers)]

        def work(block: Block) -> None:
            window = windows.get()
            try:
                self._write_block(block, window, weights, own)
            finally:
                windows.put(window)

        for _ in in_order(work, blocks, threads):
            pass
        self._place = {int(i): k for k, i in enumerate(buyers)}
        return list(self._place)

    def model(self, i: int) -> StoredModel:
        """Return centre i, for as long as it lies there.

        Raises
        ------
        BankError
            If it was not written.
        """
        if self._file is None or i not in self._place:
            raise BankError(f"{self.path} holds no centre of row {i}: write the centres first")
        position = self._place[i] * self._layout.bytes
        file, path = self._file, self.path

        def read_into(buffer: memoryview, first: int) -> None:
            if self._file is not file:
                raise BankError(f"{path} holds other centres by now: ask for the centre again")
            read_fully(file.fileno(), buffer, position + first, path)

        return StoredModel(self._layout, read_into)

    def close(self) -> None:
        """Close the file, and with it forget the centres; closing twice is fine."""
        self._place = {}
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_block(
        self, block: Block, window: Window, weights: NDArray[np.float32], own: Sequence[int]
    ) -> None:
        assert self._file is not None  # noqa: S101 - write() has opened it
        window.load(block)
        moves = weights @ window.updates[:, : block.columns]
        centre = np.zeros(block.bytes, np.uint8)
        with np.errstate(over="ignore"):  # clipped to what half precision can hold
            for k, (position, move) in enumerate(zip(own, moves, strict=True)):
                add(block, window.raw[position], move, centre)
                start = k * self._layout.bytes + block.first
                write_fully(self._file.fileno(), centre.data, start, self.path)
