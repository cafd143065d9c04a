"""What a trainer's process lives through: kills, full disks, signals, strangers."""

import grp
import os
import re
import resource
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from support.trainers import (
    Authority,
    institution_file,
    serve_fails,
    trainer_process,
)

from ipfl_flower.trainer import FitRequest, Institution, Trainer, serve
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer_api import (
    AddressError,
    FitCall,
    TrainerClient,
    TrainerRefusedError,
    TrainerUnreachableError,
)
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.trainer_pb2_grpc import TrainerStub

pytestmark = pytest.mark.timeout(300)

THETA_0 = initial_model({"name": "digits"}, 0)
DEADLINE_S = 120.0
FOR_EVER = 10**8  # iterations
A_WHILE = 6000


def call(number, role="initial"):
    return FitCall(round=number, role=role, arrays=THETA_0 if role == "initial" else {})


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


class GoneError(Exception):
    pass


def when_fitting(do):
    """Make a progress callback that does something once training has begun."""

    def on_progress(progress):
        if progress.phase == "fitting" and progress.done > 0:
            do()

    return on_progress


def leave():
    raise GoneError


def test_killed_mid_fit_and_started_again_it_answers_the_same_request(tmp_path):
    """A bridge that waits doesn't even notice, and the round is as if nothing had happened."""
    file = institution_file(tmp_path / "alder")
    address = f"unix://{file.parent / 'trainer.sock'}"
    killed = threading.Event()
    with (
        ThreadPoolExecutor(1) as pool,
        TrainerClient(address) as client,
        trainer_process(file, "--progress-s=0.05") as running,
    ):
        first = client.fit(call(0), deadline_s=DEADLINE_S)
        institution_file(file.parent, iterations=FOR_EVER)

        def kill():
            running.process.kill()
            killed.set()

        answer = pool.submit(
            client.fit, call(1, "none"), deadline_s=DEADLINE_S, on_progress=when_fitting(kill)
        )
        assert killed.wait(DEADLINE_S)
        assert running.process.wait(DEADLINE_S) == -signal.SIGKILL
        institution_file(file.parent)
        with trainer_process(file):
            second = answer.result(DEADLINE_S)
    twin = Trainer(Institution.load(institution_file(tmp_path / "twin")))
    assert same(first.arrays, twin.fit(FitRequest(round=0, initial=THETA_0)).arrays)
    assert same(second.arrays, twin.fit(FitRequest(round=1)).arrays)


def test_a_client_without_patience_is_told_what_to_do(tmp_path):
    file = institution_file(tmp_path, iterations=FOR_EVER)
    with (
        trainer_process(file, "--progress-s=0.05") as running,
        running.client(patience_s=0.0) as client,
        pytest.raises(TrainerUnreachableError, match=r"trainer\.sock can't be reached .*ipfl "),
    ):
        client.fit(call(0), deadline_s=DEADLINE_S, on_progress=when_fitting(running.process.kill))
    assert not (tmp_path / "state" / "state.json").exists()


def test_a_fit_whose_client_goes_is_finished_for_whoever_asks_again(tmp_path):
    file = institution_file(tmp_path, iterations=A_WHILE)
    with trainer_process(file, "--progress-s=0.02") as running:
        with running.client() as client, pytest.raises(GoneError):
            client.fit(call(0), deadline_s=DEADLINE_S, on_progress=when_fitting(leave))
        phases = []
        with running.client() as client:
            answer = client.fit(
                call(0), deadline_s=DEADLINE_S, on_progress=lambda p: phases.append(p.phase)
            )
        assert "fitting" not in phases  # it was answered from disk
        assert answer.metrics["best_round"] == 0
        assert running.end() == 0
    assert any("finished a request whose client had gone" in line for line in running.errors)


def test_sigterm_lets_a_fit_end_and_begins_no_other(tmp_path):
    file = institution_file(tmp_path, iterations=A_WHILE)
    with trainer_process(file, "--progress-s=0.02", "--grace-s=100") as running:
        terminate = when_fitting(lambda: running.process.send_signal(signal.SIGTERM))
        with running.client() as client:
            answer = client.fit(call(0), deadline_s=DEADLINE_S, on_progress=terminate)
        assert answer.arrays.keys() == THETA_0.keys()
        assert running.process.wait(DEADLINE_S) == 0
        with running.client(patience_s=0.0) as client, pytest.raises(TrainerUnreachableError):
            client.fit(call(1), deadline_s=DEADLINE_S)
    assert not (tmp_path / "trainer.sock").exists()


def test_sigterm_abandons_a_fit_after_the_grace(tmp_path):
    file = institution_file(tmp_path, iterations=FOR_EVER)
    with trainer_process(file, "--progress-s=0.02", "--grace-s=0") as running:
        terminate = when_fitting(lambda: running.process.send_signal(signal.SIGTERM))
        with running.client(patience_s=0.0) as client, pytest.raises(TrainerUnreachableError):
            client.fit(call(0), deadline_s=DEADLINE_S, on_progress=terminate)
        assert running.process.wait(DEADLINE_S) == 0
    assert any("abandoned a fit" in line for line in running.errors)
    assert not (tmp_path / "state" / "state.json").exists()


def test_a_full_disk_fails_the_request_and_the_next_one_works(tmp_path):
    file = institution_file(tmp_path)
    with trainer_process(file) as running, running.client() as client:
        first = client.fit(call(0), deadline_s=DEADLINE_S)
        kept = {path.name: path.read_bytes() for path in (tmp_path / "state").glob("*.*")}
        pid = running.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        for size in (0, 1000, 15_000):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(
                TrainerRefusedError, match=r"can't be written .*free space"
            ) as caught:
                client.fit(call(1, "none"), deadline_s=DEADLINE_S)
            assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
            assert (
                kept.items()
                <= {
                    path.name: path.read_bytes() for path in (tmp_path / "state").glob("*.*")
                }.items()
            )
        assert same(client.fit(call(0), deadline_s=DEADLINE_S).arrays, first.arrays)
        second = client.fit(call(1, "none"), deadline_s=DEADLINE_S)
    twin = Trainer(Institution.load(institution_file(tmp_path / "twin")))
    twin.fit(FitRequest(round=0, initial=THETA_0))
    assert same(second.arrays, twin.fit(FitRequest(round=1)).arrays)


def test_a_second_trainer_of_the_same_state_is_refused(tmp_path):
    file = institution_file(tmp_path)
    with trainer_process(file) as running:
        code, said = serve_fails(file)
        assert (code, said.count("\n")) == (1, 1)
        assert f"another process listens on {tmp_path}/trainer.sock: end it" in said
        code, said = serve_fails(file, "--listen=127.0.0.1:0")
        assert code == 1
        assert f"another trainer uses {tmp_path}/state: stop it, or give each its own" in said
        with running.client() as client:
            client.fit(call(0), deadline_s=DEADLINE_S)


# --- who may connect ------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, grp.getgrgid(os.getgid()).gr_name])
def test_its_socket_is_its_users_or_its_groups_alone(tmp_path, group):
    file = institution_file(tmp_path)
    path = tmp_path / "here.sock"
    options = [] if group is None else [f"--socket-group={group}"]
    with trainer_process(file, f"--listen=unix://{path}", *options):
        mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == (0o600 if group is None else 0o660)


def test_a_stale_socket_is_replaced_and_another_file_is_not(tmp_path):
    file = institution_file(tmp_path)
    with trainer_process(file) as running:
        running.end(signal.SIGKILL)
    assert (tmp_path / "trainer.sock").is_socket()
    with trainer_process(file) as running, running.client() as client:
        assert client.describe().name == "alder"
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    code, said = serve_fails(file, f"--listen=unix://{path}")
    assert code == 1
    assert "notes.txt is there and no socket" in said
    assert path.read_text() == "precious"


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """Give a trainer with TLS, and the two authorities that there are."""
    folder = tmp_path_factory.mktemp("tls")
    ours, other = Authority(folder / "ours"), Authority(folder / "other")
    files = ours.issue("trainer")
    with trainer_process(
        institution_file(folder / "alder"),
        *("--listen=0.0.0.0:0", f"--certificate={files.certificate}"),
        *(f"--key={files.key}", f"--client-ca={files.ca}"),
    ) as running:
        running.address = running.address.replace("0.0.0.0", "127.0.0.1")
        yield running, ours, other


def test_a_client_with_a_certificate_is_served(secured):
    running, ours, _ = secured
    with running.client(tls=ours.issue("bridge")) as client:
        assert client.describe().name == "alder"
        answer = client.fit(call(0), deadline_s=DEADLINE_S)
        assert answer.arrays.keys() == THETA_0.keys()


@pytest.mark.parametrize("wrong", ["no TLS", "no certificate", "another's", "another trainer"])
def test_a_stranger_is_not_served(secured, wrong):
    running, ours, other = secured
    if wrong == "no certificate":
        credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes())
        with (
            grpc.secure_channel(running.address, credentials) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            TrainerStub(channel).Describe(pb.DescribeRequest(), timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        return
    tls = {
        "no TLS": None,
        "another's": other.issue("stranger", ca=ours.ca),
        "another trainer": ours.issue("bridge", ca=other.ca),
    }[wrong]
    with (
        running.client(tls=tls, patience_s=1.0) as client,
        pytest.raises(TrainerUnreachableError, match=rf"{running.address} can't be reached \("),
    ):
        client.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen=0.0.0.0:0"], r"0\.0\.0\.0:0 can be reached from other machines, .*--client-ca"),
        (["--listen=[::]:0"], r"\[::\]:0 can be reached .* give --certificate, --key and --client"),
        (["--listen=0.0.0.0:0", "--key=k"], "TLS needs all of --certificate, --key and --client"),
        (["--listen=nowhere"], "'nowhere' is neither unix:///path nor host:port"),
        (["--listen=192.0.2.1:9", "@tls"], r"can't listen on 192\.0\.2\.1:9: it is in use, not"),
        (["--listen=127.0.0.1:0", "--socket-group=x"], "--socket-group is for a Unix socket"),
        (["--socket-group=no-such-group"], "can't be given to group 'no-such-group'"),
        (["--listen=unix:///no/such/folder/t.sock"], "/no/such/folder is no folder: make it"),
        (["--listen=127.0.0.1:0", "@missing"], r"missing\.pem can't be read: No such file"),
    ],
)
def test_it_does_not_start_where_it_should_not_serve(tmp_path, options, message, capsys):
    files = Authority(tmp_path / "ca").issue("trainer")
    tls = [f"--certificate={files.certificate}", f"--key={files.key}", f"--client-ca={files.ca}"]
    missing = [f"--certificate={tmp_path / 'missing.pem'}", *tls[1:]]
    given = []
    for option in options:
        given += {"@tls": tls, "@missing": missing}.get(option, [option])
    assert serve.main([str(institution_file(tmp_path / "alder")), *given]) == 1
    said = capsys.readouterr().err
    assert re.match("error: .*" + message, said), said
    assert said.count("\n") == 1


def test_an_institution_that_cannot_be_loaded_is_named(tmp_path):
    file = institution_file(tmp_path, cost=-1)
    code, said = serve_fails(file)
    assert code == 1
    assert said == f"error: {file}: terms.cost must be ≥ 0, is -1\n"


def test_a_client_refuses_to_talk_in_the_clear_to_another_machine():
    with pytest.raises(AddressError, match=r"on another machine, which needs TLS: .*trainer-ca"):
        TrainerClient("trainer.example:9095")


def test_a_client_that_stalls_loses_its_turn(tmp_path):
    file = institution_file(tmp_path)
    release = threading.Event()

    def stalling():
        yield pb.FitRequest(header=call(0).header())
        release.wait(DEADLINE_S)

    with trainer_process(file, "--idle-s=0.5") as running:
        with grpc.insecure_channel(running.address) as channel:
            replies = TrainerStub(channel).Fit(stalling(), timeout=DEADLINE_S)
            with pytest.raises(
                grpc.RpcError, match=r"did not send its chunk within 0\.5 s"
            ) as caught:
                list(replies)
            release.set()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        with running.client() as client:
            assert client.fit(call(0), deadline_s=DEADLINE_S).arrays.keys() == THETA_0.keys()
