"""The gRPC server around a trainer: where it listens, who may connect, and its health."""

import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ipfl_flower.trainer.service import TrainerService
from ipfl_flower.trainer_api import Address, AddressError, Tls
from ipfl_flower.trainer_api.client import MESSAGE_BYTES_MAX as CLIENT_MESSAGE_BYTES_MAX
from ipfl_flower.trainer_api.trainer_pb2_grpc import add_TrainerServicer_to_server

SERVICE = "ipfl.trainer.v1.Trainer"
# A header with its receipt, or a chunk: what one message of a client can make this process hold.
MESSAGE_BYTES_MAX = 4 << 20
_LAST_WORDS_S = 1.0

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", CLIENT_MESSAGE_BYTES_MAX),
    # Without this a second trainer on the same port would take half of the requests, silently.
    ("grpc.so_reuseport", 0),
    # A client whose machine vanishes without a word is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True)
class Listen:
    """Where to listen, and for whom.

    Attributes
    ----------
    address : Address
    tls : Tls, optional
        The trainer's certificate, and the authority of its clients' certificates.
    socket_group : str, optional
        The group whose members may use a Unix socket too.

    Raises
    ------
    AddressError
        The address can be reached from other machines and there is no TLS, or the options don't
        go together.
    """

    address: Address
    tls: Tls | None = None
    socket_group: str | None = None

    def __post_init__(self) -> None:
        if not self.address.local and self.tls is None:
            raise AddressError(
                f"{self.address} can be reached from other machines, where a trainer serves only "
                "clients that show a certificate: give --certificate, --key and --client-ca"
            )
        if self.address.socket is not None and self.tls is not None:
            raise AddressError("a Unix socket needs no TLS: leave the certificates out")
        if self.address.socket is None and self.socket_group is not None:
            raise AddressError("--socket-group is for a Unix socket: leave it out")


class Server:
    """A running server.

    Attributes
    ----------
    address : Address
        With the port that was chosen.
    """

    def __init__(self, server: grpc.aio.Server, address: Address, service: TrainerService) -> None:
        self.address = address
        self._server = server
        self._service = service
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def set_serving(self, *, serving: bool) -> None:
        """Set what the standard health service says."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def stop(self, grace_s: float) -> bool:
        """Begin nothing more, let what runs end, then stop; tell whether it has ended."""
        await self._health.enter_graceful_shutdown()
        ended = await self._service.close(grace_s)
        # Health watchers stay connected for ever: they get a moment.
        await self._server.stop(_LAST_WORDS_S if ended else 0)
        return ended


@asynccontextmanager
async def listening(service: TrainerService, listen: Listen) -> AsyncIterator[Server]:
    """Serve inside the context; health is NOT_SERVING until it is set.

    Raises
    ------
    AddressError
        It can't listen there, or a certificate is no good.
    """
    server = grpc.aio.server(options=_OPTIONS)
    add_TrainerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    address = _bind(server, listen)
    running = Server(server, address, service)
    await running.set_serving(serving=False)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(0)
        if address.socket is not None:
            address.socket.unlink(missing_ok=True)


def _bind(server: grpc.aio.Server, listen: Listen) -> Address:
    address = listen.address
    if address.socket is not None:
        _require_unused(address.socket)
        _bind_socket(server, address, address.socket, listen.socket_group)
        return address
    return Address(host=address.host, port=_add_port(server, address, listen.tls))


def _bind_socket(server: grpc.aio.Server, address: Address, path: Path, group: str | None) -> None:
    before = os.umask(0o177)  # there is no moment in which others can connect
    try:
        _add_port(server, address, None)
    finally:
        os.umask(before)
    if group is not None:
        try:
            shutil.chown(path, group=group)
            path.chmod(0o660)
        except (LookupError, OSError) as error:
            path.unlink(missing_ok=True)
            raise AddressError(
                f"{path} can't be given to group {group!r} ({error}): name a group of this user"
            ) from error


def _add_port(server: grpc.aio.Server, address: Address, tls: Tls | None) -> int:
    credentials = None
    if tls is not None:
        ca, certificate, key = tls.read()
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], ca, require_client_auth=True
        )
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise AddressError(
            f"can't listen on {address}: it is in use, not this machine's, or (TLS) certificate "
            "and key don't fit; end what listens there, or give another --listen"
        )
    return int(port)


def _require_unused(path: Path) -> None:
    """Refuse a path that a process listens on; gRPC itself would put its own socket there."""
    if not path.parent.is_dir():
        raise AddressError(f"{path.parent} is no folder: make it, or give another --listen")
    if path.exists() and not path.is_socket():
        raise AddressError(f"{path} is there and no socket: move it, or give another --listen")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise AddressError(f"another process listens on {path}: end it, or give another --listen")
