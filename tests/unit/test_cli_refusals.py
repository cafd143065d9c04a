import json
import os
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipfl_flower.cli import refusals as module
from ipfl_flower.cli.child import Child, Stop, wait
from ipfl_flower.cli.handshakes import Handshakes
from ipfl_flower.cli.refusals import LAST_MAX, Kind, Refusal, Refusals, refused_node
from ipfl_flower.cli.superlink import Door

# As flwr 1.39 prints them.
PEM = (
    r"b'-----BEGIN PUBLIC KEY-----"
    r"\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEj44aD//x6ZJJgOej0RJdQ8pwDze45lDZ"
    r"\nWM6kvYY2K3p+nDq6BtPWuayU1lBlfLf++aNvPtgNzKDBKdT6QVvqBRs+QkEQrWhI"
    r"\nHfAXB0ka+FDS79jnrzcApHfOzHQUQk93\n-----END PUBLIC KEY-----\n'"
)
BEGIN = "\x1b[91mERROR \x1b[0m:     [/flwr.proto.Fleet/"
TRIED = f"Attempted to register SuperNode with public key: {PEM}"
UNKNOWN = (
    f"{BEGIN}ActivateNode][ApiError:2004] {TRIED}, exception: "
    f"No SuperNode found with the given public key."
)
IN_USE = (
    f"{BEGIN}ActivateNode][ApiError:2004] {TRIED}, exception: "
    f"SuperNode with node ID 16629416171957366727 could not be activated."
)
NO_KEY = f"{BEGIN}RegisterNode][ApiError:2001] {TRIED}"

# As gRPC 1.81 prints them, but for the many arguments.
AT = "I1126 00:43:08.073854   26238"
CERTIFICATE_SENT = (
    f"{AT} ssl_transport_security.cc:979]     LOOP - TLS server cert_callback  - !!!!!!"
)
DONE = f"{AT} ssl_transport_security.cc:979]       HANDSHAKE DONE - TLS server done  - !!!!!!"
BEGUN = (
    f"{AT} handshaker.cc:155] CallNextHandshakerLocked: error=OK shutdown=false index=1, "
    "args={endpoint=0x7f, args={grpc.internal.endpoint_peer_address=ipv4:10.1.2.3:4711}}"
)


def failed(error, peer="ipv4:10.1.2.3:4711"):
    return [
        f"{AT} handshaker.cc:155] CallNextHandshakerLocked: error={error}",
        "=== Source Location Trace: ===",
        "src/core/util/status_helper.cc:124",
        f" shutdown=false index=2, args={{args={{grpc.internal.endpoint_peer_address={peer}}}}}",
        f"{AT} channel_trace.h:396] handshake manager 0x7f: Failed with error: {error}",
        "=== Source Location Trace: ===",
        "src/core/util/status_helper.cc:124",
        "",
    ]


HUNG_UP = "UNAVAILABLE: Handshake read failed (Socket closed)"


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands still until it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def tell(lines):
    handshakes = Handshakes()
    swallowed = [line for line in lines if handshakes.is_trace(line)]
    assert swallowed == list(lines)
    return [found for line in lines if (found := handshakes.read(line))]


@pytest.mark.parametrize(
    ("line", "kind"),
    [(UNKNOWN, Kind.UNKNOWN_KEY), (IN_USE, Kind.KEY_IN_USE), (NO_KEY, Kind.NO_KEY)],
)
def test_flowers_errors_are_told_apart_and_name_the_key(line, kind):
    # ssh-keygen -l says the same of this key.
    expected = "SHA256:0TSZRq1n6YoC0n6ZWZRazQEOcyNWEGTmttW1kK/tDMM"
    assert refused_node(line) == Refusal(kind, expected)


@pytest.mark.parametrize(
    "line",
    [
        "INFO :      [Fleet.ActivateNode] Activated node_id=1",
        f"{BEGIN}ActivateNode][ApiError:2004] heartbeat",
        "No SuperNode found with the given public key.",
        "",
    ],
)
def test_other_lines_are_no_refusals(line):
    assert refused_node(line) is None


def test_a_key_that_cannot_be_read_is_counted_all_the_same():
    refusal = refused_node(UNKNOWN.replace("MHYw", "////"))
    assert refusal.kind == Kind.UNKNOWN_KEY
    assert refusal.who.startswith("no EC key")


@pytest.mark.parametrize("curve", [ec.SECP256K1, ec.SECP224R1, ec.BrainpoolP384R1])
def test_a_strangers_key_of_any_curve_is_counted(curve):
    pem = ec.generate_private_key(curve()).public_key()
    pem = pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    refusal = refused_node(UNKNOWN.replace(PEM, repr(pem)))
    assert refusal.kind == Kind.UNKNOWN_KEY
    assert refusal.who.startswith("no EC key of OpenSSH's, ")


def test_a_strangers_key_of_another_curve_does_not_silence_the_log(tmp_path, capsys):
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    lines = [UNKNOWN.replace(PEM, repr(pem)), IN_USE, "served"]
    refusals = Refusals(tmp_path / "refusals.json", print)
    code = "import sys; print(*sys.argv[1:], sep='\\n')"
    with Child([sys.executable, "-c", code, *lines], os.environ, Door(refusals).read) as child:
        assert wait(child, Stop(), lambda: None) == 0
    refusals.flush(force=True)
    counts = json.loads((tmp_path / "refusals.json").read_text())["counts"]
    assert (counts["unknown-key"], counts["key-in-use"]) == (1, 1)
    assert capsys.readouterr().err == "served\n"


def test_who_hangs_up_on_our_certificate_refused_it():
    assert tell([BEGUN, CERTIFICATE_SENT, *failed(HUNG_UP)]) == [
        Refusal(Kind.CERTIFICATE, "10.1.2.3:4711")
    ]


def test_who_hangs_up_before_saying_anything_is_a_health_check():
    assert tell([BEGUN, *failed(HUNG_UP), BEGUN, CERTIFICATE_SENT, DONE, *failed(HUNG_UP)]) == []


def test_who_speaks_no_tls_is_told_apart():
    error = "UNKNOWN: Ssl handshake failed: OPENSSL_internal:WRONG_VERSION_NUMBER: OK"
    assert tell([BEGUN, *failed(error)]) == [Refusal(Kind.NOT_TLS, "10.1.2.3:4711")]


def test_other_failures_keep_what_the_library_said():
    error = "UNKNOWN: Ssl handshake failed: OPENSSL_internal:UNSUPPORTED_PROTOCOL: OK"
    (refusal,) = tell([BEGUN, *failed(error, "ipv6:%5B::1%5D:4711")])
    assert (refusal.kind, refusal.who) == (Kind.HANDSHAKE, "%5B::1%5D:4711")
    assert "UNSUPPORTED_PROTOCOL" in refusal.line()


@pytest.mark.parametrize(
    "line",
    [
        UNKNOWN,
        "",
        " shutdown=false",
        "src/core/ is a folder",
        f"{AT} fork_posix.cc:75] Other threads are currently calling into gRPC",
        "2026-11-26T00:31:43.038Z INFO [uvicorn.error] Waiting for application startup.",
    ],
)
def test_lines_that_no_tracer_printed_are_not_swallowed(line):
    handshakes = Handshakes()
    assert not handshakes.is_trace(line)
    # Neither right after a tracer's.
    for trace in failed(HUNG_UP):
        handshakes.is_trace(trace)
    if line.strip() and not line.startswith((" shutdown", "src/core")):
        assert not handshakes.is_trace(line)


def test_counts_are_written_and_gone_on_with(tmp_path, clock):
    file = tmp_path / "refusals.json"
    refusals = Refusals(file, lambda line: None)
    refusals.note(Refusal(Kind.UNKNOWN_KEY, "SHA256:a"))
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:1"))
    refusals.flush()
    first = json.loads(file.read_text())
    again = Refusals(file, lambda line: None)
    again.note(Refusal(Kind.UNKNOWN_KEY, "SHA256:b"))
    again.flush()
    content = json.loads(file.read_text())
    assert content["since"] == first["since"]
    assert content["counts"] == {**dict.fromkeys(Kind, 0), "unknown-key": 2, "not-tls": 1}
    assert [item["who"] for item in content["last"]] == ["SHA256:a", "10.0.0.1:1", "SHA256:b"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_file_is_written_once_a_second_at_most_and_at_the_end(tmp_path, clock):
    file = tmp_path / "refusals.json"
    refusals = Refusals(file, lambda line: None)
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:1"))
    refusals.flush()
    file.unlink()
    refusals.flush()
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:2"))
    refusals.flush()
    assert not file.exists()
    clock.now += 1
    refusals.flush()
    assert json.loads(file.read_text())["counts"]["not-tls"] == 2
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:3"))
    refusals.flush(force=True)
    assert json.loads(file.read_text())["counts"]["not-tls"] == 3


def test_a_disk_that_is_full_is_said_and_tried_again_a_minute_later(tmp_path, clock):
    said = []
    folder = tmp_path / "dir"
    folder.write_text("no folder: nothing can be written in it")
    refusals = Refusals(folder / "refusals.json", said.append)
    refusals.note(Refusal(Kind.NO_KEY, ""))
    refusals.flush()
    refusals.flush()
    assert [line for line in said if "can't be written" in line] == said[1:]
    assert len(said) == 2
    folder.unlink()
    clock.now += module.QUIET_S
    refusals.flush()
    assert json.loads((folder / "refusals.json").read_text())["counts"]["no-key"] == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"since": 1, "counts": [], "last": []}', '{"counts": {"a": "b"}}']
)
def test_a_damaged_file_is_begun_anew(tmp_path, content):
    file = tmp_path / "refusals.json"
    file.write_text(content)
    refusals = Refusals(file, lambda line: None)
    refusals.note(Refusal(Kind.NO_KEY, ""))
    refusals.flush()
    assert json.loads(file.read_text())["counts"]["no-key"] == 1


def test_the_same_is_said_once_a_minute_and_then_how_often(tmp_path, clock):
    said = []
    refusals = Refusals(tmp_path / "refusals.json", said.append)
    for port in range(50):  # every attempt comes from another port
        refusals.note(Refusal(Kind.NOT_TLS, f"10.0.0.1:{port}"))
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.2:1"))
    assert [line.split(":")[1] for line in said] == [
        " refused [not-tls] 10.0.0.1",
        " refused [not-tls] 10.0.0.2",
    ]
    clock.now += module.QUIET_S
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:99"))
    assert said[2].endswith("and 49 times more since it was last said")


def test_a_flood_takes_bounded_memory_and_a_bounded_file(tmp_path, clock):
    refusals = Refusals(tmp_path / "refusals.json", lambda line: None)
    for number in range(module.WHO_MAX + 50):
        refusals.note(Refusal(Kind.UNKNOWN_KEY, f"SHA256:{number}"))
    refusals.flush()
    assert len(refusals._said) == module.WHO_MAX
    content = json.loads((tmp_path / "refusals.json").read_text())
    assert len(content["last"]) == LAST_MAX
    assert content["counts"]["unknown-key"] == module.WHO_MAX + 50
