"""Model files: what ``numpy.savez`` writes, read without pickle and without trust."""

import os
import tokenize
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ipfl_flower.models.layout import Arrays, Layout, ModelError

_SUFFIX = ".npy"

# What zipfile and NumPy raise on a file that isn't what it seems.
_DAMAGE = (
    ValueError,  # among them ModelError
    EOFError,
    RuntimeError,  # an encrypted member; a header nested too deep
    NotImplementedError,  # a feature of zip
    SyntaxError,  # a header that is no literal
    tokenize.TokenError,
    TypeError,
    MemoryError,
    zipfile.BadZipFile,
)


def save_model(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model to an .npz file, durably; a crash leaves the old file or the new one.

    The same model gives the same bytes.

    Raises
    ------
    ModelError
        If a tensor has a dtype that can't be averaged, or holds a NaN or an infinity.
    OSError
        If the file can't be written.
    """
    Layout.of(arrays).check(arrays)
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            # Not numpy.savez: a tensor may be named "file", which is a parameter of it, and it
            # writes the time of day into the file.
            with zipfile.ZipFile(file, "w") as archive:
                for name, array in arrays.items():
                    member = zipfile.ZipInfo(name + _SUFFIX)
                    with archive.open(member, "w", force_zip64=True) as data:
                        npy.write_array(data, np.asarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def load_model(path: Path) -> Arrays:
    """Read a model that :func:`save_model` or ``numpy.savez`` wrote.

    Nothing in the file is executed, and no more memory is taken than the file is long.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or not a model; names the file and what is wrong.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, os.fstat(file.fileno()).st_size)
            arrays = {}
            for member in members:
                with archive.open(member) as data:
                    arrays[member.filename.removesuffix(_SUFFIX)] = _read_array(data, member)
        Layout.of(arrays).check(arrays)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise ModelError(f"{path} is damaged, or not a model: {error}") from error
    return arrays


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_members(members: list[zipfile.ZipInfo], file_bytes: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ModelError("two tensors have one name")
    for member in members:
        if not member.filename.endswith(_SUFFIX):
            raise ModelError(f"{member.filename!r} is no array")
        # A few bytes that unpack to terabytes are no model.
        if member.compress_type != zipfile.ZIP_STORED:
            raise ModelError(f"{member.filename!r} is compressed: write it with numpy.savez")
    if sum(member.file_size for member in members) > file_bytes:
        raise ModelError("its arrays are said to be longer than the file")


def _read_array(data: IO[bytes], member: zipfile.ZipInfo) -> NDArray[Any]:
    version = npy.read_magic(data)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(data)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(data)
    else:
        raise ModelError(f"{member.filename!r} is of .npy version {version}")
    if dtype.hasobject:
        raise ModelError(f"{member.filename!r} holds Python objects")
    content = bytearray(data.read())
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(content):
        raise ModelError(f"{member.filename!r} is not as long as its shape {shape} says")
    array = np.frombuffer(content, dtype, count=prod(shape))
    return array.reshape(shape, order="F" if fortran else "C")
