"""A model on the wire: its layout, its bytes in chunks, and the arrays that they are read into.

Sending copies one chunk at a time; receiving copies each byte once, to where it stays.
"""

import reprlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.errors import WireError

Arrays = dict[str, NDArray[Any]]

CHUNK_BYTES_MAX = 1 << 20
_DTYPE_LENGTH_MAX = 16


@dataclass(frozen=True)
class Spec:
    """One tensor: NumPy's name of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """Return an array's own."""
        return cls(array.dtype.name, array.shape)

    def empty(self) -> NDArray[Any]:
        """Allocate such a tensor."""
        return np.empty(self.shape, _dtype(self.dtype))

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


Layout = dict[str, Spec]


def layout_of(arrays: Mapping[str, NDArray[Any]]) -> Layout:
    """Return the layout of a model."""
    return {name: Spec.of(array) for name, array in arrays.items()}


def layout_message(layout: Mapping[str, Spec]) -> pb.Layout:
    """Return a layout as it travels."""
    return pb.Layout(
        tensors=[
            pb.TensorSpec(name=name, dtype=spec.dtype, shape=spec.shape)
            for name, spec in layout.items()
        ]
    )


def read_layout(message: pb.Layout) -> Layout:
    """Read a layout; nothing is allocated for the tensors that it names.

    Raises
    ------
    WireError
        A name comes twice.
    """
    layout = {
        spec.name: Spec(spec.dtype, tuple(int(n) for n in spec.shape)) for spec in message.tensors
    }
    if len(layout) != len(message.tensors):
        raise WireError("a tensor comes twice in the layout")
    return layout


def require_same(came: Mapping[str, Spec], expected: Mapping[str, Spec]) -> None:
    """Check that a layout has the expected tensors, in any order.

    Raises
    ------
    WireError
        Names the first tensor at fault, what was expected and what came.
    """
    for name in came:
        if name not in expected:
            raise WireError(f"tensor {reprlib.repr(name)} is unknown")
    for name, spec in expected.items():
        if name not in came:
            raise WireError(f"tensor {name!r} is missing")
        if came[name] != spec:
            raise WireError(f"tensor {name!r} must be {spec}, is {reprlib.repr(str(came[name]))}")


class Inbox:
    """Takes the bytes of one model into arrays that are allocated once.

    Parameters
    ----------
    layout
        Checked, see `require_same`: it decides how much is allocated.

    Attributes
    ----------
    arrays : dict of str to ndarray
    missing : int
        Bytes that have not come yet.

    Raises
    ------
    WireError
        A dtype is none that a model travels in.
    """

    def __init__(self, layout: Mapping[str, Spec]) -> None:
        self.arrays: Arrays = {name: spec.empty() for name, spec in layout.items()}
        self.missing = self.size = sum(array.nbytes for array in self.arrays.values())
        self._parts = (_flat(array) for array in self.arrays.values())
        self._part: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._crc32 = 0

    def take(self, chunk: bytes) -> None:
        """Put the next bytes where they belong.

        Raises
        ------
        WireError
            The chunk is empty, too long, or more than the model lacks.
        """
        if not 0 < len(chunk) <= CHUNK_BYTES_MAX:
            raise WireError(f"a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {len(chunk)}")
        if len(chunk) > self.missing:
            raise WireError(f"more than the model's {self.size} bytes came")
        self.missing -= len(chunk)
        self._crc32 = zlib.crc32(chunk, self._crc32)
        rest = np.frombuffer(chunk, np.uint8)
        while rest.size:
            while not self._part.size:
                self._part = next(self._parts)
            count = min(rest.size, self._part.size)
            self._part[:count] = rest[:count]
            self._part, rest = self._part[count:], rest[count:]

    def close(self, end: pb.End) -> Arrays:
        """Return the arrays, all of whose bytes came as they were sent.

        Raises
        ------
        WireError
            Bytes are missing, or were changed on the way.
        """
        if self.missing:
            raise WireError(f"{self.missing} of the model's {self.size} bytes did not come")
        if end.crc32 != self._crc32:
            raise WireError("the model was damaged on the way: its checksum does not fit")
        return self.arrays


class Outbox:
    """Gives the bytes of a model in chunks; after the last one, `end` is right.

    Parameters
    ----------
    arrays
        Sent in their order.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._crc32 = 0

    def __iter__(self) -> Iterator[bytes]:
        for array in self._arrays.values():
            # Copies only what is not row-major and little-endian already.
            flat = _flat(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
            for first in range(0, flat.size, CHUNK_BYTES_MAX):
                chunk = flat[first : first + CHUNK_BYTES_MAX].tobytes()
                self._crc32 = zlib.crc32(chunk, self._crc32)
                yield chunk

    @property
    def end(self) -> pb.End:
        """The message that closes the stream."""
        return pb.End(crc32=self._crc32)


def _flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a row-major array, sharing its memory."""
    return array.reshape(-1).view(np.uint8)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name if len(name) <= _DTYPE_LENGTH_MAX else "")
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiub" or dtype.name != name:
        raise WireError(f"a model can't travel as {reprlib.repr(name)}")
    return dtype.newbyteorder("<")
