"""Receipts: what a settled round meant for one institution, signed by the operator.

The operator signs them, institutions check and keep them, an auditor compares them with the ledger.
All three need nothing but the market's formulas and Ed25519: no Flower, torch or database.
"""

from ipfl_flower.receipts.checks import check
from ipfl_flower.receipts.errors import ReceiptError
from ipfl_flower.receipts.folder import ReceiptFolder, Stored, stored_receipts
from ipfl_flower.receipts.keys import load_or_make_key, public_hex, read_public_key
from ipfl_flower.receipts.receipt import Purchase, Receipt, Sale
from ipfl_flower.receipts.signing import SignedReceipt, sign, verify_signature

__all__ = [
    "Purchase",
    "Receipt",
    "ReceiptError",
    "ReceiptFolder",
    "Sale",
    "SignedReceipt",
    "Stored",
    "check",
    "load_or_make_key",
    "public_hex",
    "read_public_key",
    "sign",
    "stored_receipts",
    "verify_signature",
]
