"""A certificate authority of a market's operator, or of an institution: ca.pem and ca.key."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipfl_flower.cli.documents import KitError, read_file

VALID_DAYS: Final = 365
# Institutions have it in their kits: it outlives the certificates that are renewed from it.
CA_DAYS: Final = 3650

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"


@dataclass(frozen=True)
class Authority:
    """Issues certificates.

    Attributes
    ----------
    certificate : x509.Certificate
        Its own, which is handed out.
    key : EllipticCurvePrivateKey
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str) -> Self:
        """Make an authority that is valid for ten years."""
        key = new_key()
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), _days(CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA384())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the authority that lies in a folder.

        Raises
        ------
        KitError
            A file is missing or damaged, or the key isn't the certificate's.
        """
        certificate = read_certificate(folder / "ca.pem")
        path = folder / "ca.key"
        content = read_file(path, "CA's key")
        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KitError(f"{path} holds no private key: restore it from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KitError(
                f"{path} is no key on an elliptic curve, and ipfl certs signs with no other: "
                "renew the certificate as it was made"
            )
        if key.public_key() != certificate.public_key():
            raise KitError(f"{path} is not the key of {folder / 'ca.pem'}: restore both")
        return cls(certificate, key)

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        hosts: Sequence[str] = (),
        *,
        days: int = VALID_DAYS,
    ) -> x509.Certificate:
        """Issue a server's certificate for `hosts`, or a client's for none.

        Parameters
        ----------
        name : str
            The certificate's common name.
        key : EllipticCurvePublicKey
        hosts : sequence of str
            Host names and IP addresses under which the server is reached.
        days : int
            How long it holds; no longer than the authority.

        Raises
        ------
        KitError
            The authority's own certificate has expired.
        """
        last = self.certificate.not_valid_after_utc
        if last <= datetime.now(UTC):
            raise KitError(
                f"the CA expired at {last:%Y-%m-%d %H:%M} UTC, and nothing can be renewed from it: "
                "make a new one, in a new folder"
            )
        end = min(_days(days), last)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        names = [_san(host) for host in hosts] or [x509.DNSName(name)]
        issuer = self.certificate.subject
        return (
            _builder(_name(name), issuer, key, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA384())
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key for a certificate."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM.

    Raises
    ------
    KitError
        The file can't be read, or holds none.
    """
    content = read_file(path, "certificate")
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise KitError(
            f"{path} holds no certificate in PEM: restore it, or make new ones"
        ) from error


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """List the host names and IP addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def is_host(text: str) -> bool:
    """Tell whether a text is a host's name or its IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", text) is not None
    return True


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is for a host name or IP address, as TLS clients do."""
    try:
        return str(ipaddress.ip_address(host)) in hosts_of(certificate)
    except ValueError:
        names = {name.lower() for name in hosts_of(certificate)}
        _, _, domain = host.lower().partition(".")
        return host.lower() in names or f"*.{domain}" in names


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks differ a little between institutions.
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(end)
    )


def _days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
