"""The layout of a market's models, and the bytes of one model as a row of the bank."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[Any]]

# What can be averaged. The value is how it lies in a row: little-endian, so that a digest means the
# same everywhere. NumPy lacks bfloat16: an int16 tensor *is* bfloat16 bits (docs/adr/0003).
STORED = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "int16": "<i2"}
_BFLOAT16_EXPONENT = 0x7F80
_STRETCH = 2**20  # parameters


class ModelError(ValueError):
    """A model is not one of this market's; the message names the tensor or the file at fault."""


@dataclass(frozen=True)
class Layout:
    """The names, shapes and dtypes that every model of a market has.

    Build it with :meth:`of`.

    Attributes
    ----------
    names
        Of the tensors, in the order in which a row holds them.
    shapes
        Shape of each.
    dtypes
        ``float16``, ``float32``, ``float64``, or ``int16``, which stands for bfloat16.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Layout":
        """Return the layout of `arrays`; the byte order of a dtype is not part of it.

        Raises
        ------
        ModelError
            If there is no tensor, or one has a dtype that can't be averaged.
        """
        if not arrays:
            raise ModelError("the model holds no tensor")
        tensors = {name: np.asarray(array) for name, array in arrays.items()}
        for name, tensor in tensors.items():
            if tensor.dtype.name not in STORED:
                raise ModelError(
                    f"tensor {name!r} is {tensor.dtype}, which can't be averaged: keep counters "
                    "and buffers such as num_batches_tracked local to the institution, and send "
                    "float16, float32, float64, or bfloat16 as its bits in int16"
                )
        return cls(
            tuple(tensors),
            tuple(tensor.shape for tensor in tensors.values()),
            tuple(tensor.dtype.name for tensor in tensors.values()),
        )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Parameters of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Parameters of a model, D."""
        return sum(self.counts)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in a row, in bytes: at a multiple of its item size."""
        offsets, end = [], 0
        for dtype, count in zip(self.dtypes, self.counts, strict=True):
            item = np.dtype(dtype).itemsize
            offsets.append(-(-end // item) * item)
            end = offsets[-1] + count * item
        return tuple(offsets)

    @cached_property
    def bytes(self) -> int:
        """Bytes of a row."""
        return self.offsets[-1] + self.counts[-1] * np.dtype(self.dtypes[-1]).itemsize

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical description: the JSON list of name, dtype, shape."""
        tensors = list(zip(self.names, self.dtypes, self.shapes, strict=True))
        return hashlib.sha256(json.dumps(tensors, separators=(",", ":")).encode()).hexdigest()

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Check that `arrays` is a model of this layout, and finite. Their order is free.

        Raises
        ------
        ModelError
            Names the tensor at fault and says what is wrong with it.
        """
        known = set(self.names)
        missing = [name for name in self.names if name not in arrays]
        unknown = [name for name in arrays if name not in known]
        if missing and unknown:
            raise ModelError(f"tensor {missing[0]!r} is missing and {unknown[0]!r} is unknown")
        if missing:
            raise ModelError(f"tensor {missing[0]!r} is missing")
        if unknown:
            raise ModelError(f"tensor {unknown[0]!r} is unknown")
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            tensor = np.asarray(arrays[name])
            if tensor.dtype.name != dtype:
                raise ModelError(f"tensor {name!r} is {tensor.dtype}, must be {dtype}")
            if tensor.shape != shape:
                raise ModelError(f"tensor {name!r} has shape {tensor.shape}, must have {shape}")
            _check_finite(name, tensor)

    def row(self, arrays: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the row of a model that passed :meth:`check`, piece by piece.

        Yields
        ------
        uint8 (any,)
            The tensors' own bytes, C order, little-endian; zero between them. What lies so in
            memory is not copied.
        """
        end = 0
        for name, dtype, offset in zip(self.names, self.dtypes, self.offsets, strict=True):
            if offset > end:
                yield np.zeros(offset - end, np.uint8)
            tensor = np.ascontiguousarray(arrays[name], STORED[dtype])
            end = offset + tensor.nbytes
            yield tensor.reshape(-1).view(np.uint8)

    def flatten(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Return what :meth:`row` yields in one piece, uint8 (bytes,)."""
        return np.concatenate(list(self.row(arrays)))

    def restore(self, row: NDArray[np.uint8]) -> Arrays:
        """Return the tensors of a row, bit for bit what was flattened.

        Parameters
        ----------
        row : uint8 (bytes,)

        Returns
        -------
        dict of str to ndarray
            They share the memory of `row`.
        """
        arrays: Arrays = {}
        for name, shape, dtype, offset, count in zip(
            self.names, self.shapes, self.dtypes, self.offsets, self.counts, strict=True
        ):
            stored = np.dtype(STORED[dtype])
            data = row[offset : offset + count * stored.itemsize]
            arrays[name] = data.view(stored).reshape(shape)
        return arrays


def row_digest(layout: Layout, row: Iterable[NDArray[np.uint8]]) -> str:
    """Return what a model is known by: SHA-256, in hex, of the layout's digest and the row.

    Parameters
    ----------
    layout
    row : iterable of uint8 (any,)
        The row's bytes, in pieces.
    """
    digest = hashlib.sha256(bytes.fromhex(layout.digest))
    for piece in row:
        digest.update(piece.data)
    return digest.hexdigest()


def model_digest(layout: Layout, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the :func:`row_digest` of a model that passed ``layout.check``."""
    return row_digest(layout, layout.row(arrays))


def _check_finite(name: str, tensor: NDArray[Any]) -> None:
    bad, first = 0, 0
    # In stretches: a mask of a large tensor would be as long as a quarter of it, or more.
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, _STRETCH):
        wrong = np.flatnonzero(~_finite(flat[start : start + _STRETCH]))
        first = first if bad or not len(wrong) else start + int(wrong[0])
        bad += len(wrong)
    if bad:
        index = tuple(int(k) for k in np.unravel_index(first, tensor.shape))
        raise ModelError(
            f"tensor {name!r} is not finite in {bad} of {tensor.size} values, first at {index}"
        )


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.name == "int16":
        return np.asarray((values & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT)
    return np.asarray(np.isfinite(values))
