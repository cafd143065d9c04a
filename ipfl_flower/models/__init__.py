"""The bank of flattened models on disk: block-wise Gram matrix and prox-centres."""

from ipfl_flower.models.bank import ModelBank
from ipfl_flower.models.files import load_model, save_model
from ipfl_flower.models.layout import Layout, ModelError
from ipfl_flower.models.rows import BankError
from ipfl_flower.models.stored import Reference, StoredModel

__all__ = [
    "BankError",
    "Layout",
    "ModelBank",
    "ModelError",
    "Reference",
    "StoredModel",
    "load_model",
    "save_model",
]
