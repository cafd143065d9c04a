import os
from pathlib import Path

import pytest
from support.door import expire, join, tls_server

from ipfl_flower.cli import supernode as module
from ipfl_flower.cli.certs import make_node_key, make_server_certificates
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.greeting import Code, certificate_fault
from ipfl_flower.cli.processes import LaunchError, free_port
from ipfl_flower.cli.supernode import Executor, Heard, Institution, TrainerAddress


def fault(files, ca, host="127.0.0.1"):
    with tls_server(files) as port:
        return certificate_fault(f"{host}:{port}", ca)


def test_a_good_certificate_has_no_fault(tmp_path):
    files = make_server_certificates(tmp_path / "a", ["127.0.0.1"])
    assert fault(files, files.ca) is None


def test_a_certificate_of_another_ca_an_expired_one_and_one_for_another_name(tmp_path):
    files = make_server_certificates(tmp_path / "a", ["127.0.0.1"])
    other = make_server_certificates(tmp_path / "b", ["127.0.0.1"])
    named = make_server_certificates(tmp_path / "c", ["fleet.example"])
    old = make_server_certificates(tmp_path / "d", ["127.0.0.1"])
    expire(tmp_path / "d")
    found = [fault(files, other.ca), fault(old, old.ca), fault(named, named.ca)]
    assert [item.code for item in found] == [
        Code.WRONG_CA,
        Code.CERTIFICATE_EXPIRED,
        Code.WRONG_NAME,
    ]
    assert all("\n" not in item.line and "operator" in item.line for item in found)


def test_of_a_superlink_that_is_out_of_reach_nothing_is_known(tmp_path):
    files = make_server_certificates(tmp_path / "a", ["127.0.0.1"])
    with pytest.raises(OSError, match="refused"):
        certificate_fault(f"127.0.0.1:{free_port()}", files.ca)


def test_a_ca_that_is_no_certificate_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(LaunchError, match=r"ca\.pem is no certificate"):
        certificate_fault("127.0.0.1:1", tmp_path / "ca.pem")


def test_a_folder_is_read_and_what_is_missing_is_named(tmp_path):
    ca = make_server_certificates(tmp_path / "a", ["127.0.0.1"]).ca
    join(tmp_path / "alder", "fleet.example:9092", ca)
    institution = Institution.read(tmp_path / "alder")
    assert institution.fleet == "fleet.example:9092"
    assert institution.key.startswith("SHA256:")
    (tmp_path / "alder" / "allowed").unlink()
    with pytest.raises(LaunchError, match="allowed, which lists the app bundles"):
        Institution.read(tmp_path / "alder")
    (tmp_path / "alder" / "node.key").unlink()
    with pytest.raises(KitError, match=r"node\.key, the node key .* can't be read"):
        Institution.read(tmp_path / "alder")
    (tmp_path / "alder" / "kit.json").write_text("{}")
    with pytest.raises(KitError, match=r"kit\.json"):
        Institution.read(tmp_path / "alder")


@pytest.fixture
def alder(tmp_path):
    ca = make_server_certificates(tmp_path / "a", ["127.0.0.1"]).ca
    join(tmp_path / "alder", "fleet.example:9092", ca)
    return tmp_path / "alder"


def test_a_key_that_everybody_can_read_is_refused_and_a_mounted_one_is_not(alder):
    (alder / "node.key").chmod(0o440)  # as Kubernetes mounts a Secret
    Institution.read(alder)
    (alder / "node.key").chmod(0o604)
    with pytest.raises(KitError, match="can be read by others"):
        Institution.read(alder)


def test_a_key_or_a_ca_that_is_not_the_kits_is_refused(alder, tmp_path):
    own = (alder / "node.key").read_bytes()
    (alder / "node.key").unlink()
    make_node_key(alder / "node.key")
    with pytest.raises(LaunchError, match=r"kit\.json is for another key than"):
        Institution.read(alder)
    (alder / "node.key").write_bytes(own)
    other = make_server_certificates(tmp_path / "b", ["127.0.0.1"]).ca
    (alder / "ca.pem").write_bytes((alder / "ca.pem").read_bytes() + other.read_bytes())
    with pytest.raises(LaunchError, match=r"ca\.pem is not the CA of"):
        Institution.read(alder)


@pytest.mark.parametrize("address", ["", "bogus", "unix://trainer.sock", "gpu:99999"])
def test_a_trainer_that_has_no_address_is_refused(address):
    with pytest.raises(LaunchError, match="--trainer: address"):
        TrainerAddress(address).node_config()


def test_the_node_config_names_the_trainer_and_its_files():
    assert TrainerAddress("unix:///a b.sock").node_config() == 'trainer="unix:///a b.sock"'
    config = TrainerAddress("gpu:9095", Path("/c"), Path("/d"), Path("/k")).node_config()
    assert config == (
        'trainer="gpu:9095" trainer-ca="/c" trainer-certificate="/d" trainer-key="/k"'
    )


def test_half_of_the_files_for_tls_is_refused():
    with pytest.raises(LaunchError, match="--trainer-certificate, --trainer-key is missing"):
        TrainerAddress("gpu:9095", Path("/c")).node_config()


@pytest.mark.parametrize("address", ['a" b="c', "a\\b", "a\nb", "a'b"])
def test_an_address_cannot_smuggle_in_another_setting(address):
    with pytest.raises(LaunchError, match="has a quote, backslash or unprintable sign"):
        TrainerAddress(address).node_config()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("[code: 2004] Failed to activate SuperNode.", Code.KEY_REFUSED),
        ("ERROR :     Exit Code: 606", Code.INCOMPATIBLE),
        ("ERROR :     Exit Code: 305", None),
    ],
)
def test_error_codes_are_told_apart(line, code, capsys):
    heard = Heard()
    heard.read(line)
    found = heard.fault(Institution(Path("/d"), "fleet.example:9092", "SHA256:abc"))
    assert (found and found.code) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_an_executor_that_keeps_failing_is_given_up(tmp_path, capsys):
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}  # where flwr is a file that fails at once
    (tmp_path / "flwr.py").write_text("raise SystemExit(4)")
    executor = Executor(f"127.0.0.1:{free_port()}", tmp_path / "none", tmp_path, env)
    while executor.tend():
        pass
    assert executor.failed
    said = capsys.readouterr().err
    assert said.count("started again") == module.EXECUTOR_FAILURES_MAX - 1
    assert "giving up" in said
