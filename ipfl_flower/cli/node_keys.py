"""An institution's node key: made where it stays, shown by its fingerprint, used to sign."""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from ipfl_flower.cli.certs import make_node_key
from ipfl_flower.cli.documents import KitError, read_file, write_file

FILE = "node.key"


def load_or_make_node_key(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, bool]:
    """Load an institution's node key, or make one.

    Parameters
    ----------
    folder : Path
        The institution's: ``node.key`` (mode 0600) and ``node.key.pub``.

    Returns
    -------
    key : EllipticCurvePrivateKey
    new : bool
        Whether it was made now.

    Raises
    ------
    KitError
        The key that is there can't be used, or none can be made.
    """
    path = folder / FILE
    new = not path.exists() and not path.is_symlink()
    if new:
        try:
            make_node_key(path)
        except OSError as error:
            raise KitError(f"{path} can't be written: {error.strerror}") from error
    key = load_node_key(folder)
    public = folder / f"{FILE}.pub"
    if not public.exists():
        write_file(public, openssh(key.public_key()).encode())
    return key, new


def load_node_key(folder: Path, *, group: bool = False) -> ec.EllipticCurvePrivateKey:
    """Load an institution's node key.

    Parameters
    ----------
    folder : Path
        The institution's.
    group : bool
        Whether its group may read it, as of what Kubernetes mounts: root's, and the pod's group's.

    Raises
    ------
    KitError
        It is missing, damaged, of another kind, or others may read it.
    """
    key = read_node_key(folder)
    path = folder / FILE
    if path.stat().st_mode & (0o007 if group else 0o077):
        raise KitError(f"{path} can be read by others: chmod 600 it")
    return key


def read_node_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Read an institution's node key, whoever else may read it.

    Raises
    ------
    KitError
        It is missing, damaged, or of another kind.
    """
    path = folder / FILE
    content = read_file(path, "node key (ipfl join-request makes it)")
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KitError(
            f"{path} holds no private key, or one with a passphrase: restore it, or move it away "
            "and make a new request under a new name"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key.public_key()):
        raise KitError(f"{path} holds a key of another kind: a SuperNode's is ECDSA P-384")
    return key


def load_public_key(line: str) -> ec.EllipticCurvePublicKey:
    """Load a public key from its OpenSSH line.

    Raises
    ------
    KitError
        It is none of ECDSA P-384.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KitError("the public key is damaged: have the request made again") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key):
        raise KitError("the public key is of another kind: a SuperNode's is ECDSA P-384")
    return key


def openssh(key: ec.EllipticCurvePublicKey) -> str:
    """Write a public key as OpenSSH does, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def flower_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a public key as Flower names a node by it, and so the ledger: PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return what ``ssh-keygen -lf node.key.pub`` shows: SHA256: and 43 characters."""
    blob = base64.b64decode(openssh(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def fingerprint_of_bytes(public_key: bytes) -> str:
    """Return the fingerprint of a key as Flower writes it, whatever may be stored there."""
    try:
        key = load_pem_public_key(public_key)
        # OpenSSH knows three curves; a stranger's key may be of any.
        if isinstance(key, ec.EllipticCurvePublicKey):
            return fingerprint(key)
    except (ValueError, UnsupportedAlgorithm):
        pass
    return f"no EC key of OpenSSH's, {hashlib.sha256(public_key).hexdigest()[:16]}"


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes) -> str:
    """Sign with ECDSA and SHA-384; hexadecimal."""
    return key.sign(payload, ec.ECDSA(hashes.SHA384())).hex()


def is_signed(key: ec.EllipticCurvePublicKey, payload: bytes, signature: str) -> bool:
    """Tell whether the owner of `key` signed `payload`."""
    try:
        key.verify(bytes.fromhex(signature), payload, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_p384(key: ec.EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, ec.SECP384R1)
