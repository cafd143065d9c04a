"""What is done to a model before it is sent: its update clipped, noise added.

No privacy accounting is claimed for it: it bounds what one model can carry, and blurs it.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ipfl_flower.trainer.limits import Limits

KEY_BYTES = 32


@torch.no_grad()
def clip(tensors: Mapping[str, Tensor], origin: Mapping[str, Tensor], norm_max: float) -> None:
    """Shorten the update v = θ − θ⁰ to an L2 norm of ``norm_max``, in place.

    Parameters
    ----------
    tensors
        A model θ.
    origin
        θ⁰: the same names, shapes and dtypes.
    norm_max
        > 0.
    """
    square = sum(
        float((tensor.float() - origin[name].float()).square().sum(dtype=torch.float64))
        for name, tensor in tensors.items()
    )
    norm = square**0.5
    if norm > norm_max:
        for name, tensor in tensors.items():
            start = origin[name].float()
            tensor.copy_(start + (tensor.float() - start) * (norm_max / norm))


@torch.no_grad()
def add_noise(tensors: Mapping[str, Tensor], std: float, seed: int) -> None:
    """Add Gaussian noise to every value, in place; the same seed adds the same."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors.values():
        noise = torch.randn(tensor.shape, generator=generator).mul_(std)
        tensor.copy_(tensor.float() + noise.to(tensor.device))


def noise_seed(state_dir: Path, round_number: int, limits: Limits) -> int:
    """Return the seed of a round's noise: who is asked for the round again sends the same model.

    It is derived from a secret that is made at the first call and never leaves ``state_dir``;
    whoever knew the seed could take the noise off. So could who saw the same noise twice at
    different strengths: under other limits it is another.
    """
    under = f"{round_number} {limits.noise_std!r} {limits.clip_norm!r}".encode()
    digest = hashlib.sha256(_key(state_dir / "noise.key") + under).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _key(path: Path) -> bytes:
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.touch(0o600)
        with temporary.open("wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return path.read_bytes()
