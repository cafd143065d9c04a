"""Tensors as named NumPy arrays, as they travel and are stored, and back, without copies.

bfloat16, which NumPy lacks, travels as its bits in int16; every other dtype as itself.
"""

import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipfl_flower.trainer.errors import ArraysError, ArraysFileError
from ipfl_flower.trainer_api import Spec

Arrays: TypeAlias = dict[str, NDArray[Any]]

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(np.int16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
_READ_AT_ONCE = 2**22  # bytes
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What a damaged .npz makes its readers raise.
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, AttributeError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def layout(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Return dtype and shape of each array that `to_arrays` returns, in the same order."""
    return {
        name: Spec(DTYPES[tensor.dtype].name, tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Return read-only arrays in the order of the tensors, whose memory they share on the CPU."""
    return {name: _to_array(tensor) for name, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, NDArray[Any]], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return arrays that passed :func:`check_arrays` as tensors, to be read only.

    Parameters
    ----------
    arrays
        They share their memory with the tensors of a model on the CPU, read-only or not.
    like
        Names, dtypes and devices.
    """
    return {
        name: _to_tensor(arrays[name], tensor.dtype).to(tensor.device)
        for name, tensor in like.items()
    }


def load_arrays(tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy arrays that passed :func:`check_arrays` into tensors."""
    for name, tensor in tensors.items():
        tensor.copy_(_to_tensor(arrays[name], tensor.dtype))


def check_arrays(tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check that arrays have the names, shapes and dtypes of the tensors, and are finite.

    Raises
    ------
    ArraysError
        Names the first array at fault, what was expected and what it is.
    """
    _check_names(tensors, arrays)
    for name, tensor in tensors.items():
        array = arrays[name]
        _check_kind(name, tensor, array.shape, array.dtype)
        check_finite({name: _to_tensor(array, tensor.dtype)})


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors hold neither NaN nor infinity.

    Raises
    ------
    ArraysError
        Names the first that does.
    """
    for name, tensor in tensors.items():
        # Least and greatest value: isfinite() takes more memory than the tensor itself.
        if tensor.numel() and not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            raise ArraysError(f"array {name!r} holds a NaN or an infinity")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an .npz file, and wait until its content is on the disk.

    Raises
    ------
    OSError
        The file can't be written.
    """
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())


def read_arrays(path: Path) -> Arrays:
    """Read an .npz file; its bytes are checked against its own CRC.

    Raises
    ------
    ArraysFileError
        The file is missing or damaged.
    """
    try:
        # Opened here: np.load leaves a file that it finds damaged open.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except _DAMAGE as error:
        raise ArraysFileError(f"{path} is missing or damaged ({error})") from error


def read_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read an .npz file into tensors, piece by piece; its bytes are checked against its own CRC.

    Raises
    ------
    ArraysFileError
        The file is missing or damaged; the tensors hold anything.
    ArraysError
        It is whole, but its arrays have other names, shapes or dtypes than the tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            try:
                _read_entries(archive, tensors)
            except ArraysError:
                if archive.testzip() is None:
                    raise
                raise zipfile.BadZipFile("its CRC is wrong") from None
    except ArraysError:
        raise
    except _DAMAGE as error:
        raise ArraysFileError(f"{path} is missing or damaged ({error})") from error


def _read_entries(archive: zipfile.ZipFile, tensors: Mapping[str, Tensor]) -> None:
    _check_names(tensors, [name.removesuffix(".npy") for name in archive.namelist()])
    for name, tensor in tensors.items():
        with archive.open(f"{name}.npy") as entry:
            version = np.lib.format.read_magic(entry)
            shape, fortran_order, dtype = _READ_HEADER[version](entry)
            _check_kind(name, tensor, shape, dtype)
            if tensor.is_contiguous() and not fortran_order:
                _read_values(entry, tensor.view(-1).view(torch.uint8))
            else:
                whole = torch.empty(shape[::-1] if fortran_order else shape, dtype=tensor.dtype)
                _read_values(entry, whole.view(-1).view(torch.uint8))
                tensor.copy_(
                    whole.permute(*reversed(range(whole.dim()))) if fortran_order else whole
                )


def _read_values(entry: IO[bytes], out: Tensor) -> None:
    """Fill the bytes of a tensor, and read to the end: only there the CRC is checked."""
    done = 0
    while piece := entry.read(_READ_AT_ONCE):
        # A bytearray, because torch warns of what can't be written.
        out[done : done + len(piece)].copy_(torch.frombuffer(bytearray(piece), dtype=torch.uint8))
        done += len(piece)
    if done != len(out):
        raise EOFError(f"{done} bytes of {len(out)}")


def _check_names(expected: Mapping[str, Tensor], names: Collection[str]) -> None:
    for name in names:
        if name not in expected:
            raise ArraysError(f"array {name!r} is unknown")
    for name in expected:
        if name not in names:
            raise ArraysError(f"array {name!r} is missing")


def _check_kind(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    expected = DTYPES[tensor.dtype]
    if shape != tuple(tensor.shape) or dtype != expected:
        raise ArraysError(
            f"array {name!r} must be {expected} {tuple(tensor.shape)}, is {dtype} {shape}"
        )


def _to_array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: NDArray[Any] = tensor.numpy().view()
    array.flags.writeable = False
    return array


def _to_tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    if (array.size and min(array.strides, default=0) < 0) or not array.flags.aligned:
        array = array.copy()  # torch has no such tensors
    if not array.flags.writeable:
        # torch has no read-only tensors either, and warns; nothing here writes to this one.
        interface = array.__array_interface__
        interface["data"] = (interface["data"][0], False)
        array = np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor
