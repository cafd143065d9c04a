"""Tensors in Flower messages: how a model becomes an ArrayRecord, and is read without trust.

A large tensor travels in pieces along its first axis, as arrays of their own named ``NAME#K/N``.
Flower joins the chunks of an array in memory, beside the chunks and the arrays of the whole
message: an array as large as the model would cost it once more. Who reads a record sees tensors.
"""

import io
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

# A few of Flower's chunks of 5 MB. What a tensor costs once more while it is written or joined.
PIECE_BYTES = 2**24
_PIECE = re.compile(r"(?P<name>.*)#(?P<k>\d{1,9})/(?P<n>\d{1,9})", re.DOTALL)

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ProtocolError(ValueError):
    """A message does not hold what it must; the text names the field."""


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return tensors by name as a Flower record; `arrays` is asked for one tensor at a time.

    Raises
    ------
    ProtocolError
        If a tensor is named as a piece of one.
    """
    record = ArrayRecord()
    for name in arrays:
        if _PIECE.fullmatch(name):
            raise ProtocolError(f"tensor {name!r} is named like a piece of another: rename it")
        for key, piece in _pieces(name, np.asarray(arrays[name])):
            record[key] = Array(piece)
    return record


def read_arrays(record: ArrayRecord, *, keep: bool) -> dict[str, NDArray[Any]]:
    """Return the tensors of a record.

    Parameters
    ----------
    record : ArrayRecord
    keep : bool
        False empties `record`, array by array: the model is in memory once.

    Returns
    -------
    dict of str to ndarray
        In the order of the record. A tensor that came whole shares the memory of its array.

    Raises
    ------
    ProtocolError
        If an array can't be read, or pieces are missing or don't fit together.
    """
    cut: dict[str, list[str]] = {}
    for key in record:
        match = _PIECE.fullmatch(key)
        cut.setdefault(match["name"] if match else key, []).append(key)
    arrays = {}
    for name, keys in cut.items():
        if keys == [name]:
            arrays[name] = _tensor(name, record[name])
        else:
            arrays[name] = _joined(name, keys, record, keep=keep)
        if not keep:
            for key in keys:
                record.pop(key, None)
    return arrays


def _pieces(name: str, tensor: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    length = len(tensor) if tensor.ndim else 0
    if tensor.nbytes <= PIECE_BYTES or length < 2:
        yield name, tensor
        return
    step = max(1, PIECE_BYTES * length // tensor.nbytes)
    count = -(-length // step)
    for k in range(count):
        yield f"{name}#{k}/{count}", tensor[k * step : (k + 1) * step]


def _joined(name: str, keys: list[str], record: ArrayRecord, *, keep: bool) -> NDArray[Any]:
    """Put the pieces of a tensor together, in memory that is taken as it is filled."""
    if keys != [f"{name}#{k}/{len(keys)}" for k in range(len(keys))]:
        raise ProtocolError(
            f"tensor {reprlib.repr(name)} did not come whole: its pieces are {reprlib.repr(keys)}"
        )
    heads = [_tensor(key, record[key]) for key in keys]
    first = heads[0]
    for key, head in zip(keys, heads, strict=True):
        if head.ndim == 0 or (head.dtype, head.shape[1:]) != (first.dtype, first.shape[1:]):
            raise ProtocolError(f"piece {reprlib.repr(key)} does not fit the first of its tensor")
    lengths = [len(head) for head in heads]
    try:
        tensor = np.empty((sum(lengths), *first.shape[1:]), first.dtype)
    except (ValueError, OverflowError) as error:  # empty pieces can claim any length
        raise ProtocolError(f"tensor {reprlib.repr(name)} can't be read: {error}") from error
    del first, head, heads
    end = 0
    for key, length in zip(keys, lengths, strict=True):
        tensor[end : end + length] = _tensor(key, record[key] if keep else record.pop(key))
        end += length
    return tensor


def _tensor(name: str, array: Array) -> NDArray[Any]:
    """Read a tensor without trusting it: no pickle, no archive, no more memory than came."""
    stream = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = _READ_HEADER[version](stream)
    except Exception as error:  # the parser of headers raises whatever it comes across
        raise ProtocolError(f"tensor {reprlib.repr(name)} can't be read: {error}") from error
    came = len(array.data) - stream.tell()
    wrong = dtype.hasobject or dtype.subdtype or any(type(n) is not int or n < 0 for n in shape)
    if wrong or (count := math.prod(shape)) * dtype.itemsize != came:
        raise ProtocolError(
            f"tensor {reprlib.repr(name)} can't be read: {came} bytes for shape "
            f"{reprlib.repr(shape)} of {dtype}"
        )
    try:
        values = np.frombuffer(array.data, dtype, count, offset=stream.tell())
        return values.reshape(shape, order="F" if fortran_order else "C")
    except (ValueError, TypeError, OverflowError) as error:  # shapes that only emptiness allows
        raise ProtocolError(f"tensor {reprlib.repr(name)} can't be read: {error}") from error
