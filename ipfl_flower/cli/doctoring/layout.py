"""The layout of a model in a few words, which two people can compare over the telephone."""

import hashlib
import json
from collections.abc import Iterable
from math import prod

import numpy as np

from ipfl_flower.cli.doctoring.files import size

Tensor = tuple[str, str, tuple[int, ...]]


def layout_line(tensors: Iterable[Tensor]) -> str:
    """Say how large a model is, and a number that is the same for the same layout.

    Parameters
    ----------
    tensors : iterable of (str, str, tuple of int)
        Name, NumPy's dtype and shape of each, in any order.
    """
    known = sorted(tensors)
    layout = json.dumps(known, separators=(",", ":")).encode()
    parameters = sum(prod(shape) for _, _, shape in known)
    return (
        f"{len(known)} tensors, {parameters} parameters, {size(model_bytes(known))}, "
        f"layout {hashlib.sha256(layout).hexdigest()[:12]}"
    )


def model_bytes(tensors: Iterable[Tensor]) -> int:
    """Return how long a model is."""
    return sum(prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in tensors)
