"""Whether an address is reached, and whether the certificate that is shown there is good."""

import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from ipfl_flower.cli.doctoring.finding import NotKnownError, Verdict, fail, ok, warn
from ipfl_flower.cli.greeting import CONNECT_S, Code, certificate_code, shown_certificate
from ipfl_flower.cli.superlink import WARN_DAYS


def reached(host: str, port: int, start: str) -> Verdict:
    """Tell whether a host name resolves, and whether something listens there.

    Parameters
    ----------
    host : str
    port : int
    start : str
        What makes something listen there.
    """
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return fail(
            f"{host} does not resolve ({error.strerror}): correct the name, the DNS or /etc/hosts"
        )
    addresses = ", ".join(dict.fromkeys(str(item[4][0]) for item in found))
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except TimeoutError:
        return fail(
            f"{where} ({addresses}) does not answer within {CONNECT_S:g} s: a firewall is in "
            "between, or the address is wrong"
        )
    except ConnectionRefusedError:
        return fail(f"nothing listens at {where} ({addresses}): {start}")
    except OSError as error:
        return fail(f"{where} ({addresses}) can't be reached ({error}): correct the route to it")
    return ok(f"{where} ({addresses}) is reached")


def trusted(
    address: str, ca: Path, fixes: Mapping[Code, str], own: tuple[Path, Path] | None = None
) -> Verdict:
    """Tell whether a server's certificate is good, for its name, and for how long.

    Parameters
    ----------
    address : str
        HOST:PORT.
    ca : Path
        PEM, what the certificate is checked against.
    fixes : mapping of Code to str
        What to do about each way of being no good certificate.
    own : (Path, Path), optional
        Certificate and key to show in turn.

    Raises
    ------
    NotKnownError
        The server can't be reached, or ends the handshake.
    """
    try:
        certificate = shown_certificate(address, ca, own)
    except ssl.SSLCertVerificationError as error:
        fix = fixes[certificate_code(error)]
        return fail(
            f"the certificate shown at {address} is refused ({error.verify_message}): {fix}"
        )
    except ssl.SSLError as error:
        why = error.reason or "no TLS"
        return fail(f"{address} ends the TLS handshake ({why}): something else listens there")
    except OSError as error:
        raise NotKnownError(f"{address} can't be reached ({error})") from error
    return lasting(certificate, f"the certificate shown at {address}, good by {ca.name},", fixes)


def lasting(certificate: x509.Certificate, what: str, fixes: Mapping[Code, str]) -> Verdict:
    """Tell for how long a certificate is good yet."""
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    fix = fixes[Code.CERTIFICATE_EXPIRED]
    if end <= now:
        return fail(f"{what} expired on {end:%Y-%m-%d %H:%M} UTC: {fix}")
    if certificate.not_valid_before_utc > now:
        begin = certificate.not_valid_before_utc
        return fail(f"{what} holds from {begin:%Y-%m-%d %H:%M} UTC on: {fixes[Code.CLOCK]}")
    line = f"{what} expires in {(end - now).days} days"
    return ok(line) if end - now >= timedelta(days=WARN_DAYS) else warn(f"{line}: {fix}")
