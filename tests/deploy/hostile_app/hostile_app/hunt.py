"""Looks at all that a process can see, with nothing but the standard library.

What it is after looks like ``CANARY``: a private file that is marked with one is recognised
without the marks being known here, where they would be found at once.
"""

import importlib
import os
import re
import stat
from collections.abc import Iterator

CANARY = re.compile(rb"canary-[0-9a-f]{32}")
CHUNK_BYTES = 1 << 20
OVERLAP_BYTES = 64
# Of the kernel itself, under a root: numbers and switches. Processes are looked at one by one.
KERNEL = {"proc", "sys"}
# File systems that a container has of itself; what is on another one came from outside.
OF_A_CONTAINER = {"cgroup", "cgroup2", "devpts", "mqueue", "overlay", "proc", "sysfs", "tmpfs"}


def canaries(content: bytes) -> set[str]:
    """Return the marks of private data in `content`."""
    return {found.decode() for found in CANARY.findall(content)}


def read_everything(root: str) -> dict:
    """Read every file and every name under `root`, and try every device."""
    seen = {"read": 0, "bytes": 0, "refused": 0, "devices": [], "sockets": []}
    found: set[str] = set()
    for folder, names in _walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found |= canaries(os.fsencode(path))
            try:
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    found |= canaries(os.fsencode(os.readlink(path)))
                elif stat.S_ISSOCK(mode):
                    seen["sockets"].append(path)
                elif stat.S_ISBLK(mode):
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    seen["devices"].append(path)
                elif stat.S_ISREG(mode):
                    marks, size = _read(path)
                    found |= marks
                    seen["read"] += 1
                    seen["bytes"] += size
            except OSError:
                seen["refused"] += 1
    return {**seen, "canaries": sorted(found)}


def read_processes(pids: list[str] | None = None) -> dict:
    """Read what processes tell of themselves, their open files, and their root if it is another.

    By default those of all that there are.
    """
    seen = {"read": [], "refused": [], "other_roots": []}
    found: set[str] = set()
    for base in (f"/proc/{pid}" for pid in pids or filter(str.isdigit, os.listdir("/proc"))):
        paths = [f"{base}/{name}" for name in ("cmdline", "environ", "maps", "mountinfo")]
        try:
            opened = [f"{base}/fd/{number}" for number in os.listdir(f"{base}/fd")]
            paths += filter(os.path.isfile, opened)
        except OSError:
            seen["refused"].append(f"{base}/fd")
        for path in paths:
            try:
                found |= _read(path)[0]
                seen["read"].append(path)
            except OSError as error:
                seen["refused"].append(f"{path}: {error}")
        try:
            if not os.path.samefile(f"{base}/root", "/"):
                seen["other_roots"].append(base)
                found |= set(read_everything(os.path.join(base, "root", ""))["canaries"])
        except OSError:
            seen["refused"].append(f"{base}/root")
    return {**seen, "canaries": sorted(found)}


def mounts() -> dict:
    """Tell what is mounted from outside, all files there, and whether the root can be written."""
    places, root = [], ""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            mount, _, rest = line.partition(" - ")
            place, options = mount.split()[4:6]
            if place == "/":
                root = options.split(",")[0]
            elif rest.split()[0] not in OF_A_CONTAINER:
                places.append(place)
    files = [os.path.join(folder, n) for p in places for folder, names in _walk(p) for n in names]
    files += [place for place in places if os.path.isfile(place)]
    return {"root": root, "places": sorted(places), "files": sorted(files)}


def writable_folders(root: str) -> list[str]:
    """Try to make a file in every folder under `root`; return where that worked."""
    writable = []
    for folder, _ in _walk(root):
        path = os.path.join(folder, "here-was-hostile-app")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:
            continue
        writable.append(folder)
        os.unlink(path)
    return writable


def who_am_i() -> dict:
    """Tell user, groups and capabilities, and what marks the environment holds."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    names = ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")
    environment = "\n".join(f"{name}={value}" for name, value in os.environ.items())
    return {
        "uid": os.getuid(),
        "groups": [os.getgid(), *os.getgroups()],
        "status": {name: int(status[name].strip(), 16) for name in names},
        "canaries": sorted(canaries(os.fsencode(environment))),
    }


def imports(names: list[str]) -> list[str]:
    """Return which of some modules can be imported."""
    found = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        found.append(name)
    return found


def _walk(root: str) -> Iterator[tuple[str, list[str]]]:
    for folder, folders, names in os.walk(root):
        if folder == root:
            folders[:] = [name for name in folders if name not in KERNEL]
        # A link to a folder is a name to look at, too.
        yield folder, [*names, *folders]


def _read(path: str) -> tuple[set[str], int]:
    """Return the marks in a file, and its size."""
    found: set[str] = set()
    size, tail = 0, b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            found |= canaries(tail + chunk)
            tail = chunk[-OVERLAP_BYTES:]
    return found, size
