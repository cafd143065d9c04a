"""Answer one message at an institution, by an app bundle that it allows and by no other.

`ipfl_flower.door.executor` runs this file in a process of its own for every message, in place of
``flwr-clientapp``, and does the same by Flower's own functions. Between the bundle's arrival and
the first use of anything in it stands the check: the SHA-256 of the bytes that came, whatever the
operator says that it is. What isn't allowed is not even unpacked.

It imports nothing of ipfl_flower: the bundle brings a copy of its own, which is the one to run.
"""

import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, Error, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

logger = logging.getLogger("ipfl.door")


class Outcome(NamedTuple):
    """A reply, and how its task ended, in Flower's words."""

    reply: Message
    sub_status: str
    details: str


class RefusedError(Exception):
    """The institution doesn't allow the bundle with this SHA-256."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        super().__init__(self.line("DIR"))

    def line(self, folder: str) -> str:
        """Return what happened, and what to do in the institution's `folder`."""
        return (
            f"refused: app bundle {self.sha256} is not allowed at this institution, and was not "
            f"unpacked; if the institution knows and trusts it: ipfl allow {folder} {self.sha256}"
        )


def check_bundle(content: bytes, allowed: Collection[str]) -> None:
    """Raise `RefusedError` unless `content` is an allowed bundle."""
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 not in allowed:
        raise RefusedError(sha256)


def answer(
    message: Message, context: Context, run: Run, fab: Fab, allowed: Collection[str], folder: str
) -> Outcome:
    """Check the bundle and let it answer; a refusal and an exception are error replies."""
    try:
        check_bundle(fab.content, allowed)
        with _fresh_folder() as scratch:
            app_folder = install_from_fab(fab.content, scratch, skip_prompt=True)
            # The folder is named outright: what the run says of itself chooses no path.
            load = get_load_client_app_fn("", app_path=str(app_folder), multi_app=True)
            client_app = load(run.fab_id, run.fab_version, fab.hash_str)
            return Outcome(client_app(message=message, context=context), SubStatus.COMPLETED, "")
    except RefusedError as refused:
        logger.warning(refused.line(folder))
        code, reason = ErrorCode.INVALID_FAB, str(refused)
    except LoadClientAppError:
        logger.exception("the client app can't be loaded")
        code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
        reason = "An exception was raised when attempting to load `ClientApp`"
    except Exception as error:
        logger.exception("the client app raised an exception")
        code, reason = ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"
    return Outcome(Message(Error(code, reason), reply_to=message), SubStatus.FAILED, reason)


@contextmanager
def _fresh_folder() -> Iterator[Path]:
    """Give a folder that nobody has unpacked anything into, and that goes with the SuperNode."""
    home = get_flwr_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="app-", dir=home) as folder:
        yield Path(folder)


def main() -> None:
    """Answer the task that standard input describes; without one, there is nothing to do."""
    text = sys.stdin.read()
    if not text:
        return  # the executor has ended
    task = json.loads(text)
    if logging.lastResort is not None:
        # Until the client app has set up its logging; from then on, ours is its, too.
        logging.lastResort.setFormatter(logging.Formatter("ipfl: %(message)s"))
    start_parent_process_monitor(task["parent"])
    retries = make_simple_http_retry_invoker()
    client = RuntimeHttpClient.from_server_address(
        task["runtime"],
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(task["token"]),
        ],
        retry_invoker=retries,
    )
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    message, context, run, fab = pull_task_input(client)
    outcome = answer(message, context, run, fab, task["allowed"], task["folder"])
    push_message(client, outcome.reply, context)
    retries.max_tries = 1
    push_task_output(client, context, outcome.sub_status, outcome.details)
    heartbeat.stop()
    client.close()


if __name__ == "__main__":
    main()
