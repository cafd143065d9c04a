"""Addresses, certificates and clocks, against real sockets, real certificates and a real gRPC."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta

import grpc
import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from support.door import expire, tls_server

from ipfl_flower.cli.authority import Authority
from ipfl_flower.cli.certs import make_server_certificates
from ipfl_flower.cli.doctoring import network
from ipfl_flower.cli.doctoring.clock import judge_skew, measure_skew
from ipfl_flower.cli.doctoring.finding import NotKnownError, State
from ipfl_flower.cli.doctoring.fleet import FleetAnswer, ask_fleet, judge_key
from ipfl_flower.cli.doctoring.network import lasting, reached, trusted
from ipfl_flower.cli.greeting import Code
from ipfl_flower.cli.processes import free_port

FIXES = {code: f"the fix of {code.name}" for code in Code}


# --- addresses ------------------------------------------------------------------------------------


def test_an_address_at_which_something_listens_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = reached("localhost", port, "start it")
    assert found.state is State.OK
    assert f"localhost:{port}" in found.line
    assert "127.0.0.1" in found.line


def test_where_nothing_listens_it_is_said_what_starts_it():
    found = reached("127.0.0.1", free_port(), "start the SuperLink")
    assert found.state is State.FAIL
    assert found.line.endswith("start the SuperLink")


def test_a_name_that_does_not_resolve_is_told_from_a_host_that_is_down():
    found = reached("no-such-host.invalid", 9092, "start it")
    assert found.state is State.FAIL
    assert "no-such-host.invalid does not resolve" in found.line


def test_a_host_that_does_not_answer_is_behind_a_firewall(monkeypatch):
    monkeypatch.setattr(network, "CONNECT_S", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # The queue of those that wait to be accepted is full after one.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        found = reached(*listener.getsockname(), "start it")
        for one in waiting:
            one.close()
    assert found.state is State.FAIL
    assert "firewall" in found.line


# --- certificates ---------------------------------------------------------------------------------


def shown(files, ca):
    with tls_server(files) as port:
        return trusted(f"127.0.0.1:{port}", ca, FIXES)


@pytest.fixture
def files(tmp_path):
    return make_server_certificates(tmp_path / "market", ["127.0.0.1"])


def test_a_good_certificate_says_how_long_it_lasts(files):
    found = shown(files, files.ca)
    assert found.state is State.OK
    assert "expires in 364 days" in found.line


def test_a_certificate_that_soon_expires_is_a_warning(files):
    expire(files.ca.parent, days=20.5)
    found = shown(files, files.ca)
    assert found.state is State.WARN
    assert "expires in 20 days: the fix of CERTIFICATE_EXPIRED" in found.line


@pytest.mark.parametrize("code", [Code.CERTIFICATE_EXPIRED, Code.WRONG_NAME, Code.WRONG_CA])
def test_each_bad_certificate_has_its_fix(tmp_path, files, code):
    ca = files.ca
    if code is Code.CERTIFICATE_EXPIRED:
        expire(files.ca.parent)
    elif code is Code.WRONG_NAME:
        files = make_server_certificates(tmp_path / "named", ["market.example"])
        ca = files.ca
    else:
        ca = make_server_certificates(tmp_path / "other", ["127.0.0.1"]).ca
    found = shown(files, ca)
    assert found.state is State.FAIL
    assert found.line.endswith(FIXES[code])


def test_what_speaks_no_tls_is_something_else(files):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = trusted(f"127.0.0.1:{listener.getsockname()[1]}", files.ca, FIXES)
        thread.join()
    assert found.state is State.FAIL
    assert "something else listens" in found.line


def test_of_a_server_that_is_out_of_reach_no_certificate_is_known(files):
    with pytest.raises(NotKnownError, match="can't be reached"):
        trusted(f"127.0.0.1:{free_port()}", files.ca, FIXES)


@pytest.mark.parametrize(
    ("days", "state"), [(0, State.FAIL), (2, State.WARN), (31, State.OK), (400, State.OK)]
)
def test_a_certificate_lasts(days, state):
    authority = Authority.make("ca")
    certificate = authority.issue("server", authority.key.public_key(), ["a"], days=days)
    assert lasting(certificate, "it", FIXES).state is state


def test_a_certificate_whose_time_has_not_come_is_a_matter_of_clocks(monkeypatch):
    certificate = Authority.make("ca").certificate

    class Before(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=2)

    monkeypatch.setattr(network, "datetime", Before)
    found = lasting(certificate, "it", FIXES)
    assert found.state is State.FAIL
    assert found.line.endswith(FIXES[Code.CLOCK])


# --- clocks and keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [0.0, -3.0, 4.9, -200.0, 304.0, 305.0, 2000.0, -3500.0, 3500.0])
def test_a_clock_is_measured_by_what_it_accepts(skew_s):
    calls = []

    def accepts(offset_s):
        calls.append(offset_s)
        return -5.0 < skew_s - offset_s < 305.0

    assert measure_skew(accepts, 5.0, 305.0) == pytest.approx(skew_s, abs=0.2)
    assert len(calls) < 50


def test_a_clock_that_accepts_nothing_near_is_not_measured():
    assert measure_skew(lambda _: False, 5.0, 305.0) is None


@pytest.mark.parametrize(
    ("skew_s", "state", "said"),
    [
        (0.3, State.OK, "within 2 s"),
        (-1.9, State.OK, "within 2 s"),
        (-4.0, State.WARN, "4 s ahead of"),
        (60.0, State.WARN, "60 s behind"),
        (-30.0, State.FAIL, "30 s ahead of"),
        (400.0, State.FAIL, "400 s behind"),
        (None, State.FAIL, "more than 60 minutes apart"),
    ],
)
def test_a_clock_is_judged_by_what_flower_bears(skew_s, state, said):
    found = judge_skew(skew_s, 5.0, 305.0)
    assert found.state is state
    assert said in found.line
    assert ("NTP" in found.line) is (state is not State.OK)


@contextmanager
def fleet_server(files, pull):
    """Serve Flower's fleet API over TLS without any authentication."""

    class Servicer(FleetServicer):
        def PullMessages(self, request, context):  # noqa: N802
            return pull(context)

    server = grpc.server(ThreadPoolExecutor(1))
    add_FleetServicer_to_server(Servicer(), server)
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_superlink_that_asks_for_no_key_is_not_safe(files):
    with fleet_server(files, lambda _: PullMessagesResponse()) as fleet:
        answer = ask_fleet(fleet, files.ca)
    assert not answer.authenticates
    assert answer.clock().state is State.FAIL
    assert "ipfl superlink" in answer.clock().line
    with pytest.raises(NotKnownError, match="see clock"):
        judge_key(answer, "alder", "SHA256:x")


def test_an_answer_that_flower_does_not_give_tells_no_clock(files):
    def pull(context):
        context.abort(grpc.StatusCode.INTERNAL, "out of order")

    with (
        fleet_server(files, pull) as fleet,
        pytest.raises(NotKnownError, match="INTERNAL: out of order"),
    ):
        ask_fleet(fleet, files.ca)


def test_nobody_tells_no_clock(files):
    with pytest.raises(NotKnownError, match="UNAVAILABLE"):
        ask_fleet(f"127.0.0.1:{free_port()}", files.ca)


@pytest.mark.parametrize(("registered", "state"), [(True, State.OK), (False, State.FAIL)])
def test_a_key_is_known_or_not(registered, state):
    answer = FleetAnswer(0.0, 5.0, 305.0, authenticates=True, registered=registered)
    found = judge_key(answer, "alder", "SHA256:x")
    assert found.state is state
    assert "SHA256:x" in found.line
    assert ("ipfl admit" in found.line) is not registered
