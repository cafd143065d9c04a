import socket
import ssl
import subprocess
import threading

import pytest

from ipfl_flower.cli.certs import make_node_key, make_server_certificates


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
