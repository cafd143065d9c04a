"""Column blocks: a stretch of parameters of many rows at once, and the arithmetic on it.

Every parameter is rounded to float32 inside a block *after* the reference was subtracted from it:
models share a starting point, and what tells them apart lies in the digits that a product of whole
models loses (docs/adr/0003). Blocks go over several tensors, of several dtypes, where these are
small.

Rows are read into a block with ``preadv``, not mapped: the memory of the process is then its
buffers', without an ``madvise`` for every piece (which costs the same time), and a file that was
cut off is an error instead of a SIGBUS.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ipfl_flower.models.layout import STORED, Layout

# Columns of one float32 product: short enough that its rounding stays below 1e-7, and that two
# groups of rows lie in the cache while they are multiplied.
DEPTH = 512
# A row's piece of a block is at least 16 KiB of float32, so that reads are few; a block of few rows
# has longer ones, so that threads work long between two calls (measured: twice as fast as with
# blocks of the size of the L2 cache).
_COLUMNS_MIN, _COLUMNS_MAX = 8 * DEPTH, 64 * DEPTH
_BLOCK_PARAMETERS = 2**19

# Half precision takes the nearest finite value: a centre beyond its range is not an infinity.
_FLOAT16_MAX = np.float32(65504)
_BFLOAT16_MAX = np.array(0x7F7F0000, np.uint32).view(np.float32)[()]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Piece:
    """Adjacent parameters of one dtype in a block.

    Attributes
    ----------
    dtype
        As in the layout; ``int16`` is bfloat16.
    first, bytes
        Where it starts in the row, and how long it is there.
    column, columns
        Where it starts in the block, and how many parameters it has.
    """

    dtype: str
    first: int
    bytes: int
    column: int
    columns: int

    def of(self, row: NDArray[np.uint8], start: int = 0) -> NDArray[Any]:
        """View this piece in `row`, or rows, whose bytes begin at byte `start` of the bank's."""
        piece = row[..., self.first - start : self.first - start + self.bytes]
        return piece.view(STORED[self.dtype])

    def span(self) -> slice:
        """Return its columns in the block."""
        return slice(self.column, self.column + self.columns)


@dataclass(frozen=True)
class Block:
    """Consecutive columns of the bank, their pieces in order."""

    pieces: tuple[Piece, ...]

    @property
    def first(self) -> int:
        """Byte of a row where it starts."""
        return self.pieces[0].first

    @property
    def bytes(self) -> int:
        """Bytes of a row that it takes."""
        return self.pieces[-1].first + self.pieces[-1].bytes - self.first

    @property
    def columns(self) -> int:
        """Parameters of a row that it holds."""
        return self.pieces[-1].column + self.pieces[-1].columns


def block_columns(rows: int, size: int) -> int:
    """Return the columns of a block of `rows` rows of `size` parameters: a multiple of DEPTH."""
    wanted = min(max(_BLOCK_PARAMETERS // rows, _COLUMNS_MIN), _COLUMNS_MAX)
    return -(-min(wanted, max(size, 1)) // DEPTH) * DEPTH


def cut(layout: Layout, columns: int) -> list[Block]:
    """Cut the rows of `layout` into blocks of `columns` columns; the last may be smaller."""
    blocks: list[Block] = []
    pieces: list[Piece] = []
    column = 0
    for dtype, offset, count in zip(layout.dtypes, layout.offsets, layout.counts, strict=True):
        item = np.dtype(dtype).itemsize
        done = 0
        while done < count:
            taken = min(count - done, columns - column)
            piece = Piece(dtype, offset + done * item, taken * item, column, taken)
            if pieces and _adjacent(pieces[-1], piece):
                piece = _joined(pieces.pop(), piece)
            pieces.append(piece)
            done += taken
            column += taken
            if column == columns:
                blocks.append(Block(tuple(pieces)))
                pieces, column = [], 0
    if pieces:
        blocks.append(Block(tuple(pieces)))
    return blocks


def subtract(
    block: Block,
    raw: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    updates: NDArray[Any],
) -> None:
    """Compute the block of v_i = θ_i − θ_ref (mechanism.md §1).

    float64 is subtracted in float64; half precision is widened first.

    Parameters
    ----------
    block
        Which columns.
    raw : uint8 (rows, at least block.bytes)
        The rows' bytes from ``block.first`` on.
    reference : uint8 (at least block.bytes,)
        The reference's, likewise.
    updates : float32 or float64 (rows, at least block.columns)
        Filled; may be the memory of `raw` if both are float32 and the block is one piece.
    """
    for piece in block.pieces:
        models, reference_ = piece.of(raw, block.first), piece.of(reference, block.first)
        out = updates[:, piece.span()]
        if piece.dtype == "int16":
            models, reference_ = _widen(models), _widen(reference_)
        wide = np.float64 if piece.dtype == "float64" else updates.dtype
        np.subtract(models, reference_, out=out, dtype=wide, casting="same_kind")


def add(
    block: Block, raw: NDArray[np.uint8], moves: NDArray[np.float32], out: NDArray[np.uint8]
) -> None:
    """Compute the block of one centre, θ_i + moves, rounded to the tensors' dtypes.

    Parameters
    ----------
    block
        Which columns.
    raw, out : uint8 (at least block.bytes,)
        The row's bytes from ``block.first`` on, and the centre's.
    moves : float32 (at least block.columns,)
    """
    for piece in block.pieces:
        model, move = piece.of(raw, block.first), moves[piece.span()]
        centre = piece.of(out, block.first)
        if piece.dtype == "int16":
            wide = _widen(model)
            _narrow(np.add(wide, move, out=wide), centre)
        elif piece.dtype == "float16":
            wide = np.add(model, move, dtype=np.float32)
            centre[:] = np.clip(wide, -_FLOAT16_MAX, _FLOAT16_MAX, out=wide)
        else:
            np.add(model, move, out=centre)


def in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield ``work(item)`` in the order of `items`, from threads with a single-threaded BLAS each.

    BLAS does not split a long, thin product well. While this runs, BLAS is limited to one thread
    in the whole process. A few results at most wait to be taken.
    """
    with _blas().limit(limits=1, user_api="blas"):
        if threads == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads, "bank") as pool:
            waiting: deque[Future[_Result]] = deque()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _adjacent(left: Piece, right: Piece) -> bool:
    return left.dtype == right.dtype and left.first + left.bytes == right.first


def _joined(left: Piece, right: Piece) -> Piece:
    return Piece(
        left.dtype,
        left.first,
        left.bytes + right.bytes,
        left.column,
        left.columns + right.columns,
    )


def _widen(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Turn bfloat16 bits into float32: they are its upper half."""
    return (bits.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _narrow(wide: NDArray[np.float32], out: NDArray[Any]) -> None:
    """Round float32 to bfloat16 bits, ties to even; overwrites `wide`."""
    np.clip(wide, -_BFLOAT16_MAX, _BFLOAT16_MAX, out=wide)
    bits = wide.view(np.uint32)
    bits += 0x7FFF + (bits >> 16 & 1)
    np.right_shift(bits, 16, out=bits)
    out.view("<u2")[:] = bits
