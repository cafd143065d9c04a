"""A restart policy, as a container engine has it: run a command again whenever it ends.

As a script, ``restarting.py COMMAND…`` is the supervisor of one command.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ipfl_flower.cli.processes import ProcessGroup

PAUSE_S = 1.0


class RestartingGroup(ProcessGroup):
    """Starts what it starts in the background under a supervisor each."""

    def start(self, name: str, command: Sequence[str | Path], *, restarts: int = 0) -> None:
        super().start(name, [sys.executable, __file__, *command])


def supervise(command: Sequence[str]) -> None:
    """Run `command` again and again, until a signal asks us to end."""
    child: subprocess.Popen[bytes] | None = None

    def end(*_: object) -> None:
        if child is not None:
            child.terminate()
            child.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        child = subprocess.Popen(command)
        child.wait()
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    supervise(sys.argv[1:])
