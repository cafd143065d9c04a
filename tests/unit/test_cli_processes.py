import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from ipfl_flower.cli.processes import (
    LaunchError,
    ProcessGroup,
    free_port,
    require_free,
    wait_for_port,
)

LISTEN = """
import socket, sys, time
sock = socket.socket(); sock.bind(("127.0.0.1", int(sys.argv[1]))); sock.listen()
sock.accept(); time.sleep(60)
"""
# A child that ignores SIGTERM and has a child of its own; says both process ids.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""


def assert_ends(orphan):
    """Assert that a killed orphan goes: init reaps it, or it is a zombie until then."""
    end = time.monotonic() + 30
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(orphan).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end


@pytest.fixture
def group(tmp_path):
    with ProcessGroup(tmp_path / "logs", os.environ) as group:
        yield group


def test_everything_that_was_started_is_ended_even_what_it_started_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("ipfl_flower.cli.processes.END_GRACE_S", 0.2)
    port = free_port()
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("stubborn", [sys.executable, "-c", STUBBORN])
        group.start("listener", [sys.executable, "-c", LISTEN, str(port)])
        wait_for_port(port, group, "listener", deadline_s=30)
        while not (said := group.log("stubborn").read_text().split()):
            assert not group.dead()
    parent, child = (int(pid) for pid in said)
    assert not psutil.pid_exists(parent)
    assert_ends(child)


def test_a_child_that_ends_by_itself_is_named_with_its_last_words(group):
    port = free_port()
    group.start("node", [sys.executable, "-c", "import sys; sys.exit('no data here')"])
    with pytest.raises(LaunchError, match=r"node ended \(exit 1\).*no data here"):
        wait_for_port(port, group, "node", deadline_s=30)


def test_a_program_that_is_not_there_is_named(group):
    with pytest.raises(LaunchError, match=r"link can't be started: .*no-such-program"):
        group.start("link", ["no-such-program"])


def test_nobody_listening_is_said_at_the_deadline(group):
    port = free_port()
    with pytest.raises(LaunchError, match=rf"link did not listen on port {port} within 0\.2 s"):
        wait_for_port(port, group, "link", deadline_s=0.2)


def test_a_command_that_fails_says_why(group):
    assert group.run("echo", [sys.executable, "-c", "print('hello')"], timeout_s=30) == "hello\n"
    with pytest.raises(LaunchError, match=r"sub failed \(exit 3\): it broke"):
        group.run(
            "sub",
            [sys.executable, "-c", "import sys; sys.stderr.write('it broke'); sys.exit(3)"],
            timeout_s=30,
        )
    with pytest.raises(LaunchError, match=r"slow did not end within 0\.1 s"):
        group.run("slow", [sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.1)


def test_what_has_ended_is_started_again_as_often_as_it_may_be(group, tmp_path):
    group.start("once", [sys.executable, "-c", "print('here')"], restarts=1)
    group.start("never", [sys.executable, "-c", ""])
    said = []
    while group.log("once").read_text() != "here\nhere\n" or set(group.dead()) != {"once", "never"}:
        said += group.revive()
    (line,) = said
    assert line.startswith("once ended (exit 0); ")
    assert line.endswith("; started again")
    assert group.revive() == []


def test_what_a_process_started_ends_with_the_group_though_it_was_started_again(tmp_path):
    mother = (
        "import subprocess, sys;"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("mother", [sys.executable, "-c", mother], restarts=1)
        while not group.revive():
            pass
        orphan = int(group.log("mother").read_text().split()[0])
        assert psutil.pid_exists(orphan)
    assert_ends(orphan)


def test_a_free_port_is_free():
    require_free(free_port(), "--port")


def test_a_port_in_use_is_named_with_the_option():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"port {port} is in use .*--fleet-port"):
            require_free(port, "--fleet-port")


def test_nothing_is_started_once_the_group_was_ended(tmp_path):
    with ProcessGroup(tmp_path, os.environ) as group:
        pass
    with pytest.raises(LaunchError, match="late is not started: the market is being ended"):
        group.start("late", [sys.executable, "-c", ""])


# Starts a stubborn child, then gets one signal while that is ended and another right after.
IMPATIENT = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be inherited as ignored
from pathlib import Path
from ipfl_flower.cli import processes
processes.END_GRACE_S = 1.0
children = []
popen = subprocess.Popen
class Spy(popen):
    def wait(self, timeout=None):
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C again and again while we are ending
        return super().wait(timeout)
subprocess.Popen = Spy
try:
    with processes.ProcessGroup(Path(sys.argv[1]), os.environ) as group:
        group.start("stubborn", [sys.executable, "-c", sys.argv[2]])
        while not (said := group.log("stubborn").read_text().split()):
            pass
        print(*said, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_impatient_ctrl_c_leaves_nothing_alive(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, tmp_path, STUBBORN],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "interrupted" in done.stdout, done.stderr
    for pid in map(int, done.stdout.split()[:2]):
        if psutil.pid_exists(pid):
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
