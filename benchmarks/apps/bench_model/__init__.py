"""The model that all systems of the benchmark send around, as plain arrays: no torch here.

The shapes are those of a transformer as GPT-2 has them; what is missing to the size is one more
tensor, as an embedding would be.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES_PER_PARAMETER = 4
MB = 10**6
# A chunk of a message is 5 MB: a stamp in each megabyte changes all of them.
LARGEST_ARRAY = 16 * MB
STAMP_EVERY = MB // BYTES_PER_PARAMETER


def shapes(megabytes: float) -> dict[str, tuple[int, ...]]:
    """Return the tensors' shapes by name: float32, `megabytes` · 10⁶ bytes in all."""
    parameters = round(megabytes * MB / BYTES_PER_PARAMETER)
    layers = 4 if parameters < 10**6 else 12
    # A layer of width w has 12 w² weights and 13 w more; nine tenths of the model are layers.
    width = max(1, int((0.9 * parameters / (12 * layers)) ** 0.5) - 1)
    block = {
        "norm1_weight": (width,),
        "norm1_bias": (width,),
        "attention_weight": (3 * width, width),
        "attention_bias": (3 * width,),
        "projection_weight": (width, width),
        "projection_bias": (width,),
        "norm2_weight": (width,),
        "norm2_bias": (width,),
        "up_weight": (4 * width, width),
        "up_bias": (4 * width,),
        "down_weight": (width, 4 * width),
        "down_bias": (width,),
    }
    found = {f"layer{i}_{name}": shape for i in range(layers) for name, shape in block.items()}
    rest = parameters - sum(int(np.prod(shape)) for shape in found.values())
    if rest < 1:
        raise ValueError(f"a model of {megabytes:g} MB is too small: give 0.1 or more")
    return {"embedding": (rest,)} | found


def arrays(megabytes: float) -> dict[str, NDArray[np.float32]]:
    """Make the untrained model: quickly, and no two chunks of it alike."""
    return {
        name: np.linspace(-0.05 - 1e-3 * i, 0.05, int(np.prod(shape)), dtype=np.float32).reshape(
            shape
        )
        for i, (name, shape) in enumerate(shapes(megabytes).items())
    }


def whole(megabytes: float) -> dict[str, NDArray[np.float32]]:
    """Make as many numbers in as few arrays as Flower takes well: a message and nothing else."""
    numbers = np.linspace(
        -0.05, 0.05, round(megabytes * MB / BYTES_PER_PARAMETER), dtype=np.float32
    )
    count = -(-numbers.nbytes // LARGEST_ARRAY)
    return {str(k): part for k, part in enumerate(np.array_split(numbers, count))}


def stamp(values: dict[str, NDArray[Any]], *mark: float) -> None:
    """Change a few values in each chunk, in place.

    Flower sends a chunk that it has seen a moment ago only once. A trained model has no such
    chunks, and a message that stands for one must not have any either.
    """
    for tensor in values.values():
        flat = tensor.reshape(-1)
        for k, value in enumerate(mark):
            flat[k::STAMP_EVERY] = value
