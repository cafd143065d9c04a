"""The operator's signing key on disk, and public keys as institutions and auditors hold them."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ipfl_flower.receipts.encoding import digits
from ipfl_flower.receipts.errors import ReceiptError
from ipfl_flower.receipts.files import make_private_folder, write_new

_PEM_SIZE_MAX = 10_000


def load_or_make_key(path: Path) -> Ed25519PrivateKey:
    """Load the operator's key, or make one.

    Parameters
    ----------
    path : Path
        A PEM file (PKCS 8, mode 0600). Made, with its folder, when missing; whole or not at all.

    Raises
    ------
    ReceiptError
        The file holds no Ed25519 key, others may read it, or it can't be read or written.
    """
    try:
        if not path.exists():
            make_private_folder(path.parent)
            pem = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            write_new(path, pem)
        # Read also when just made: another process may have been first.
        if path.stat().st_mode & 0o077:
            raise ReceiptError(f"{path} can be read by others: chmod 600 it, or take another key")
        return _private(path)
    except OSError as error:
        raise ReceiptError(
            f"{path}, the key that signs receipts, can't be read or written ({error.strerror}): "
            "see receipt-key"
        ) from error


def public_hex(key: Ed25519PublicKey) -> str:
    """Write a public key as 64 hexadecimal digits."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def read_public_key(path: Path) -> str:
    """Read the operator's public key: 64 hexadecimal digits, or PEM.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    ReceiptError
        The file can't be read or holds no Ed25519 public key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_PEM_SIZE_MAX)
    except OSError as error:
        raise ReceiptError(f"{path} can't be read: {error.strerror}") from error
    try:
        if content.startswith(b"-----BEGIN"):
            key = load_pem_public_key(content)
            text = public_hex(key) if isinstance(key, Ed25519PublicKey) else "of another kind"
        else:
            text = content.decode("ascii").strip().lower()
        return digits(text, 64, "the key")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReceiptError(
            f"{path} holds no operator's public key, neither 64 hexadecimal digits nor an Ed25519 "
            f"PEM: {error}"
        ) from error


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ReceiptError(
            f"{path} holds no private key: restore it from a backup; a market keeps its key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ReceiptError(f"{path} holds a key of another kind: receipts need an Ed25519 key")
    return key
