"""The bank of flattened models on disk: block-wise Gram matrix and prox-centres."""

from ipfl_flower.models.bank import ModelBank
from ipfl_flower.models.files import load_model, save_model
from ipfl_flower.models.layout import Layout, ModelError, row_digest
from ipfl_flower.models.rows import BankError

__all__ = [
    "BankError",
    "Layout",
    "ModelBank",
    "ModelError",
    "load_model",
    "row_digest",
    "save_model",
]
