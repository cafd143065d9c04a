"""Take runs from the SuperLink and start a server app for each: ``flower-superexec``'s work.

``ipfl executor`` becomes this program. Flower's own gives up, and with it the server app, at the
first error that a busy SuperLink answers with: while its SQLite deletes a large model that was
delivered, say. This one asks again, for as long as `FAILING_S_MAX`. It starts server apps alone.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType

from ipfl_flower import logs
from ipfl_flower.cli.flower import SCRIPTS
from ipfl_flower.door.executor import runtime_client

FAILING_S_MAX = 300.0
POLL_S = 0.5
LINE_MAX = 64 * 1024

logger = logging.getLogger("ipfl.executor")


def acquired(
    ask: Callable[[], AcquireTaskResponse],
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> AcquireTaskResponse:
    """Ask the SuperLink for something to run, and again while it fails within.

    Raises
    ------
    httpx.HTTPStatusError
        If it refuses, or has failed for `FAILING_S_MAX` seconds.
    """
    end = monotonic() + FAILING_S_MAX
    while True:
        try:
            return ask()
        except httpx.HTTPStatusError as error:
            if not error.response.is_server_error or monotonic() > end:
                raise
            logger.warning("the SuperLink failed (%s): asked again", error.response.status_code)
            sleep(POLL_S)


def serve(runtime: str, ca: Path | None, secret: Path) -> None:
    """Start a server app for every run that the SuperLink has, for ever.

    Parameters
    ----------
    runtime : str
        ``host:port`` of the SuperLink's Runtime API.
    ca : Path or None
        Who signed its certificate; None: it has no TLS.
    secret : Path
        The SuperExec secret that the SuperLink was started with.
    """
    client = runtime_client(runtime, secret, ca)
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    tls = ["--insecure"] if ca is None else ["--root-certificates", str(ca)]
    running: list[subprocess.Popen[bytes]] = []
    while True:
        answer = acquired(lambda: client.AcquireTask(request))
        if answer.HasField("task") and answer.token:
            command = [
                *(str(SCRIPTS / "flwr-serverapp"), "--runtime-api-address", runtime, *tls),
                *("--token", answer.token, "--parent-pid", str(os.getpid())),
            ]
            running.append(_start(command))
            logger.warning("a server app was started: process %d", running[-1].pid)
        running = still_running(running)
        time.sleep(POLL_S)


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start a server app. Its output is the run's log, which Flower keeps; JSON is ours, too."""
    if not logs.is_json():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    threading.Thread(target=_hand_on, args=(process.stdout,), daemon=True).start()
    return process


def _hand_on(output: IO[bytes]) -> None:
    with output:
        while line := output.readline(LINE_MAX):
            # Where our own output has no reader, the server app must still not wait for one.
            with suppress(OSError):
                logs.write(line.decode(errors="replace").rstrip("\n"))


def still_running(
    processes: Sequence["subprocess.Popen[bytes]"],
) -> list["subprocess.Popen[bytes]"]:
    """Let go of server apps that have ended, and say of which that was no good end."""
    for process in processes:
        if process.poll():
            logger.error("the server app of process %d ended with %d", process.pid, process.poll())
    return [process for process in processes if process.poll() is None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the SuperLink that the command line names, until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", required=True, metavar="HOST:PORT")
    parser.add_argument("--root-certificates", type=Path, metavar="FILE")
    parser.add_argument("--secret", required=True, type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    # Server apps watch this process, and end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        logs.configure("ipfl: %(message)s")
        serve(options.runtime, options.root_certificates, options.secret)
    except (OSError, ValueError, httpx.HTTPStatusError) as error:
        logs.fail(f"ipfl: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
