"""The request to join: an institution's name and public key, signed with its private key."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ipfl_flower.cli.documents import KitError, canonical, read_document, write_document
from ipfl_flower.cli.kit import CLOCK_SKEW_MAX, Name, PublicKey, Version
from ipfl_flower.cli.node_keys import is_signed, load_public_key, openssh, sign
from ipfl_flower.cli.versions import own_versions

_PURPOSE: Final = b"ipfl-flower join request 1\n"
"""Comes first in what is signed: what the key signs for Flower is no request."""


class JoinRequest(BaseModel):
    """What an institution hands to the operator.

    Attributes
    ----------
    name : str
        The one that it wants in the market.
    public_key : str
        Of its SuperNode, as OpenSSH writes it, without a comment.
    versions : dict of str to str
        The institution's, by package.
    created : datetime
    signature : str
        Of the owner of the private key, hexadecimal: nobody can ask with another's key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    public_key: PublicKey
    versions: dict[str, Version]
    created: AwareDatetime
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{2,300}$")]

    @classmethod
    def signed(cls, name: str, key: ec.EllipticCurvePrivateKey) -> Self:
        """Make a request now."""
        unsigned = cls(
            name=name,
            public_key=openssh(key.public_key()),
            versions=own_versions(),
            created=datetime.now(UTC).replace(microsecond=0),
            signature="00",
        )
        return unsigned.model_copy(update={"signature": sign(key, unsigned.payload())})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a request that is whole and signed by the owner of its key.

        Raises
        ------
        KitError
            It can't be read, is damaged, signed by somebody else, or from the future.
        """
        request = read_document(path, cls, "join request", follow=False)
        if not is_signed(request.key(), request.payload(), request.signature):
            raise KitError(
                f"{path} isn't signed by the owner of its key, or was changed: have it made again"
            )
        now = datetime.now(UTC)
        if request.created > now + CLOCK_SKEW_MAX:
            raise KitError(
                f"{path} was made at {request.created:%Y-%m-%d %H:%M} UTC, and it is "
                f"{now:%Y-%m-%d %H:%M} UTC here: one of the two clocks is wrong"
            )
        return request

    def write(self, path: Path) -> None:
        """Write the request."""
        write_document(path, self)

    def key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key."""
        return load_public_key(self.public_key)

    def payload(self) -> bytes:
        """Return what is signed: every field but the signature."""
        return _PURPOSE + canonical(self.model_dump(mode="json", exclude={"signature"}))
