"""Tensors in Flower messages: how a model becomes an ArrayRecord, and is read without trust.

Flower makes several objects of each array, with database transactions of their own at the
SuperLink, and joins the chunks of an array in memory. So neither many small arrays travel nor a
large one:

* Small tensors of one dtype travel end to end in one array, a *pack*. Its name says what lies in
  it: ``#[[position, name, shape], …]``, in JSON.
* A large tensor travels in *pieces* along its first axis, ``NAME#K/N``.

Who reads a record sees tensors, in the order in which they were written.
"""

import io
import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

Tensor: TypeAlias = NDArray[Any]

# A few of Flower's chunks of 5 MB. What a tensor costs once more while it is written or joined.
PIECE_BYTES = 2**24
_PIECE = re.compile(r"(?P<name>.*)#(?P<k>\d{1,9})/(?P<n>\d{1,9})", re.DOTALL)
# Within one of those chunks.
PACK_BYTES = 2**22
_PACK = "#["
# What the reader of a pack's name spends on it is bounded by these.
NAME_LENGTH_MAX = 1_000
PACK_TENSORS_MAX = 500
_KEY_LENGTH_MAX = 2**20  # characters: enough for so many names, quotes in them escaped
TENSORS_MAX = 2**16
_DIMENSIONS_MAX = 64  # NumPy's own

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ProtocolError(ValueError):
    """A message does not hold what it must; the text names the field."""


def array_record(arrays: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors by name as a Flower record; `arrays` is asked for one tensor at a time.

    Raises
    ------
    ProtocolError
        If there are too many tensors, or one is named like a pack of tensors or a piece of one, or
        has too long a name.
    """
    record = ArrayRecord()
    if len(arrays) > TENSORS_MAX:
        raise ProtocolError(f"the model has {len(arrays)} tensors, at most {TENSORS_MAX} travel")
    packs: dict[np.dtype[Any], _Pack] = {}
    for position, name in enumerate(arrays):
        if name.startswith(_PACK) or _PIECE.fullmatch(name):
            raise ProtocolError(f"tensor {name!r} is named like a pack or a piece: rename it")
        if len(name) > NAME_LENGTH_MAX or not name.isprintable():
            raise ProtocolError(
                f"tensor {reprlib.repr(name)} has a name of {len(name)} characters: at most "
                f"{NAME_LENGTH_MAX} printable ones are taken"
            )
        tensor = np.asarray(arrays[name])
        if tensor.nbytes > PACK_BYTES:
            for key, piece in _pieces(name, tensor):
                record[key] = Array(piece)
            continue
        pack = packs.setdefault(tensor.dtype, _Pack())
        if pack.nbytes + tensor.nbytes > PACK_BYTES or len(pack) == PACK_TENSORS_MAX:
            record[pack.key] = pack.array()
            pack = packs[tensor.dtype] = _Pack()
        pack.add(position, name, tensor)
    for pack in packs.values():
        record[pack.key] = pack.array()
    return record


def read_arrays(record: ArrayRecord, *, keep: bool) -> dict[str, Tensor]:
    """Return the tensors of a record.

    Parameters
    ----------
    record : ArrayRecord
    keep : bool
        False empties `record`, array by array: the model is in memory once.

    Returns
    -------
    dict of str to ndarray
        In the order in which they were written. A tensor that came whole or in a pack shares the
        memory of its array.

    Raises
    ------
    ProtocolError
        If an array can't be read, or packs or pieces are incomplete or don't fit together.
    """
    cut: dict[str, list[str]] = {}
    for key in record:
        match = _PIECE.fullmatch(key)
        cut.setdefault(match["name"] if match and key[:2] != _PACK else key, []).append(key)
    packed: dict[int, tuple[str, Tensor]] = {}
    loose: list[tuple[str, Tensor]] = []
    for name, keys in cut.items():
        if name.startswith(_PACK):
            for position, item in _unpacked(name, _tensor(name, record[name])):
                if position in packed:
                    raise ProtocolError(f"two tensors are said to be number {position}")
                packed[position] = item
        elif keys == [name]:
            loose.append((name, _tensor(name, record[name])))
        else:
            loose.append((name, _joined(name, keys, record, keep=keep)))
        if not keep:
            for key in keys:
                record.pop(key, None)
    return _in_order(packed, loose)


class _Pack:
    """Small tensors of one dtype on their way into one array."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._entries: list[tuple[int, str, tuple[int, ...]]] = []
        self._flat: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, position: int, name: str, tensor: Tensor) -> None:
        self.nbytes += tensor.nbytes
        self._entries.append((position, name, tensor.shape))
        self._flat.append(tensor.reshape(-1))

    @property
    def key(self) -> str:
        return "#" + json.dumps(self._entries, ensure_ascii=False)

    def array(self) -> Array:
        return Array(np.concatenate(self._flat))


def _unpacked(key: str, pack: Tensor) -> Iterator[tuple[int, tuple[str, Tensor]]]:
    """Yield position, name and tensor of what lies in a pack, as its key says."""
    end = 0
    try:
        for position, name, shape in _entries(key):
            start, end = end, end + math.prod(shape)
            yield position, (name, pack[start:end].reshape(shape))
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"pack {reprlib.repr(key)} can't be read: {error}") from error
    if pack.shape != (end,):
        raise ProtocolError(
            f"pack {reprlib.repr(key)} can't be read: it has shape {pack.shape}, not ({end},)"
        )


def _entries(key: str) -> Iterator[tuple[int, str, list[int]]]:
    """Yield what a pack's key says; a hostile one costs no more than an honest one."""
    if len(key) > _KEY_LENGTH_MAX:
        raise ValueError(f"its name has {len(key)} characters")
    entries = json.loads(key[1:])
    if len(entries) > PACK_TENSORS_MAX:
        raise ValueError(f"it holds {len(entries)} tensors, at most {PACK_TENSORS_MAX} are taken")
    for position, name, shape in entries:
        if type(position) is not int or type(name) is not str or type(shape) is not list:
            raise ValueError("an entry is a position, a name and a shape")
        if not 0 <= position < TENSORS_MAX:
            raise ValueError(f"a position is {reprlib.repr(position)}")
        if len(shape) > _DIMENSIONS_MAX or any(
            type(n) is not int or not 0 <= n < 2**63 for n in shape
        ):
            raise ValueError(f"a shape is {reprlib.repr(shape)}")
        yield position, name, shape


def _in_order(
    packed: dict[int, tuple[str, Tensor]], loose: list[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors as they were written: the packed at their positions, the others between."""
    if len(packed) + len(loose) > TENSORS_MAX:
        raise ProtocolError(f"more than {TENSORS_MAX} tensors came")
    others = iter(loose)
    arrays: dict[str, Tensor] = {}
    for position in range(len(packed) + len(loose)):
        item = packed.get(position) or next(others, None)
        if item is None:
            raise ProtocolError(f"no tensor is number {position} of {len(packed) + len(loose)}")
        if item[0] in arrays:
            raise ProtocolError(f"tensor {reprlib.repr(item[0])} comes twice")
        arrays[item[0]] = item[1]
    return arrays


def _pieces(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    length = len(tensor) if tensor.ndim else 0
    if tensor.nbytes <= PIECE_BYTES or length < 2:
        yield name, tensor
        return
    step = max(1, PIECE_BYTES * length // tensor.nbytes)
    count = -(-length // step)
    for k in range(count):
        yield f"{name}#{k}/{count}", tensor[k * step : (k + 1) * step]


def _joined(name: str, keys: list[str], record: ArrayRecord, *, keep: bool) -> Tensor:
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


def _tensor(name: str, array: Array) -> Tensor:
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
