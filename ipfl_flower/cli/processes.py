"""Processes that are started together and always ended together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final, Self

END_GRACE_S = 5.0
# -P: else a file click.py in the folder that we are called in would be run in place of click.
PYTHON: Final = (sys.executable, "-P", "-m")
"""How a module of ours is started as a program: its name comes next."""

MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "2"}
"""glibc: a block of 1 MiB or more (Flower's chunks have 5) goes back to the system when it is
freed, also after larger ones were; threads share two heaps instead of eight a processor."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LaunchError(RuntimeError):
    """A process of the market could not be started, or ended when it should not have."""


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals that ask us to stop until the block has ended.

    A KeyboardInterrupt between the start of a child and our note of it would lose the child; one in
    the middle of ending them would leave some alive. Only the main thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            os.kill(os.getpid(), held[0])


class ProcessGroup:
    """Child processes with a log file each; leaving the context ends them and their children.

    Each child leads a process group of its own, so that what it starts in turn (Flower starts
    executors and apps) is ended with it, and a Ctrl-C in the terminal reaches only us.

    Parameters
    ----------
    logs : Path
        The folder of the log files.
    env : mapping of str to str
        The environment of every child.
    """

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        self._logs = logs
        self._env = dict(env)
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._restarts: dict[str, tuple[Sequence[str | Path], int]] = {}
        # Groups whose leader was started again: what it had started may still be there.
        self._former: list[int] = []
        self._lock = threading.Lock()
        self._ended = False
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str | Path], *, restarts: int = 0) -> None:
        """Start `command` in the background; its output goes to ``NAME.log``.

        Parameters
        ----------
        name : str
        command : sequence of str or Path
        restarts : int
            How often `revive` may start it again.

        Raises
        ------
        LaunchError
            If the program can't be executed, or the group has been ended.
        """
        with self.log(name).open("a") as log:
            self._start(name, command, log, log)
        self._restarts[name] = (command, restarts)

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        timeout_s: float,
        folder: Path | None = None,
    ) -> str:
        """Run `command` to its end, in `folder` if given, and return its standard output.

        Raises
        ------
        LaunchError
            If it exits with an error or takes longer than `timeout_s`; says its last lines.
        """
        child = self._start(name, command, subprocess.PIPE, subprocess.PIPE, folder)
        try:
            output, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"{name} did not end within {timeout_s:g} s") from error
        finally:
            self._finish(name)
        with self.log(name).open("a") as log:
            log.write(output + errors)
        if child.returncode != 0:
            last = " ".join((errors or output).split()[-60:])
            raise LaunchError(f"{name} failed (exit {child.returncode}): {last}")
        return output

    def log(self, name: str) -> Path:
        """Return the path of the log file of `name`."""
        return self._logs / f"{name}.log"

    def dead(self) -> dict[str, str]:
        """Return the children that have ended by themselves: name, and how with what last words."""
        dead = {}
        with self._lock:
            children = dict(self._children)
        for name, child in children.items():
            code = child.poll()
            if code is not None:
                tail = " | ".join(self.log(name).read_text(errors="replace").split("\n")[-6:])
                dead[name] = f"ended (exit {code}); {self.log(name)} says: {tail}"
        return dead

    def revive(self) -> list[str]:
        """Start again what has ended and may be; return what was done, a line each."""
        lines = []
        for name, how in self.dead().items():
            command, left = self._restarts.get(name, ((), 0))
            if left > 0:
                self._former.append(self._children[name].pid)
                self.start(name, command, restarts=left - 1)
                lines.append(f"{name} {how}; started again")
        return lines

    def end(self) -> None:
        """End all children and what they started: politely, then, after a grace, for certain."""
        with signals_held():
            with self._lock:
                self._ended = True
                children = list(self._children.values())
                self._children.clear()
            groups = [*self._former, *(child.pid for child in children)]
            for group in groups:
                signal_group(group, signal.SIGTERM)
            deadline = time.monotonic() + END_GRACE_S
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
            for group in groups:
                signal_group(group, signal.SIGKILL)
            for child in children:
                child.wait()

    def _start(
        self,
        name: str,
        command: Sequence[str | Path],
        stdout: int | IO[str],
        stderr: int | IO[str],
        folder: Path | None = None,
    ) -> subprocess.Popen[str]:
        with signals_held(), self._lock:
            if self._ended:
                raise LaunchError(f"{name} is not started: the market is being ended")
            try:
                child = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    text=True,
                    env=self._env,
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise LaunchError(f"{name} can't be started: {error}") from error
            self._children[name] = child
        return child

    def _finish(self, name: str) -> None:
        """Forget a child that was run, and end what may be left of it."""
        with signals_held():
            with self._lock:
                child = self._children.pop(name, None)
            if child is not None:
                signal_group(child.pid, signal.SIGKILL)
                child.wait()
                for pipe in (child.stdout, child.stderr):
                    if pipe is not None:
                        pipe.close()


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def require_free(port: int, option: str) -> None:
    """Raise `LaunchError`, naming `option`, if `port` is in use on loopback."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} is in use ({error.strerror}): end what listens there, "
                f"or give another port with {option}"
            ) from error


def wait_for_port(
    port: int, group: ProcessGroup, name: str, *, deadline_s: float, host: str = "127.0.0.1"
) -> None:
    """Wait until `name` accepts connections on `port` of this machine's address `host`.

    Raises
    ------
    LaunchError
        If it ends first, or the deadline passes.
    """
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        how = group.dead().get(name)
        if how is not None:
            raise LaunchError(f"{name} {how}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
            return
        time.sleep(0.1)
    raise LaunchError(f"{name} did not listen on port {port} within {deadline_s:g} s")


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a process group a signal, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
