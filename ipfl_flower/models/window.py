"""A window on the bank: some rows, a block at a time, in buffers that are used over and over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.blocks import Block, subtract
from ipfl_flower.models.layout import Layout
from ipfl_flower.models.rows import RowFile
from ipfl_flower.models.stored import Reference


class Window:
    """The bytes and the updates of some rows within one block.

    Parameters
    ----------
    file
        The bank's rows.
    layout
        Of the rows.
    reference
        θ_ref.
    numbers
        Which rows, ascending. A row that is absent when the window is made has the update zero.
    blocks
        Those that will be loaded.
    columns
        Of the largest block, or more.
    exact
        Whether the updates are wanted in float64.
    keep_raw
        Whether `raw` is needed after `load`.

    Attributes
    ----------
    raw : uint8 (rows, bytes)
        The bytes of the block.
    updates : float32 or float64 (rows, columns)
        v = θ − θ_ref; zero right of the block.
    """

    raw: NDArray[np.uint8]
    updates: NDArray[Any]

    def __init__(
        self,
        file: RowFile,
        layout: Layout,
        reference: Reference,
        numbers: Sequence[int],
        blocks: Sequence[Block],
        columns: int,
        *,
        exact: bool,
        keep_raw: bool,
    ) -> None:
        self._file = file
        self._reference = reference
        self._absent = [k for k, i in enumerate(numbers) if not file.has(i)]
        width = max((block.bytes for block in blocks), default=0)
        self._reference_raw = np.zeros(width, np.uint8)
        dtype = np.float64 if exact else np.float32
        self.updates = np.zeros((len(numbers), columns), dtype)
        if set(layout.dtypes) == {"float32"} and not exact and not keep_raw:
            # Subtracted where it was read: half the memory to go through.
            self.raw = self.updates.view(np.uint8)
        else:
            self.raw = np.zeros((len(numbers), width), np.uint8)
        self._lines = [
            (i, line.data) for i, line in zip(numbers, self.raw, strict=True) if file.has(i)
        ]

    def load(self, block: Block) -> None:
        """Read `block` of every row and subtract the reference.

        Raises
        ------
        BankError
            If a row can't be read.
        """
        first, length = block.first, block.bytes
        for i, line in self._lines:
            self._file.read_into(line[:length], i, first)
        self._reference.read_into(self._reference_raw.data[:length], first)
        subtract(block, self.raw, self._reference_raw, self.updates)
        # Where there is no row the file says nothing, or what a crash left.
        self.updates[self._absent] = 0.0
        self.updates[:, block.columns :] = 0.0
