"""The kit: all that an institution needs to take part in a market, signed by its operator.

The signature is the operator's Ed25519 key's, the one that signs receipts; it covers every field.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from ipfl_flower.cli.authority import is_host
from ipfl_flower.cli.documents import KitError, canonical, read_document, write_document
from ipfl_flower.receipts import public_hex
from ipfl_flower.trainer_api import Address, AddressError

KIT_FILE: Final = "kit.json"
"""Its name in an institution's folder."""

CLOCK_SKEW_MAX: Final = timedelta(minutes=5)

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""An institution's name: it is part of file names and of Flower's command lines."""

# An IPv6 address is in brackets, as in a URL.
_ADDRESS = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$"
_PURPOSE: Final = b"ipfl-flower kit 1\n"
"""Comes first in what is signed: a signature on a receipt is none on a kit."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
PublicKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]{100,400}={0,2}$")]
Bundle = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!-]{1,40}$")]


class Kit(BaseModel):
    """What an operator hands to one institution.

    Attributes
    ----------
    name : str
        The institution's.
    public_key : str
        Of its SuperNode, as OpenSSH writes it, without a comment.
    fleet : str
        HOST:PORT of the SuperLink's gRPC fleet API.
    ca : str
        The certificate, in PEM, that the SuperLink's is checked against.
    bundles : list of str
        SHA-256 of the app bundles (FAB) that the market runs on the institution's SuperNode.
    terms : dict
        The market's: `Settings.contract` and what else an institution must know.
    operator_key : str
        The Ed25519 public key that signs this kit and the market's receipts, 64 hex digits.
    versions : dict of str to str
        The operator's, by package.
    issued : datetime
        Since when the operator hands out a kit of this content: a later content has a later time.
    signature : str
        128 hex digits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    public_key: PublicKey
    fleet: Annotated[str, Field(pattern=_ADDRESS)]
    ca: Annotated[str, Field(max_length=20_000)]
    bundles: Annotated[list[Bundle], Field(min_length=1, max_length=100)]
    terms: dict[str, JsonValue]
    operator_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: dict[str, Version]
    issued: AwareDatetime
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @field_validator("fleet")
    @classmethod
    def _fleet_can_be_dialled(cls, fleet: str) -> str:
        try:
            address = Address.parse(fleet)
        except AddressError as error:
            raise ValueError("no HOST:PORT") from error
        if address.port == 0 or not is_host(address.host):
            raise ValueError("no HOST:PORT that can be reached")
        return fleet

    @classmethod
    def signed(cls, key: Ed25519PrivateKey, **fields: Any) -> Self:
        """Make a kit of all fields but `operator_key` and `signature`; the same gives the same.

        Raises
        ------
        KitError
            A field is not what a kit may hold.
        """
        try:
            unsigned = cls(**fields, operator_key=public_hex(key.public_key()), signature="0" * 128)
        except ValidationError as error:
            item = error.errors()[0]
            where = ".".join(str(part) for part in item["loc"])
            raise KitError(f"no kit can be made: {where}: {item['msg']}") from error
        return unsigned.model_copy(update={"signature": key.sign(unsigned.payload()).hex()})

    @classmethod
    def read(cls, path: Path, *, follow: bool = True) -> Self:
        """Read a kit that is whole and signed by the operator key that it names.

        Parameters
        ----------
        path : Path
        follow : bool
            Whether `path` may be a symbolic link.

        Raises
        ------
        KitError
            It can't be read, is damaged, or the signature is not that key's.
        """
        kit = read_document(path, cls, "kit", follow=follow)
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(kit.operator_key))
            public.verify(bytes.fromhex(kit.signature), kit.payload())
        except (InvalidSignature, ValueError) as error:
            raise KitError(
                f"{path} was changed after it was signed: have the kit sent again"
            ) from error
        try:
            kit.authority()
        except ValueError as error:
            raise KitError(f"{path} holds no CA certificate: have the kit sent again") from error
        return kit

    def write(self, path: Path) -> None:
        """Write the kit; the same one gives the same bytes."""
        write_document(path, self)

    def authority(self) -> x509.Certificate:
        """Return the CA's certificate."""
        return x509.load_pem_x509_certificate(self.ca.encode())

    def payload(self) -> bytes:
        """Return what the operator signs: every field but the signature."""
        return _PURPOSE + canonical(self.model_dump(mode="json", exclude={"signature"}))

    def check_time(self, now: datetime | None = None) -> None:
        """Refuse a kit whose time has not come or is over: it lasts as long as its CA.

        Raises
        ------
        KitError
            Says when it was issued, or when its CA expired.
        """
        now = now or datetime.now(UTC)
        if self.issued > now + CLOCK_SKEW_MAX:
            raise KitError(
                f"the kit was issued at {self.issued:%Y-%m-%d %H:%M} UTC, and this machine's clock "
                f"says {now:%Y-%m-%d %H:%M} UTC: set the clock"
            )
        check_certificate(self.authority(), "the kit's CA certificate", now)


def check_certificate(certificate: x509.Certificate, what: str, now: datetime) -> None:
    """Refuse a certificate whose time has not come or is over.

    Raises
    ------
    KitError
        Says what the certificate is, and since or until when it holds.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise KitError(f"{what} expired at {end:%Y-%m-%d %H:%M} UTC: the operator makes a new one")
    if now + CLOCK_SKEW_MAX < begin:
        raise KitError(
            f"{what} holds from {begin:%Y-%m-%d %H:%M} UTC on, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M} UTC: set the clock"
        )
