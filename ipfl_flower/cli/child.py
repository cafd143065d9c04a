"""A program in the foreground: its output read, signals handed on, its end awaited."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from ipfl_flower import logs
from ipfl_flower.cli.processes import STOP_SIGNALS, LaunchError, signal_group

GRACE_S = 30.0
POLL_S = 0.2
LINE_MAX = 64 * 1024


class Child:
    """A child process whose output goes line by line to a callback; leaving the context ends it.

    It leads a process group of its own: a Ctrl-C in the terminal reaches it once, through us.

    Parameters
    ----------
    command : sequence of str or Path
    env : mapping of str to str
    on_line : callable
        Gets every line that it prints on either output, in a thread of its own.

    Raises
    ------
    LaunchError
        If the program can't be executed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        try:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"{command[0]} can't be started: {error}") from error
        self._on_line = on_line
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, grace_s: float = GRACE_S) -> int:
        """End it and what it started: politely, then, after a grace, for certain."""
        if self._ended:
            return self._process.wait()
        self._ended = True  # Its number may be another's group by now.
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        signal_group(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        # All who could write are gone: what they wrote last is soon read.
        self._reader.join(GRACE_S)
        return code

    def _read(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        with output:
            # A line without an end must not fill the memory.
            while line := output.readline(LINE_MAX):
                # Where our own output has no reader, the child must still not wait for one.
                with contextlib.suppress(OSError):
                    self._hand_on(line.decode(errors="replace").rstrip("\n"))

    def _hand_on(self, line: str) -> None:
        try:
            self._on_line(line)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001
            # One line that can't be understood must not end the reading of all that come after.
            say(f"ipfl: a line of the output was lost: {type(error).__name__}: {error!s:.200}")


class Stop:
    """Whether we were asked to stop: in its context the signals for it are noted and handed on.

    As a container's first process we would not even be ended by a SIGTERM that nobody handles.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._child: Child | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hand_to(self, child: Child) -> None:
        """Hand the signals on to `child` from now on, and what came before, too."""
        self._child = child
        if self.asked:
            child.signal(self.asked)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = number
        if self._child is not None:
            self._child.signal(number)


def wait(child: Child, stop: Stop, tend: Callable[[], None]) -> int:
    """Wait for the end of `child`, and return its exit code.

    Parameters
    ----------
    child : Child
    stop : Stop
        When it was asked to stop and doesn't within `GRACE_S`, the child is killed.
    tend : callable
        Called a few times a second.
    """
    deadline = float("inf")
    while (code := child.poll()) is None:
        if stop.asked and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            child.signal(signal.SIGKILL)
        tend()
        time.sleep(POLL_S)
    return code


def exit_code(code: int) -> int:
    """Return what a shell would: 128 + N for a child that signal N killed."""
    return 128 - code if code < 0 else code


def say(line: str) -> None:
    """Print a line on standard error, at once; as JSON where this process logs so."""
    logs.write(line)
