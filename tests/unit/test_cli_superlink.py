import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ipfl_flower.cli import superlink as module
from ipfl_flower.cli.certs import make_server_certificates
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.refusals import Refusals
from ipfl_flower.cli.superlink import CertificateWatch, Door, expiry_line, run_superlink
from ipfl_flower.cli.superlink_command import superlink_command


@pytest.fixture
def certificate(tmp_path):
    return make_server_certificates(tmp_path / "certificates", ["127.0.0.1"]).certificate


@pytest.mark.parametrize(
    ("days", "said"),
    [(300, None), (336, "expires in 28 days"), (364.5, "expires in 0 days"), (366, "expired on")],
)
def test_a_warning_comes_a_month_before_the_certificate_expires(certificate, days, said):
    line = expiry_line(certificate, datetime.now(UTC) + timedelta(days=days))
    assert line is None if said is None else said in line


def test_the_warning_is_said_once_a_day(certificate, monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "WARN_DAYS", 400)
    watch = CertificateWatch(certificate)
    watch.remind()
    watch.remind()
    assert capsys.readouterr().err.count("expires in") == 1
    now += module.DAY_S
    watch.remind()
    assert capsys.readouterr().err.count("expires in") == 1


def test_a_certificate_that_is_gone_for_a_moment_ends_nothing(tmp_path, capsys):
    CertificateWatch(tmp_path / "server.pem").remind()
    assert "server.pem" in capsys.readouterr().err


def test_what_is_no_certificate_is_named(tmp_path):
    (tmp_path / "server.pem").write_text("nothing")
    with pytest.raises(LaunchError, match=r"server\.pem is no PEM certificate"):
        expiry_line(tmp_path / "server.pem", datetime.now(UTC))


def test_a_missing_file_is_named_before_anything_starts(tmp_path, certificate):
    with pytest.raises(LaunchError, match=r"superexec\.secret is missing or unreadable"):
        run_superlink(tmp_path / "dir", certificate.parent, "127.0.0.1:9092", "127.0.0.1", 8000)
    assert not (tmp_path / "dir").exists()


def test_the_door_says_what_flower_says_and_swallows_traces(tmp_path, capsys):
    door = Door(Refusals(tmp_path / "refusals.json", print))
    door.read("INFO :      Starting Flower SuperLink")
    door.read("I1126 00:43:06.940100   26233 trace.cc:91] gRPC Tracers: handshaker, tsi")
    door.read("ERROR : [/flwr.proto.Fleet/RegisterNode][ApiError:2001] Attempted to register")
    printed = capsys.readouterr()
    assert printed.err == "INFO :      Starting Flower SuperLink\n"
    assert printed.out.startswith("ipfl: refused [no-key] somebody: ")


def test_the_superlink_isolates_authenticates_and_keeps_its_secret_in_a_file():
    command = superlink_command(
        certificates=Path("/c"),
        database=Path("/d/superlink.db"),
        fleet_address="0.0.0.0:9092",
        host="127.0.0.1",
        port=8000,
    )
    text = json.dumps([str(part) for part in command])
    for needed in (
        '"--isolation", "process"',
        '"--enable-supernode-auth"',
        '"--superexec-auth-secret-file", "/c/superexec.secret"',
        '"--ssl-keyfile", "/c/server.key"',
        '"--disable-runtime-dependency-installation"',
    ):
        assert needed in text
