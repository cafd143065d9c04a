import socket
import ssl
import subprocess
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server
from typer.testing import CliRunner

from ipfl_flower.cli import authority
from ipfl_flower.cli.authority import read_certificate
from ipfl_flower.cli.certs import ServerCertificates, make_node_key, make_server_certificates
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.main import cli


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_server_certificates(tmp_path_factory.mktemp("certs"), ["127.0.0.1", "localhost"])


def shake_hands(files, ca, name):
    """Do a real TLS handshake over a socket pair; return the client's protocol version."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(files.certificate, files.key)
    client_context = ssl.create_default_context(cafile=ca)
    left, right = socket.socketpair()

    def serve():
        try:
            with server_context.wrap_socket(left, server_side=True) as tls:
                tls.recv(1)
        except (ssl.SSLError, ConnectionError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_context.wrap_socket(right, server_hostname=name) as tls:
            tls.send(b"x")
            return tls.version()
    finally:
        right.close()
        thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_client_that_trusts_the_ca_reaches_the_server(files, name):
    assert shake_hands(files, files.ca, name) == "TLSv1.3"


def test_another_host_name_is_refused(files):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, files.ca, "elsewhere.example")


def test_another_ca_is_refused(files, tmp_path):
    other = make_server_certificates(tmp_path / "other", ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, other.ca, "localhost")


def test_private_keys_are_readable_by_their_owner_alone(files, tmp_path):
    make_node_key(tmp_path / "keys" / "elm")
    for key in (files.key, files.key.with_name("ca.key"), tmp_path / "keys" / "elm"):
        assert key.stat().st_mode & 0o077 == 0


def test_a_key_is_never_overwritten(tmp_path):
    make_node_key(tmp_path / "elm")
    with pytest.raises(FileExistsError):
        make_node_key(tmp_path / "elm")


def test_the_public_key_belongs_to_the_private_one(tmp_path):
    public = make_node_key(tmp_path / "elm")
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "elm"], capture_output=True, text=True, check=True
    )
    assert derived.stdout.split()[:2] == public.read_text().split()[:2]
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ")


# --- ipfl certs -----------------------------------------------------------------------------------


def ipfl_certs(*arguments):
    done = CliRunner().invoke(cli, ["certs", *(str(item) for item in arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def operator(tmp_path):
    folder = tmp_path / "operator"
    ipfl_certs("operator", folder, "--host", "market.example", "--host", "10.0.0.7")
    return ServerCertificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")


@pytest.mark.parametrize("name", ["market.example", "10.0.0.7", "127.0.0.1", "localhost"])
def test_the_operators_certificate_is_for_its_hosts_and_this_machine(operator, name):
    assert shake_hands(operator, operator.ca, name) == "TLSv1.3"


def test_the_operator_gets_a_secret_of_its_own(operator, tmp_path):
    folder = operator.ca.parent
    ipfl_certs("operator", tmp_path / "other", "--host", "x.example")
    secret, other = (path / "superexec.secret" for path in (folder, tmp_path / "other"))
    assert len(secret.read_text()) == 64
    assert secret.read_text() != other.read_text()
    for name in ("superexec.secret", "server.key", "ca.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("gone", ["ca.key", "ca.pem", "server.pem", "superexec.secret", None])
def test_nothing_is_overwritten(operator, gone):
    folder = operator.ca.parent
    if gone is not None:
        (folder / gone).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KitError, match="is there already"):
        ipfl_certs("operator", folder, "--host", "market.example")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_renewed_certificate_fits_the_key_and_the_ca_that_institutions_have(operator):
    before = operator.certificate.read_bytes(), operator.key.read_bytes(), operator.ca.read_bytes()
    ipfl_certs("operator", operator.ca.parent, "--renew", "--days", "30")
    after = operator.certificate.read_bytes(), operator.key.read_bytes(), operator.ca.read_bytes()
    assert (after[0] != before[0], after[1:]) == (True, before[1:])
    assert shake_hands(operator, operator.ca, "market.example") == "TLSv1.3"
    left = read_certificate(operator.certificate).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)


def test_renewing_can_name_other_hosts(operator):
    ipfl_certs("operator", operator.ca.parent, "--renew", "--host", "new.example")
    assert shake_hands(operator, operator.ca, "new.example") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(operator, operator.ca, "market.example")


def test_renewing_without_the_cas_key_says_so(operator, tmp_path):
    (operator.ca.parent / "ca.key").unlink()
    with pytest.raises(KitError, match=r"ca\.key, the CA's key, can't be read"):
        ipfl_certs("operator", operator.ca.parent, "--renew")
    ipfl_certs("operator", tmp_path / "other", "--host", "x.example")
    (operator.ca.parent / "ca.key").write_bytes((tmp_path / "other/ca.key").read_bytes())
    with pytest.raises(KitError, match="is not the key of"):
        ipfl_certs("operator", operator.ca.parent, "--renew")


def test_nothing_is_renewed_from_a_ca_that_has_expired(operator, tmp_path, monkeypatch):
    class LongAgo(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=authority.CA_DAYS + 1)

    with monkeypatch.context() as patch:
        patch.setattr(authority, "datetime", LongAgo)
        old = authority.Authority.make("old")
    assert old.certificate.not_valid_after_utc < datetime.now(UTC)
    operator.ca.write_bytes(authority.certificate_pem(old.certificate))
    operator.ca.with_name("ca.key").write_bytes(authority.private_pem(old.key))
    before = operator.certificate.read_bytes()
    with pytest.raises(KitError, match=r"the CA expired at .* UTC, .* in a new folder"):
        ipfl_certs("operator", operator.ca.parent, "--renew")
    assert operator.certificate.read_bytes() == before


def test_a_ca_of_ones_own_that_signs_with_rsa_is_told_apart(operator):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    operator.ca.with_name("ca.key").write_bytes(pem)
    with pytest.raises(KitError, match="is no key on an elliptic curve"):
        ipfl_certs("operator", operator.ca.parent, "--renew")


def test_the_ca_outlives_what_is_renewed_from_it(operator):
    ca, server = read_certificate(operator.ca), read_certificate(operator.certificate)
    assert ca.not_valid_after_utc - server.not_valid_after_utc > timedelta(days=3000)


@pytest.mark.parametrize(
    "host", ["https://market.example", "market.example:9092", "", "a b", "ä", "a..b", "a" * 64]
)
@pytest.mark.parametrize("side", ["operator", "trainer"])
def test_a_host_that_is_none_is_refused_before_anything_is_made(tmp_path, side, host):
    with pytest.raises(KitError, match="no host name or IP address"):
        ipfl_certs(side, tmp_path / "new", "--host", host)
    with pytest.raises(KitError, match="--host is missing"):
        ipfl_certs(side, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("renewed", [False, True])
def test_trainer_and_supernode_reach_each_other_with_their_certificates(tmp_path, renewed):
    folder, other = tmp_path / "alder", tmp_path / "birch"
    for made in (folder, other):
        ipfl_certs("trainer", made, "--host", "localhost")
    if renewed:
        ipfl_certs("trainer", folder, "--renew")
    ca, certificate, key = (
        (folder / f"{name}").read_bytes() for name in ("ca.pem", "trainer.pem", "trainer.key")
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_secure_port(
        "localhost:0", grpc.ssl_server_credentials([(key, certificate)], ca, True)
    )
    server.start()
    try:
        asked = HealthCheckRequest()
        assert ask(port, folder, asked).status == 1
        with pytest.raises(grpc.RpcError):
            ask(port, other, asked)
    finally:
        server.stop(0)


def ask(port, folder, request):
    """Ask the server as the SuperNode that has the certificates in `folder`."""
    files = ((folder / name).read_bytes() for name in ("ca.pem", "supernode.key", "supernode.pem"))
    credentials = grpc.ssl_channel_credentials(*files)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        return HealthStub(channel).Check(request, timeout=10)
