"""The Gram matrix of the updates, tile by tile, with the same bits in any order of arrival.

The rows are divided into groups, by their number, and the matrix into tiles: group × group. A tile
is always made of the same products: of the same two groups, over the same columns, added up in
float64 in the same order; an absent row is zero. So its bits depend neither on when it is
computed, nor on what is computed in the same pass, nor on the number of threads; an entry does not
depend on other rows than its two. (BLAS says nothing of the bits of a product whose rows are
arranged otherwise, hence no shortcuts for the rows that came last.)

Tiles may thus be folded early: those between complete groups, when enough of them have gathered
that the passes over the bank remain few; the rest when the matrix is asked for.
"""

from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.blocks import DEPTH, Block, block_columns, cut, in_order
from ipfl_flower.models.layout import Layout
from ipfl_flower.models.rows import RowFile
from ipfl_flower.models.stored import Reference
from ipfl_flower.models.window import Window

# Rows of a group: products of 64 × 512 run at four fifths of the speed of large square ones, and
# smaller groups, which are complete earlier, would be slower.
_GROUP = 64
# A fold waits until the new groups are a quarter of those folded: some five passes in a round in
# which the models arrive one after the other, and at most a third of the work left for the end.
_FOLD_SHARE = 4
# Parameters between two additions to the whole matrix: much work for a thread, little to add.
_CHUNK_PARAMETERS = 2**22

# The rounding of float32 products averages out over a large model, to less than 5e-8; a model of up
# to this many parameters is multiplied in float64, which then costs little.
_EXACT_SIZE = 2**16

_Tile = tuple[int, int]


class Gram:
    """V Vᵀ of the rows of a bank, v_i = θ_i − θ_ref (mechanism.md §6).

    Parameters
    ----------
    rows
        The bank's file.
    layout
        Of its rows.
    reference
        θ_ref.
    count
        Number of rows, m.
    threads
        That share a pass.
    """

    def __init__(
        self,
        rows: RowFile,
        layout: Layout,
        reference: Reference,
        count: int,
        threads: int,
    ) -> None:
        self._rows = rows
        self._layout = layout
        self._reference = reference
        self._threads = threads
        groups = -(-count // _GROUP)
        self._bounds = [count * g // groups for g in range(groups + 1)]
        self._matrix = np.zeros((count, count))
        self._folded = np.zeros((groups, groups), dtype=bool)
        self._exact = layout.size <= _EXACT_SIZE
        self._columns = block_columns(count, layout.size)
        blocks = cut(layout, self._columns)
        a_chunk = max(1, _CHUNK_PARAMETERS // (count * self._columns))
        self._chunks = [blocks[k : k + a_chunk] for k in range(0, len(blocks), a_chunk)]

    def changed(self, i: int) -> None:
        """Forget what was folded of row i, which is about to change."""
        group = int(np.searchsorted(self._bounds, i, side="right")) - 1
        self._folded[group, :] = self._folded[:, group] = False

    def fold_complete(self) -> None:
        """Fold the tiles between complete groups, if that is worth a pass over them.

        Raises
        ------
        BankError
            If a row can't be read.
        """
        complete = np.logical_and.reduceat(self._rows.present, self._bounds[:-1])
        folded = np.diagonal(self._folded)
        if (complete & ~folded).sum() * _FOLD_SHARE >= max((complete & folded).sum(), 1):
            self._fold(self._missing(complete))

    def matrix(self) -> NDArray[np.float64]:
        """Return the whole matrix, float64 (m, m), exactly symmetric; NaN for absent rows.

        Raises
        ------
        BankError
            If a row can't be read.
        """
        present = self._rows.present
        self._fold(self._missing(np.logical_or.reduceat(present, self._bounds[:-1])))
        matrix = self._matrix.copy()
        matrix[~present, :] = matrix[:, ~present] = np.nan
        return matrix

    def _missing(self, groups: NDArray[np.bool_]) -> list[_Tile]:
        wanted = np.triu(groups[:, None] & groups & ~self._folded)
        return [(int(a), int(b)) for a, b in np.argwhere(wanted)]

    def _fold(self, tiles: list[_Tile]) -> None:
        if not tiles:
            return
        groups = sorted({group for tile in tiles for group in tile})
        windows: SimpleQueue[Window] = SimpleQueue()
        for _ in range(min(self._threads, len(self._chunks))):
            windows.put(self._window(groups))

        def work(chunk: Sequence[Block]) -> list[NDArray[np.float64]]:
            window = windows.get()
            try:
                return self._products(window, groups, chunk, tiles)
            finally:
                windows.put(window)

        sums = self._zeros(tiles)
        for products in in_order(work, self._chunks, self._threads):
            for total, product in zip(sums, products, strict=True):
                np.add(total, product, out=total)
        for (a, b), total in zip(tiles, sums, strict=True):
            self._matrix[self._span(a), self._span(b)] = total
            self._matrix[self._span(b), self._span(a)] = total.T
            self._folded[a, b] = self._folded[b, a] = True

    def _products(
        self,
        window: Window,
        groups: Sequence[int],
        chunk: Sequence[Block],
        tiles: Sequence[_Tile],
    ) -> list[NDArray[np.float64]]:
        """Return the tiles over the columns of `chunk`."""
        sums = self._zeros(tiles)
        # (rows, columns) → (products, rows, DEPTH)
        updates = window.updates.reshape(len(window.updates), -1, DEPTH).swapaxes(0, 1)
        spans = self._spans_in_window(groups)
        # An update beyond float32 makes its own entries infinite, which the market does not trade.
        with np.errstate(over="ignore", invalid="ignore"):
            for block in chunk:
                window.load(block)
                used = updates[: -(-block.columns // DEPTH)]
                for total, (a, b) in zip(sums, tiles, strict=True):
                    product = used[:, spans[a]] @ used[:, spans[b]].swapaxes(1, 2)
                    over_block = product.sum(axis=0, dtype=np.float64)
                    if a == b and not self._exact:
                        _square_exactly(over_block, window.updates[spans[a], : block.columns])
                    np.add(total, over_block, out=total)
        return sums

    def _window(self, groups: Sequence[int]) -> Window:
        numbers = [i for group in groups for i in self._range(group)]
        blocks = [block for chunk in self._chunks for block in chunk]
        return Window(
            self._rows,
            self._layout,
            self._reference,
            numbers,
            blocks,
            self._columns,
            exact=self._exact,
            keep_raw=False,
        )

    def _spans_in_window(self, groups: Sequence[int]) -> dict[int, slice]:
        spans, start = {}, 0
        for group in groups:
            height = len(self._range(group))
            spans[group] = slice(start, start + height)
            start += height
        return spans

    def _zeros(self, tiles: Sequence[_Tile]) -> list[NDArray[np.float64]]:
        return [np.zeros((len(self._range(a)), len(self._range(b)))) for a, b in tiles]

    def _range(self, group: int) -> range:
        return range(self._bounds[group], self._bounds[group + 1])

    def _span(self, group: int) -> slice:
        return slice(self._bounds[group], self._bounds[group + 1])


def _square_exactly(tile: NDArray[np.float64], updates: NDArray[np.float32]) -> None:
    """Replace the diagonal of a tile by squares in float64.

    The difference of two float32 numbers is a multiple n·q of some q = 2^k, and squares n² are not
    evenly distributed modulo powers of two (the odd ones are all 1 modulo 8): float32 rounds them
    to one side, to 1e-7 however large the model is. Products of two different updates have no such
    bias. A square beyond float32 stays infinite, which tells the market not to trade the row.
    """
    rows = updates.astype(np.float64)
    squares = (rows[:, None, :] @ rows[:, :, None])[:, 0, 0]
    rounded = np.diagonal(tile)
    np.fill_diagonal(tile, np.where(np.isfinite(rounded), squares, np.inf))
