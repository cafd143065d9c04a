"""Bytes over loopback by link, from the kernel's own counters of each TCP connection.

``ss -ti`` shows ``bytes_received`` and ``bytes_acked`` of the connections that are open; ``ss -E``
(which needs root) tells the last figures of each that closes, so that short ones count in full.
They are payload as TCP sees it: TLS and HTTP/2 included, TCP's and IP's headers not.
"""

import itertools
import re
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LINKS = ("fleet", "operator", "node")
_OPEN = ("ss", "-tinHO")
_CLOSING = ("stdbuf", "-oL", "ss", "-E", "-tinHO")
_LINE = re.compile(r"^\S+\s+\d+\s+\d+\s+(\S+:\d+)\s+(\S+:\d+)\s")
_RECEIVED = re.compile(r"\bbytes_received:(\d+)")
_SENT = re.compile(r"\bbytes_acked:(\d+)")


@dataclass(frozen=True)
class Connection:
    """One end of a TCP connection and what it has moved, in both directions."""

    local: str
    peer: str
    moved: int

    @property
    def ends(self) -> tuple[str, str]:
        """What tells it from the others."""
        return self.local, self.peer

    @property
    def port(self) -> int:
        """The local port."""
        return int(self.local.rpartition(":")[2])


def parse(line: str) -> Connection | None:
    """Read a line of ``ss``; None if it isn't one of a connection."""
    ends = _LINE.match(line)
    if ends is None:
        return None
    counters = [found[1] for found in (_RECEIVED.search(line), _SENT.search(line)) if found]
    return Connection(ends[1], ends[2], sum(map(int, counters)))


def listening(role: str, command: Sequence[str]) -> dict[int, str]:
    """Tell by a command line on which ports a process listens, and which link each is.

    "fleet" is between institutions and operator; "operator" between the SuperLink and its server
    app; "node" between a SuperNode and its ClientApps.
    """
    options = dict(itertools.pairwise(command))
    if role == "superlink":
        fleet = options["--fleet-api-address"].rpartition(":")[2]
        return {int(fleet): "fleet", int(options["--port"]): "operator"}
    return {int(options["--port"]): "node"} if role == "supernode" else {}


@dataclass
class Counters:
    """What each connection to a named port has moved so far."""

    links: dict[int, str] = field(default_factory=dict)
    _now: dict[tuple[str, str], int] = field(default_factory=dict)
    _before: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _closed: set[tuple[str, str]] = field(default_factory=set)

    def begin(self) -> None:
        """Begin a look: what closes from now on may still be shown by it as open."""
        self._closed.clear()

    def take(self, connection: Connection) -> None:
        """Take an open connection into account."""
        if connection.port in self.links and connection.ends not in self._closed:
            self._now[connection.ends] = connection.moved

    def close(self, connection: Connection) -> None:
        """Take the last figures of a connection: its ports may be used again."""
        if connection.port in self.links:
            self._now.pop(connection.ends, None)
            self._before[connection.port] += connection.moved
            self._closed.add(connection.ends)

    def by_link(self) -> dict[str, int]:
        """Return the bytes moved by link."""
        total = dict.fromkeys(self.links.values(), 0)
        for (local, _), moved in self._now.items():
            total[self.links[int(local.rpartition(":")[2])]] += moved
        for port, moved in self._before.items():
            total[self.links[port]] += moved
        return total


class Sockets:
    """Keeps the counters up to date; counts nothing where ``ss`` is missing."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._lock = threading.Lock()
        self._closing: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, name="closing sockets")

    def start(self) -> None:
        """Begin to listen for connections that close."""
        if shutil.which("ss") and shutil.which("stdbuf"):
            self._closing = subprocess.Popen(
                _CLOSING, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._reader.start()

    def end(self) -> None:
        """End what was started."""
        if self._closing is not None:
            self._closing.terminate()
            self._closing.wait()
            self._reader.join()

    def name(self, ports: Mapping[int, str]) -> None:
        """Count the connections to these ports from now on."""
        with self._lock:
            self._counters.links.update(ports)

    def look(self) -> dict[str, int]:
        """Return the bytes moved so far by link."""
        if self._closing is None:
            return {}
        with self._lock:
            self._counters.begin()
        shown = subprocess.run(_OPEN, capture_output=True, text=True, check=False).stdout
        with self._lock:
            for line in shown.splitlines():
                if (connection := parse(line)) is not None:
                    self._counters.take(connection)
            return self._counters.by_link()

    def _read(self) -> None:
        assert self._closing is not None
        assert self._closing.stdout is not None
        with self._closing.stdout as lines:
            for line in lines:
                if (connection := parse(line)) is not None:
                    with self._lock:
                        self._counters.close(connection)
