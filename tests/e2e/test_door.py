"""Who and what is kept out at either door, with real SuperLinks, SuperNodes and bundles."""

import re
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path

import psutil
import pytest
from flwr.common.constant import ErrorCode
from support.door import (
    IPFL,
    join,
    operator,
    refused_supernode,
    running_supernode,
    wait_until,
    write_app,
)

from ipfl_flower.cli.certs import make_node_key, make_server_certificates
from ipfl_flower.cli.node_keys import fingerprint, load_public_key

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FLOWER_SUPERNODE = Path(sysconfig.get_path("scripts")) / "flower-supernode"


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Give an operator whose SuperLink runs as long as this module's tests."""
    with operator(tmp_path_factory.mktemp("operator")) as running:
        yield running


def test_only_a_bundle_that_the_institution_allowed_runs_there(market, tmp_path):
    marker = tmp_path / "marker"
    app = write_app(tmp_path / "app", marker)
    institution = tmp_path / "alder"
    market.flower.register("alder", join(institution, market.fleet, market.ca))
    log = tmp_path / "log"
    with running_supernode(institution, log) as supernode:
        (refusal,) = market.play(app, tmp_path / "refused")
        assert refusal["code"] == ErrorCode.INVALID_FAB
        assert not marker.exists()
        # Operator and institution both read which bundle it was and what to do.
        (bundle,) = re.findall(r"ipfl allow DIR ([0-9a-f]{64})$", refusal["reason"])
        assert f"ipfl allow {institution} {bundle}\n" in log.read_text()

        subprocess.run([*IPFL, "allow", institution, bundle], check=True, timeout=60)
        assert supernode.poll() is None
        (reply,) = market.play(app, tmp_path / "answered")
        assert reply == {"said": f"unix://{institution}/trainer.sock"}
        assert marker.read_text() == "ran"

        started = psutil.Process(supernode.pid).children(recursive=True)
        # The SuperNode, the executor, and a client app that waits for the next message.
        supervised = {" ".join(process.cmdline()) for process in started}
        assert len(started) in (2, 3), supervised
        supernode.send_signal(signal.SIGTERM)
        assert supernode.wait(30) == 0
        # One that was killed may wait for the machine's first process to note it.
        left = [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert left == []
        assert "Traceback" not in log.read_text()


def test_an_unknown_key_is_refused_counted_and_named(market, tmp_path):
    before = market.refusals().get("unknown-key", 0)
    key = join(tmp_path / "stranger", market.fleet, market.ca).read_text()
    code, line = refused_supernode(tmp_path / "stranger")
    assert (code, line.count(fingerprint(load_public_key(key)))) == (10, 1)
    assert market.wait_for_refusal("unknown-key", before) == before + 1
    assert f"refused [unknown-key] {fingerprint(load_public_key(key))}" in market.printed


def test_a_stolen_name_with_another_key_is_refused_and_the_owner_is_not(market, tmp_path):
    (tmp_path / "owner").mkdir()
    (tmp_path / "thief").mkdir()
    market.flower.register("birch", join(tmp_path / "owner" / "birch", market.fleet, market.ca))
    stolen = join(tmp_path / "thief" / "birch", market.fleet, market.ca).read_text()
    before = market.refusals().get("unknown-key", 0)
    assert refused_supernode(tmp_path / "thief" / "birch")[0] == 10
    market.wait_for_refusal("unknown-key", before)
    assert f"refused [unknown-key] {fingerprint(load_public_key(stolen))}" in market.printed
    with running_supernode(tmp_path / "owner" / "birch", tmp_path / "log"):
        # The right key, but twice.
        before = market.refusals().get("key-in-use", 0)
        assert refused_supernode(tmp_path / "owner" / "birch")[0] == 10
        market.wait_for_refusal("key-in-use", before)


def test_a_wrong_ca_is_refused_at_the_institution_and_counted_at_the_operator(market, tmp_path):
    other = make_server_certificates(tmp_path / "other", ["127.0.0.1"])
    before = market.refusals().get("certificate", 0)
    join(tmp_path / "cedar", market.fleet, other.ca)
    code, line = refused_supernode(tmp_path / "cedar")
    assert code == 11
    assert str(tmp_path / "cedar" / "ca.pem") in line
    counted = market.wait_for_refusal("certificate", before)
    # Flower's own SuperNode just hangs up; that is seen, too.
    key = tmp_path / "key"
    make_node_key(key)
    ended = subprocess.run(
        [
            *(FLOWER_SUPERNODE, "--superlink", market.fleet, "--root-certificates", other.ca),
            *("--auth-supernode-private-key", key, "--isolation", "process", "--port", "19094"),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    market.wait_for_refusal("certificate", counted)
    assert "refused [certificate] 127.0.0.1:" in market.printed


def test_an_expired_certificate_is_told_at_both_ends(tmp_path):
    (tmp_path / "operator").mkdir()
    with operator(tmp_path / "operator", expired=True) as market:
        assert "server.pem expired on" in market.printed
        join(tmp_path / "elm", market.fleet, market.ca)
        code, line = refused_supernode(tmp_path / "elm")
        assert code == 12
        assert "has expired" in line
        market.wait_for_refusal("certificate", 0)


def test_an_institution_that_is_expelled_while_it_runs_is_told(market, tmp_path):
    market.flower.register("fir", join(tmp_path / "fir", market.fleet, market.ca))
    log = tmp_path / "log"
    with running_supernode(tmp_path / "fir", log) as supernode:
        node = re.findall(r"SuperNode ID: (\d+)", log.read_text())[0]
        market.group.run(
            "expel",
            [FLOWER_SUPERNODE.with_name("flwr"), "supernode", "unregister", node, "market"],
            timeout_s=60,
        )
        assert wait_until(supernode.poll, log.read_text()) == 10
    assert "no longer accepts this key" in log.read_text()


def test_a_health_check_of_the_fleet_port_is_no_refusal(market):
    host, _, port = market.fleet.rpartition(":")
    before = market.refusals()
    with socket.create_connection((host, int(port)), 5):
        pass
    # Afterwards comes one that is, and gRPC tells of them in turn.
    with socket.create_connection((host, int(port)), 5) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        counted = market.wait_for_refusal("not-tls", before.get("not-tls", 0))
    after = market.refusals()
    assert after == {**before, "not-tls": counted}


def test_the_superlink_ends_on_sigterm_with_its_own_exit_code(tmp_path):
    (tmp_path / "operator").mkdir()
    with operator(tmp_path / "operator") as market:
        (launcher,) = [
            process
            for process in psutil.Process().children()
            if str(tmp_path / "operator" / "superlink") in process.cmdline()
        ]
        (child,) = launcher.children()
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 128 + signal.SIGTERM, market.printed  # uvicorn's way out
        assert not child.is_running()
