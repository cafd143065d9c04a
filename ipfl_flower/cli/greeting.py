"""What an institution sees of the operator's certificate, before Flower starts or after it ended.

Flower's SuperNode says of every failed handshake the same, and tries for ever where the host's
name is wrong. A handshake of our own tells what is wrong, and the SuperLink's side of it is told.
"""

import socket
import ssl
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cryptography import x509

from ipfl_flower.cli.processes import LaunchError

CONNECT_S = 5.0


class Code(IntEnum):
    """Exit codes of ``ipfl supernode``, beside 0, 1 and Flower's own."""

    KEY_REFUSED = 10
    WRONG_CA = 11
    CERTIFICATE_EXPIRED = 12
    WRONG_NAME = 13
    INCOMPATIBLE = 14
    CLOCK = 15


@dataclass(frozen=True)
class Fault:
    """What is wrong at the door, and what to do: `code` is exited with, `line` is said."""

    code: Code
    line: str


# OpenSSL's X509_V_ERR_…, by name in its x509_vfy.h.
_NOT_YET_VALID = {9}
_EXPIRED = {10}
_NAME_MISMATCH = {62, 64}


def certificate_fault(fleet: str, ca: Path) -> Fault | None:
    """Return what is wrong with the SuperLink's certificate, or None if it is fine.

    Parameters
    ----------
    fleet : str
        HOST:PORT of the SuperLink's fleet API.
    ca : Path
        PEM, the certificate that the SuperLink's is checked against.

    Raises
    ------
    LaunchError
        If `ca` is no certificate.
    OSError
        If the SuperLink can't be reached: nothing is known of its certificate.
    """
    try:
        shown_certificate(fleet, ca)
    except ssl.SSLCertVerificationError as error:
        return _fault(fleet, ca, error)
    return None


def shown_certificate(
    address: str, ca: Path, own: tuple[Path, Path] | None = None
) -> x509.Certificate:
    """Return the certificate that a server shows, if it is good.

    Parameters
    ----------
    address : str
        HOST:PORT.
    ca : Path
        PEM, the certificate that the server's is checked against.
    own : (Path, Path), optional
        Certificate and key to show in turn, PEM.

    Raises
    ------
    LaunchError
        If `ca` is no certificate, or `own` no certificate and its key.
    ssl.SSLCertVerificationError
        If the server's certificate is not good: `certificate_code` tells why.
    OSError
        If nothing is known of it: the server can't be reached, or ends the handshake.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise LaunchError(
            f"{ca} is no certificate in PEM: run ipfl join with the kit again"
        ) from error
    if own is not None:
        try:
            context.load_cert_chain(*own)
        except ssl.SSLError as error:
            raise LaunchError(f"{own[0]} and {own[1]} are no certificate and its key") from error
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), CONNECT_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    if shown is None:  # Not while verification is on.
        raise LaunchError(f"{address} showed no certificate")
    return x509.load_der_x509_certificate(shown)


def certificate_code(error: ssl.SSLCertVerificationError) -> Code:
    """Return which of the four ways to be no good certificate it is."""
    if error.verify_code in _EXPIRED:
        return Code.CERTIFICATE_EXPIRED
    if error.verify_code in _NOT_YET_VALID:
        return Code.CLOCK
    if error.verify_code in _NAME_MISMATCH:
        return Code.WRONG_NAME
    return Code.WRONG_CA


def _fault(fleet: str, ca: Path, error: ssl.SSLCertVerificationError) -> Fault:
    why, code = error.verify_message, certificate_code(error)
    if code is Code.CERTIFICATE_EXPIRED:
        return Fault(
            code,
            f"the certificate of the SuperLink at {fleet}, or of its CA in {ca}, has expired "
            f"({why}): ask the operator to renew it (ipfl certs operator DIR --renew)",
        )
    if code is Code.CLOCK:
        return Fault(
            code,
            f"the certificate of the SuperLink at {fleet} is not valid yet ({why}): "
            f"set this machine's clock, or ask the operator to set his",
        )
    if code is Code.WRONG_NAME:
        return Fault(
            code,
            f"the certificate of the SuperLink at {fleet} is for another name ({why}): "
            f"ask the operator for a certificate for that name, or a kit with the right address",
        )
    return Fault(
        code,
        f"the certificate of the SuperLink at {fleet} is not signed by the CA in {ca} ({why}): "
        f"somebody else listens there, or the operator has a new CA: ask him for a new kit",
    )
