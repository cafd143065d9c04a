"""Processes that are started together and always ended together."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

END_GRACE_S = 5.0


class LaunchError(RuntimeError):
    """A process of the market could not be started, or ended when it should not have."""


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
        self._children: dict[str, subprocess.Popen[bytes]] = {}
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

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start `command` in the background; its output goes to ``NAME.log``.

        Raises
        ------
        LaunchError
            If the program can't be executed.
        """
        with self.log(name).open("ab") as log:
            try:
                self._children[name] = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                )
            except OSError as error:
                raise LaunchError(f"{name} can't be started: {error}") from error

    def run(self, name: str, command: Sequence[str | Path], *, timeout_s: float) -> str:
        """Run `command` to its end and return its standard output.

        Raises
        ------
        LaunchError
            If it exits with an error or takes longer than `timeout_s`; says its last lines.
        """
        try:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._env,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"{name} did not end within {timeout_s:g} s") from error
        with self.log(name).open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            last = " ".join((done.stderr or done.stdout).split()[-60:])
            raise LaunchError(f"{name} failed (exit {done.returncode}): {last}")
        return done.stdout

    def log(self, name: str) -> Path:
        """Return the path of the log file of `name`."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raise `LaunchError`, with its last lines, if any child has ended by itself."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                tail = " | ".join(self.log(name).read_text(errors="replace").split("\n")[-6:])
                raise LaunchError(f"{name} ended (exit {code}); {self.log(name)} says: {tail}")

    def end(self) -> None:
        """End all children and what they started: politely, then, after a grace, for certain."""
        for child in self._children.values():
            _signal_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + END_GRACE_S
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        for child in self._children.values():
            _signal_group(child.pid, signal.SIGKILL)
            child.wait()
        self._children.clear()


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports that are free on loopback now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


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


def wait_for_port(port: int, group: ProcessGroup, name: str, *, deadline_s: float) -> None:
    """Wait until something accepts connections on loopback `port`.

    Raises
    ------
    LaunchError
        If a process of `group` ends first, or the deadline passes.
    """
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        group.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise LaunchError(f"{name} did not listen on port {port} within {deadline_s:g} s")


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
