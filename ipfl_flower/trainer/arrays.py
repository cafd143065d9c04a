"""A torch model as named NumPy arrays, as it travels and is stored, and back.

What travels is every floating-point entry of the state_dict. bfloat16, which NumPy lacks, travels
as its bits in int16. Entries of other kinds (counters, indices) stay local, as the task built them.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipfl_flower.trainer.errors import ArraysError
from ipfl_flower.trainer_api import Spec

Arrays: TypeAlias = dict[str, NDArray[Any]]


def floating(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict's floating-point entries, sharing memory with the model."""
    return {name: t for name, t in model.state_dict().items() if t.is_floating_point()}


def layout(model: nn.Module) -> dict[str, Spec]:
    """Return dtype and shape of each array that travels, in the state_dict's order."""
    return {
        name: Spec(_numpy_dtype(tensor.dtype).name, tuple(tensor.shape))
        for name, tensor in floating(model).items()
    }


def to_arrays(model: nn.Module) -> Arrays:
    """Copy the model's floating-point entries into NumPy arrays, in the state_dict's order."""
    return {name: _to_array(tensor) for name, tensor in floating(model).items()}


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put arrays that passed :func:`check_arrays` into the model, in place."""
    for name, tensor in floating(model).items():
        tensor.copy_(_to_tensor(arrays[name], tensor.dtype))


def to_tensors(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Copy arrays that passed :func:`check_arrays` to tensors of the model's dtypes and device."""
    return {
        name: _to_tensor(arrays[name], tensor.dtype).to(tensor.device)
        for name, tensor in floating(model).items()
    }


def check_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check that arrays are a model of the same kind as ``model``, and finite.

    Raises
    ------
    ArraysError
        Names the first array at fault, what was expected and what it is.
    """
    expected = floating(model)
    for name in arrays:
        if name not in expected:
            raise ArraysError(f"array {name!r} is unknown")
    for name, tensor in expected.items():
        if name not in arrays:
            raise ArraysError(f"array {name!r} is missing")
        array = arrays[name]
        dtype = _numpy_dtype(tensor.dtype)
        if array.shape != tuple(tensor.shape) or array.dtype != dtype:
            raise ArraysError(
                f"array {name!r} must be {dtype} {tuple(tensor.shape)}, "
                f"is {array.dtype} {array.shape}"
            )
        if not bool(torch.isfinite(_to_tensor(array, tensor.dtype)).all()):
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
    ArraysError
        The file is missing or damaged.
    """
    try:
        # Opened here: np.load leaves a file that it finds damaged open.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ArraysError(f"{path} is missing or damaged ({error})") from error


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    if dtype == torch.bfloat16:
        return np.dtype(np.int16)
    return torch.empty(0, dtype=dtype).numpy().dtype


def _to_array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: NDArray[Any] = tensor.numpy().copy()
    return array


def _to_tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    # The copy: torch shares memory with the array, and warns when that is read-only.
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor
