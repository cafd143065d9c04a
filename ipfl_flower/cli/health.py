"""A container's health check: whether the process in it does what others wait for.

python -m ipfl_flower.cli.health superlink 127.0.0.1:9092 control:8000 --ca /certificates/ca.pem
python -m ipfl_flower.cli.health supernode /institution
python -m ipfl_flower.cli.health trainer unix:///run/ipfl/trainer.sock
python -m ipfl_flower.cli.health console 127.0.0.1:8080

It is started every few seconds, so it imports what the check needs and nothing else.
"""

import argparse
import http.client
import json
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DEADLINE_S: Final = 5.0
PROC: Final = Path("/proc")
_ESTABLISHED: Final = "01"
_LOOPBACK: Final = ("0100007F", "00000000000000000000000001000000")


class UnhealthyError(Exception):
    """What is wrong, in one line."""


def check_superlink(addresses: Sequence[str], ca: Path) -> None:
    """See that a certificate of `ca` that is valid now is shown at every address.

    Names are not compared: the check comes from inside, where institutions' names don't lead.

    Parameters
    ----------
    addresses : sequence of str
        HOST:PORT each.
    ca : Path
        The CA's certificate, PEM.

    Raises
    ------
    UnhealthyError
        Names the address, and why it doesn't do.
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), DEADLINE_S) as plain,
                context.wrap_socket(plain),
            ):
                pass
        except OSError as error:
            raise UnhealthyError(f"{address}: {error}") from error


def check_supernode(folder: Path, proc: Path = PROC) -> None:
    """See that something here has a connection to the fleet port that the kit in `folder` names.

    Parameters
    ----------
    folder : Path
        The institution's, with ``kit.json``.
    proc : Path
        The kernel's tables.

    Raises
    ------
    UnhealthyError
        There is no such connection, or no kit.
    """
    try:
        fleet = str(json.loads((folder / "kit.json").read_bytes())["fleet"])
        port = int(fleet.rpartition(":")[2])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnhealthyError(f"{folder / 'kit.json'} can't be read: {error}") from error
    for name in ("tcp", "tcp6"):
        table = proc / "net" / name
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, _, remote, state, *_ = line.split()
            host, _, remote_port = remote.partition(":")
            if state == _ESTABLISHED and int(remote_port, 16) == port and host not in _LOOPBACK:
                return
    raise UnhealthyError(f"no connection to the SuperLink, {fleet}")


def check_trainer(address: str, tls: Sequence[Path] | None = None) -> None:
    """Ask a trainer's gRPC health service.

    Parameters
    ----------
    address : str
        ``unix:///path`` or ``host:port``.
    tls : sequence of Path, optional
        CA, certificate and key of a client, PEM.

    Raises
    ------
    UnhealthyError
        It doesn't answer, or isn't serving (yet).
    """
    import grpc  # noqa: PLC0415  # the other checks need none of it
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    if tls is None:
        channel = grpc.insecure_channel(address)
    else:
        ca, certificate, key = (path.read_bytes() for path in tls)
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        channel = grpc.secure_channel(address, credentials)
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            raise UnhealthyError(f"{address}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise UnhealthyError(f"{address}: {status}")


def check_console(address: str, *, tls: bool = False) -> None:
    """Ask a console whether it can read its ledger.

    Parameters
    ----------
    address : str
        HOST:PORT of this machine, whose certificate is not looked at.
    tls : bool
        Whether it was given one.

    Raises
    ------
    UnhealthyError
        It doesn't answer, or can't read the ledger.
    """
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, timeout=DEADLINE_S, context=context)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        content = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise UnhealthyError(f"{address}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise UnhealthyError(f"{address}: {answer.status} {content}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; return the exit status: 0, or 1 after a line that says what is wrong."""
    given = _parser().parse_args(arguments)
    try:
        if given.role == "superlink":
            check_superlink(given.address, given.ca)
        elif given.role == "supernode":
            check_supernode(given.folder)
        elif given.role == "console":
            check_console(given.address, tls=given.tls)
        else:
            check_trainer(given.address, given.tls)
    except (OSError, UnhealthyError) as error:
        sys.stdout.write(f"{given.role}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ipfl_flower.cli.health")
    roles = parser.add_subparsers(dest="role", required=True)
    superlink = roles.add_parser("superlink")
    superlink.add_argument("address", nargs="+", help="HOST:PORT of each of its APIs")
    superlink.add_argument("--ca", type=Path, required=True, help="the CA's certificate, PEM")
    supernode = roles.add_parser("supernode")
    supernode.add_argument("folder", type=Path, help="the institution's, with kit.json")
    trainer = roles.add_parser("trainer")
    trainer.add_argument("address", help="unix:///path or HOST:PORT")
    trainer.add_argument(
        "--tls", type=Path, nargs=3, metavar=("CA", "CERTIFICATE", "KEY"), help="a client's, PEM"
    )
    console = roles.add_parser("console")
    console.add_argument("address", help="HOST:PORT")
    console.add_argument("--tls", action="store_true", help="it has a certificate")
    return parser


if __name__ == "__main__":
    sys.exit(main())
