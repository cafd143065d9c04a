"""CPU time, peak memory and bytes of a fleet's processes, looked at while it runs."""

import contextlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from rounds_bench.sockets import Sockets, listening

EVERY_S = 0.25
_PROGRAMS = {
    "flower-superexec": "superexec",
    "flwr-serverapp": "serverapp",
    "flower-supernode": "supernode",
    "flwr-clientapp": "clientapp",
    "clientapp.py": "clientapp",
}
DOOR = "ipfl_flower.door.executor"
_MODULES = {
    "ipfl_flower.cli.server_superlink": "superlink",
    "ipfl_flower.cli.server_executor": "superexec",
    DOOR: "superexec",
    "ipfl_flower.trainer.serve": "trainer",
}
ROLES = (*dict.fromkeys([*_MODULES.values(), *_PROGRAMS.values()]),)


@dataclass(frozen=True)
class Process:
    """One process as it is now.

    Attributes
    ----------
    role : str
        One of `ROLES`.
    apps : str or None
        Of an executor: the role of the processes that it starts, one a message or a run.
    cpu_s : float
        What it has used itself.
    children_cpu_s : float
        What its children have used that have ended and whose end it has noticed.
    peak_bytes : int
        The most memory that it has held; 0: it has ended.
    """

    role: str
    apps: str | None
    cpu_s: float
    children_cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Sample:
    """All counters at one time: CPU seconds by role and bytes by link, since the start."""

    at: float
    cpu_s: Mapping[str, float]
    moved: Mapping[str, int]


def role_of(command: Sequence[str]) -> str | None:
    """Tell a process's role by its command line; None: none of ours."""
    module = next((part for part in command if part in _MODULES), None)
    if module is not None:
        return _MODULES[module]
    names = [Path(part).name for part in command if not part.startswith("-")]
    if names and names[0].startswith("python"):
        names = names[1:]
    return _PROGRAMS.get(names[0]) if names else None


def cpu_by_role(processes: Iterable[Process]) -> dict[str, float]:
    """Add up CPU time, that of short-lived apps whole.

    An app that has ended is a zombie with its last figures until its executor notices, and from
    then on part of the executor's ended children: nothing is lost between two looks.
    """
    total: dict[str, float] = defaultdict(float)
    for process in processes:
        total[process.role] += process.cpu_s
        if process.apps is not None:
            total[process.apps] += process.children_cpu_s
    return dict(total)


def between(
    samples: Sequence[Sample], first: float, last: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return CPU seconds by role and bytes by link from one time to another.

    Counters are interpolated between the two nearest looks.
    """
    at = [sample.at for sample in samples]

    def grown(series: Sequence[Mapping[str, float]]) -> dict[str, float]:
        keys = sorted({key for values in series for key in values})
        grown = {}
        for key in keys:
            values = np.interp([first, last], at, [values.get(key, 0.0) for values in series])
            grown[key] = float(values[1] - values[0])
        return grown

    return grown([s.cpu_s for s in samples]), grown([s.moved for s in samples])


class Sampler:
    """Looks at what this process has started, from entering the context to leaving it.

    Attributes
    ----------
    samples : list of Sample
    peaks : dict of str to int
        The largest peak memory of a single process by role, bytes.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.peaks: dict[str, int] = defaultdict(int)
        self._known: dict[int, tuple[str, str | None]] = {}
        self._sockets = Sockets()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler")

    def __enter__(self) -> Self:
        self._sockets.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sockets.end()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._look()
            self._stop.wait(EVERY_S)

    def _look(self) -> None:
        processes = self._processes()
        moved = self._sockets.look()
        for process in processes:
            self.peaks[process.role] = max(self.peaks[process.role], process.peak_bytes)
        self.samples.append(Sample(time.time(), cpu_by_role(processes), moved))

    def _processes(self) -> list[Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._identify(process)
                if process.pid in self._known:
                    role, apps = self._known[process.pid]
                    times = process.cpu_times()
                    found.append(
                        Process(
                            role,
                            apps,
                            times.user + times.system,
                            times.children_user + times.children_system,
                            peak_bytes(process.pid),
                        )
                    )
        return found

    def _identify(self, process: psutil.Process) -> None:
        """Note the role: anew at each look, for a child is its parent's copy until it executes."""
        try:
            command = process.cmdline()
        except psutil.ZombieProcess:
            return  # known from when it lived
        role = role_of(command)
        if role is None:
            return
        apps = None
        if role == "superexec":
            parent = self._known.get(process.ppid(), ("", None))[0]
            institutions = parent == "supernode" or DOOR in command
            apps = "clientapp" if institutions else "serverapp"
        self._known[process.pid] = (role, apps)
        self._sockets.name(listening(role, command))


def peak_bytes(pid: int) -> int:
    """Read the peak memory of a process (VmHWM); 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
