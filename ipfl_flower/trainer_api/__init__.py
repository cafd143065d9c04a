"""How an institution's trainer is asked: the gRPC protocol, and a client. No torch, no Flower."""

from ipfl_flower.trainer_api.addresses import Address, Tls
from ipfl_flower.trainer_api.client import TrainerClient
from ipfl_flower.trainer_api.errors import (
    AddressError,
    IncompatibleError,
    TrainerApiError,
    TrainerRefusedError,
    TrainerUnreachableError,
    WireError,
)
from ipfl_flower.trainer_api.messages import Description, FitAnswer, FitCall, Progress
from ipfl_flower.trainer_api.tensors import Spec

__all__ = [
    "Address",
    "AddressError",
    "Description",
    "FitAnswer",
    "FitCall",
    "IncompatibleError",
    "Progress",
    "Spec",
    "Tls",
    "TrainerApiError",
    "TrainerClient",
    "TrainerRefusedError",
    "TrainerUnreachableError",
    "WireError",
]
