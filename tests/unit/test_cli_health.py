"""Health checks against real sockets: what is well, and what is not."""

import socket
import ssl
import threading
from concurrent import futures

import grpc
import pytest
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ipfl_flower.cli.certs import make_server_certificates
from ipfl_flower.cli.health import UnhealthyError, check_supernode, check_trainer, main
from ipfl_flower.console.access import Gate
from ipfl_flower.console.app import make_app
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger

HEADER = "  sl  local_address rem_address   st\n"


@pytest.fixture
def tls_server(tmp_path):
    """Serve TLS handshakes on a port of loopback; give the address and the files."""
    files = make_server_certificates(tmp_path / "own", ["superlink"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1)
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", files
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)


def test_a_superlink_is_well_when_it_shows_a_certificate_of_the_ca(tls_server):
    address, files = tls_server
    assert main(["superlink", address, address, "--ca", str(files.ca)]) == 0


def test_a_superlink_with_a_certificate_of_another_ca_is_not_well(tls_server, tmp_path, capsys):
    address, _ = tls_server
    other = make_server_certificates(tmp_path / "other", ["superlink"])
    assert main(["superlink", address, "--ca", str(other.ca)]) == 1
    assert address in capsys.readouterr().out


def test_a_superlink_that_does_not_listen_is_not_well(tls_server, capsys):
    address, files = tls_server
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    assert main(["superlink", address, closed, "--ca", str(files.ca)]) == 1
    assert f"{closed}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "well"),
    [
        ("0: 0200000A:C350 0300000A:2384 01", True),
        ("0: 0200000A:C350 0300000A:2384 02", False),  # still knocking
        ("0: 0200000A:C350 0300000A:2385 01", False),  # another port
        ("0: 0100007F:C350 0100007F:2384 01", False),  # its own machine
    ],
)
def test_a_supernode_is_well_while_it_is_connected_to_the_fleet_port(tmp_path, line, well):
    (tmp_path / "kit.json").write_text('{"fleet": "superlink:9092"}')
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(f"{HEADER}{line} rest\n")
    if well:
        check_supernode(tmp_path, tmp_path)
    else:
        with pytest.raises(UnhealthyError, match="no connection to the SuperLink, superlink:9092"):
            check_supernode(tmp_path, tmp_path)


def test_a_supernode_without_a_kit_is_not_well(tmp_path, capsys):
    assert main(["supernode", str(tmp_path)]) == 1
    assert "kit.json" in capsys.readouterr().out


def test_a_trainer_is_well_once_it_serves(tmp_path, capsys):
    address = f"unix://{tmp_path}/t.sock"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert main(["trainer", address]) == 1
        assert "NOT_SERVING" in capsys.readouterr().out
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        check_trainer(address)
    finally:
        server.stop(None).wait(5)


def test_a_trainer_that_is_not_there_is_not_well(tmp_path, capsys):
    assert main(["trainer", f"unix://{tmp_path}/none.sock"]) == 1
    assert "none.sock" in capsys.readouterr().out


@pytest.fixture
def console(tmp_path):
    """Serve a console's app, with TLS; give the address, and the follower that it reads by."""
    files = make_server_certificates(tmp_path / "tls", ["console"])
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        follower = Follower(ledger, str(tmp_path / "ledger.db"), verify=False)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(
                make_app(Gate(["0" * 64]), follower),
                log_level="error",
                ws="none",
                ssl_certfile=files.certificate,
                ssl_keyfile=files.key,
            )
            server = uvicorn.Server(config)
            server.install_signal_handlers = lambda: None
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            yield f"127.0.0.1:{listener.getsockname()[1]}", follower
            server.should_exit = True
            thread.join(timeout=10)


def test_a_console_is_well_while_it_can_read_its_ledger(console, capsys):
    address, follower = console
    assert main(["console", address, "--tls"]) == 0
    follower.failure = "the disk is gone"
    assert main(["console", address, "--tls"]) == 1
    assert "503" in capsys.readouterr().out


def test_a_console_is_asked_in_plain_http_unless_it_has_tls(console, capsys):
    address, _ = console
    assert main(["console", address]) == 1
    assert address in capsys.readouterr().out


def test_a_console_that_does_not_listen_is_not_well(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    assert main(["console", closed]) == 1
    assert closed in capsys.readouterr().out
