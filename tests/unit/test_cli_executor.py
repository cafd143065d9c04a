"""The operator's executor outlasts a SuperLink that fails for a while; Flower's own does not."""

import os
import signal
import subprocess

import httpx
import pytest
from support.fake_grid import FakeGrid

from ipfl_flower.cli import server_executor
from ipfl_flower.cli.executor import executor, executor_command
from ipfl_flower.cli.processes import free_port


class SuperLink:
    """Fails with `status` until `until`, by the clock of a grid."""

    def __init__(self, until, status=500):
        self.until, self.status, self.grid = until, status, FakeGrid({})

    def ask(self):
        if self.grid.now < self.until:
            request = httpx.Request("POST", "https://superlink/acquire")
            response = httpx.Response(self.status, request=request)
            raise httpx.HTTPStatusError("locked", request=request, response=response)
        return "a task"

    def acquired(self):
        clock = self.grid.clock
        return server_executor.acquired(self.ask, clock.monotonic, clock.sleep)


def test_it_asks_again_while_the_superlink_fails():
    superlink = SuperLink(until=server_executor.FAILING_S_MAX - 1)
    assert superlink.acquired() == "a task"
    assert superlink.until <= superlink.grid.now < superlink.until + 1


@pytest.mark.parametrize(("status", "after"), [(500, server_executor.FAILING_S_MAX), (403, 0.0)])
def test_it_does_not_ask_for_ever_nor_after_a_refusal(status, after):
    superlink = SuperLink(until=1e9, status=status)
    with pytest.raises(httpx.HTTPStatusError):
        superlink.acquired()
    assert after <= superlink.grid.now < after + 1


def test_a_secret_or_a_ca_that_is_not_there_is_one_line(tmp_path):
    secret = tmp_path / "superexec.secret"
    command = executor_command("127.0.0.1:1", secret, None)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert str(secret) in done.stderr
    secret.write_text("0" * 64)
    command = executor_command("127.0.0.1:1", secret, tmp_path / "ca.pem")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "ca.pem" in done.stderr


def test_server_apps_give_memory_back_unless_the_operator_says_otherwise(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execve", lambda *call: called.append(call))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    secret = tmp_path / "superexec.secret"
    executor(runtime="127.0.0.1:1", secret=secret)
    ((_, command, environment),) = called
    assert command == executor_command("127.0.0.1:1", secret, None)
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert environment["MALLOC_ARENA_MAX"] == "4"
    assert environment["PATH"] == os.environ["PATH"]


def test_how_a_server_app_ended_is_said(caplog):
    ended = [subprocess.Popen(["false"]), subprocess.Popen(["true"])]
    for process in ended:
        process.wait()
    assert server_executor.still_running(ended) == []
    assert f"process {ended[0].pid} ended with 1" in caplog.text
    assert str(ended[1].pid) not in caplog.text


def test_it_waits_for_a_superlink_that_is_not_there_and_ends_by_a_signal(tmp_path):
    secret = tmp_path / "superexec.secret"
    secret.write_text("0" * 64)
    command = executor_command(f"127.0.0.1:{free_port()}", secret, None)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while "retrying" not in (line := process.stderr.readline()):
            assert line, f"it ended with {process.wait()}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.stderr.close()
