"""The institution's side: proximal training on private data, and its models on its disk."""

from ipfl_flower.trainer.errors import (
    ArraysError,
    InstitutionError,
    RequestError,
    StoreError,
    TrainingError,
)
from ipfl_flower.trainer.institution import Institution
from ipfl_flower.trainer.trainer import FitReply, FitRequest, Trainer

__all__ = [
    "ArraysError",
    "FitReply",
    "FitRequest",
    "Institution",
    "InstitutionError",
    "RequestError",
    "StoreError",
    "Trainer",
    "TrainingError",
]
