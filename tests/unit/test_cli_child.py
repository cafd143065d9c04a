import os
import signal
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from ipfl_flower.cli import child as module
from ipfl_flower.cli.child import Child, Stop, exit_code, wait
from ipfl_flower.cli.processes import LaunchError

TRAPS = """
import signal, sys, time
def end(number, _):
    print("got", number, flush=True); sys.exit(7)
signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(grandchild.pid, flush=True)
time.sleep(60)
"""


class Lines(list):
    """What a child printed, and a way to wait for it."""

    def wait_for(self, text, deadline_s=30.0):
        end = time.monotonic() + deadline_s
        while not any(text in line for line in self):
            assert time.monotonic() < end, f"no {text!r} in {self}"
            time.sleep(0.01)


def python(code, *arguments):
    return [sys.executable, "-c", code, *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_us_reaches_the_child_and_its_exit_code_us(number):
    lines = Lines()
    before = signal.getsignal(number)

    def kill():
        lines.wait_for("ready")
        os.kill(os.getpid(), number)

    with Stop() as stop, Child(python(TRAPS), os.environ, lines.append) as child:
        stop.hand_to(child)
        killer = threading.Thread(target=kill)
        killer.start()
        code = wait(child, stop, lambda: None)
        killer.join()
    assert (code, stop.asked, lines[-1]) == (7, number, f"got {number}")
    assert signal.getsignal(number) is before


def test_a_signal_that_came_before_the_child_is_handed_to_it():
    lines = Lines()
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with Child(python(TRAPS), os.environ, lines.append) as child:
            lines.wait_for("ready")
            stop.hand_to(child)
            assert wait(child, stop, lambda: None) == 7


def test_a_child_that_does_not_end_when_asked_is_killed(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    lines = Lines()
    with Stop() as stop, Child(python(STUBBORN), os.environ, lines.append) as child:
        while not lines:
            time.sleep(0.01)
            assert child.poll() is None
        stop.hand_to(child)
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait(child, stop, lambda: None) == -signal.SIGKILL
    # And what it had started, too; init reaps it, or it is a zombie until then.
    end = time.monotonic() + 30
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(int(lines[0])).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_every_line_is_read_even_the_last_without_an_end():
    lines = Lines()
    code = "import sys; print('out', flush=True); sys.stderr.write('err\\xff'); sys.exit(3)"
    with Child(python(code), {**os.environ, "PYTHONIOENCODING": "latin-1"}, lines.append) as child:
        assert wait(child, Stop(), lambda: None) == 3
        child.end()
    assert lines == ["out", "err\ufffd"]


def test_a_line_without_an_end_is_read_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "LINE_MAX", 1000)
    lines = Lines()
    with Child(python("print('x' * 2500)"), os.environ, lines.append) as child:
        wait(child, Stop(), lambda: None)
    assert [len(line) for line in lines] == [1000, 1000, 500]


def test_a_child_goes_on_when_nobody_reads_our_output():
    def broken(line):
        raise BrokenPipeError

    with Child(python("print('x\\n' * 200_000)"), os.environ, broken) as child:
        assert wait(child, Stop(), lambda: None) == 0


def test_a_line_that_cannot_be_understood_does_not_end_the_reading(capsys):
    lines = Lines()

    def on_line(line):
        if line == "bad":
            raise ValueError("Unsupported curve")
        lines.append(line)

    code = "print('bad'); print('good')"
    with Child(python(code), os.environ, on_line) as child:
        assert wait(child, Stop(), lambda: None) == 0
        child.end()
    assert lines == ["good"]
    assert (
        capsys.readouterr().err
        == "ipfl: a line of the output was lost: ValueError: Unsupported curve\n"
    )


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(LaunchError, match="/nowhere can't be started"):
        Child(["/nowhere"], os.environ, print)


def test_exit_codes_are_a_shells():
    assert [exit_code(code) for code in (0, 3, -signal.SIGKILL)] == [0, 3, 137]
