"""Real containers for tests: the images of this tree, networks and containers that go away."""

import ipaddress
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TAG = "test"
BUILD_DEADLINE_S = 1200.0
COMMAND_DEADLINE_S = 120.0


def engine_missing() -> str | None:
    """Return None where a Docker engine answers, or why the tests that need one are skipped."""
    try:
        docker("info")
    except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine answers here, start one: {' '.join(str(error).split())[:200]}"
    return None


def docker(*arguments: str | Path) -> str:
    """Run a command of Docker's to its end and return what it printed."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_DEADLINE_S,
    )
    assert done.returncode == 0, f"docker {arguments[0]}: {done.stderr}"
    return done.stdout.strip()


def build(image: str) -> str:
    """Build an image of this tree, as `make images` does, and return its id."""
    done = subprocess.run(
        ["make", f"image-{image}", f"TAG={TAG}", "TORCH=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_DEADLINE_S,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return docker("image", "inspect", "--format", "{{.Id}}", f"ipfl-{image}:{TAG}")


@contextmanager
def network() -> Iterator[tuple[str, str]]:
    """Make a bridge network; give its name, and this machine's address on it."""
    name = f"ipfl-test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", name)
    try:
        [found] = json.loads(docker("network", "inspect", name))
        gateways = [config["Gateway"].partition("/")[0] for config in found["IPAM"]["Config"]]
        [host] = [host for host in gateways if ipaddress.ip_address(host).version == 4]
        yield name, host
    finally:
        docker("network", "rm", name)


@contextmanager
def container(image: str, options: Sequence[str], arguments: Sequence[str]) -> Iterator[str]:
    """Run a container in the background until the block ends; give its name."""
    name = f"ipfl-test-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, *options, image, *arguments)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def logs(name: str, lines: str = "60") -> str:
    """Return the last lines that a container printed, or ``all``, on either stream."""
    done = subprocess.run(
        ["docker", "logs", "--tail", lines, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=COMMAND_DEADLINE_S,
    )
    return done.stdout


def give_to_container(folder: Path, user: int) -> list[str]:
    """Let a container read private files in `folder`; return the options that it needs for it.

    The image's own user gets them where we may give files away; elsewhere the container runs as
    the user that has them: us.
    """
    if os.geteuid() != 0:
        return ["--user", f"{os.geteuid()}:{os.getegid()}"]
    for path in (folder, *folder.iterdir()):
        os.chown(path, user, user)
    return []
