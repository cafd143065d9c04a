"""Take tasks from an institution's SuperNode, and run one client app after the other.

``python -m ipfl_flower.door.executor``, as `ipfl supernode` starts it, does ``flower-superexec``'s
work. It asks for client apps alone: agents and other kinds of code, which an operator can also
ask a SuperNode for, are never taken.
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import disable_process_dumping

from ipfl_flower import logs
from ipfl_flower.door.allowed import AllowedError, read_allowed

# Run as a file: it must not have this package loaded, since a bundle brings a copy of its own.
CLIENT_APP = Path(__file__).with_name("clientapp.py")
# Of the environment, what a client app gets: where things are, the language, and how libraries run.
CLIENT_NAMES = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "NO_PROXY", "no_proxy"}
CLIENT_PREFIXES = ("LC_", "PYTHON", "FLWR_", "GRPC_", "IPFL_LOG_", "MALLOC_", "OMP_")
POLL_S = 0.2
START_S = 60.0
# From its reply until a client app has ended.
END_S = 10.0

logger = logging.getLogger("ipfl.door")


def serve(runtime: str, secret: Path, folder: Path) -> None:
    """Run what the SuperNode has to run, for ever.

    Parameters
    ----------
    runtime : str
        ``host:port`` of the SuperNode's Runtime API.
    secret : Path
        The SuperExec secret that the SuperNode was started with.
    folder : Path
        The institution's: its file ``allowed`` is read anew for every message.
    """
    client = runtime_client(runtime, secret)
    _wait_for(runtime)
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    apps = ClientApps(runtime, folder)
    while True:
        answer = client.AcquireTask(request)
        if answer.HasField("task") and answer.token:
            apps.answer(answer.token)
        apps.tend()
        time.sleep(POLL_S)


class ClientApps:
    """One client app at a time, a process a message, and the next one ready before its message.

    A client app takes seconds of a processor to load Flower, more than a small model takes to
    travel. So one that has loaded it, and nothing of a bundle, waits for a task whenever none runs.

    Parameters
    ----------
    runtime : str
        ``host:port`` of the SuperNode's Runtime API.
    folder : Path
        The institution's.
    """

    def __init__(self, runtime: str, folder: Path) -> None:
        self._runtime = runtime
        self._folder = folder
        self._running: subprocess.Popen[bytes] | None = None
        self._ready: subprocess.Popen[bytes] | None = _started()

    def answer(self, token: str) -> None:
        """Give the task that `token` opens to the client app that is ready."""
        end_former(self._running)
        ready, self._ready = self._ready, None
        if ready is None or ready.poll() is not None:
            ready = _started()
        self._running = ready
        try:
            allowed = sorted(read_allowed(self._folder))
        except AllowedError as error:
            logger.warning("%s; no app bundle runs until then", error)
            allowed = []
        task = {
            "runtime": self._runtime,
            "token": token,
            "parent": os.getpid(),
            "allowed": allowed,
            "folder": str(self._folder),
        }
        # Through a pipe: a command line is everybody's to read, and the token is not.
        with suppress(BrokenPipeError), cast("IO[bytes]", ready.stdin) as pipe:
            pipe.write(json.dumps(task).encode())

    def tend(self) -> None:
        """Note the end of the client app that ran, and have the next one get ready.

        Raises
        ------
        RuntimeError
            If it ended by itself: so would the next.
        """
        if self._running is not None and self._running.poll() is not None:
            end_former(self._running)
            self._running = None
        code = None if self._ready is None else self._ready.poll()
        if code is not None and code >= 0:  # below: a signal killed it
            raise RuntimeError(f"{CLIENT_APP} ended before any message, with exit code {code}")
        if self._running is None and (self._ready is None or code is not None):
            self._ready = _started()


def _started() -> "subprocess.Popen[bytes]":
    # -P: only what is installed can be imported before the bundle has been checked.
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", CLIENT_APP],
        stdin=subprocess.PIPE,
        env=client_environment(os.environ),
    )


def runtime_client(runtime: str, secret: Path, ca: Path | None = None) -> RuntimeHttpClient:
    """Return a client of a Runtime API that shows the SuperExec secret; `ca` None: without TLS."""
    return RuntimeHttpClient.from_server_address(
        runtime,
        insecure=ca is None,
        root_certificates=None if ca is None else ca.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=load_superexec_auth_secret(str(secret)) or b"",
                protected_methods={"/flwr.proto.Runtime/AcquireTask"},
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _wait_for(runtime: str) -> None:
    host, _, port = runtime.rpartition(":")
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise TimeoutError(f"the SuperNode did not listen on {runtime} within {START_S:g} s")


def end_former(process: "subprocess.Popen[bytes] | None") -> None:
    """See that a client app has ended before the next one begins.

    A SuperNode hands out a message when the one before was answered, or when it gave that one up:
    the run was stopped while the message came. Its client app would wait two hours for the rest.
    """
    if process is None:
        return
    try:
        code = process.wait(END_S)
    except subprocess.TimeoutExpired:
        logger.warning("the message before was given up by the SuperNode: its client app is ended")
        process.kill()
        process.wait()
        return
    if code != 0:
        logger.error("the client app's process ended with exit code %d", code)


def client_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what a client app sees of our environment: a password in the rest isn't its business.

    It runs as the same user, though: this hides, and locks nothing.
    """
    return {
        name: value
        for name, value in ours.items()
        if name in CLIENT_NAMES or name.startswith(CLIENT_PREFIXES)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the SuperNode that the command line names, until the parent process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", required=True, metavar="HOST:PORT")
    parser.add_argument("--secret", required=True, type=Path, metavar="FILE")
    parser.add_argument("--folder", required=True, type=Path, metavar="DIR")
    parser.add_argument("--parent", required=True, type=int, metavar="PID")
    options = parser.parse_args(arguments)
    logs.configure("ipfl: %(message)s")
    disable_process_dumping(strict=False)
    start_parent_process_monitor(options.parent)
    serve(options.runtime, options.secret, options.folder)


if __name__ == "__main__":
    main()
