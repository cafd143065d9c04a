"""The operator's Ed25519 signature (RFC 8032) on a receipt's canonical JSON."""

from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ipfl_flower.receipts.encoding import canonical, digits, fields, parse
from ipfl_flower.receipts.keys import public_hex
from ipfl_flower.receipts.receipt import Receipt

_PURPOSE: Final = b"ipfl-flower receipt 1\n"
"""Comes first in what is signed: the key's signature on anything else is none on a receipt."""


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt and the operator's signature on it.

    Attributes
    ----------
    receipt : Receipt
    key : str
        The public key that is claimed to have signed it, 64 hexadecimal digits.
    signature : str
        128 hexadecimal digits.
    """

    receipt: Receipt
    key: str
    signature: str

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object that travels in the statement of a message."""
        return {
            "receipt": self.receipt.to_object(),
            "key": self.key,
            "signature": self.signature,
        }

    def to_json(self) -> str:
        """Return what is stored: canonical JSON, one text for one signed receipt."""
        return canonical(self.to_object())

    @classmethod
    def from_json(cls, text: str) -> "SignedReceipt":
        """Read what `to_json` made; the signature is not verified here.

        Raises
        ------
        ReceiptError
            It is anything else; the message names the first field at fault.
        """
        given = fields(
            parse(text), frozenset(("receipt", "key", "signature")), "the signed receipt"
        )
        return cls(
            receipt=Receipt.from_object(given["receipt"]),
            key=digits(given["key"], 64, "key"),
            signature=digits(given["signature"], 128, "signature"),
        )


def sign(receipt: Receipt, private_key: Ed25519PrivateKey) -> SignedReceipt:
    """Sign a receipt; the same receipt and key give the same bytes."""
    return SignedReceipt(
        receipt=receipt,
        key=public_hex(private_key.public_key()),
        signature=private_key.sign(_payload(receipt)).hex(),
    )


def verify_signature(signed: SignedReceipt, key: str | None = None) -> bool:
    """Tell whether the operator signed this receipt.

    Parameters
    ----------
    signed : SignedReceipt
    key : str, optional
        The public key that must have signed it; by default the one that it names itself, which
        shows that it is undamaged and nothing more.
    """
    if key is not None and signed.key != key:
        return False
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.key))
        public.verify(bytes.fromhex(signed.signature), _payload(signed.receipt))
    except (InvalidSignature, ValueError):
        return False
    return True


def _payload(receipt: Receipt) -> bytes:
    return _PURPOSE + canonical(receipt.to_object()).encode()
