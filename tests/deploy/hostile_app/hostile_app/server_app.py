"""Has one round trained, so that there is something to find, then sends the hunter."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from ipfl_flower.protocol import Reply, Request

app = ServerApp()

TTL_S = 600.0
POLL_S = 0.2


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send two messages to the one institution and write down what came back."""
    config = context.run_config
    with np.load(str(config["initial-model"])) as stored:
        theta0 = {name: stored[name] for name in stored.files}
    request = Request(
        round=0, train=True, role="initial", arrays=theta0, coefficient=0.0, start="own"
    )
    reply = Reply.from_message(_ask(grid, MessageType.TRAIN, request.to_records()), round_number=0)
    question = RecordDict({"config": ConfigRecord({"what": "everything"})})
    report = _ask(grid, MessageType.QUERY, question).content["config"]["report"]
    outcome = {
        "arrays": {name: array.tolist() for name, array in reply.arrays.items()},
        "metrics": reply.metrics,
        "report": json.loads(str(report)),
    }
    ready = Path(f"{config['outcome']}.part")
    ready.write_text(json.dumps(outcome, indent=1), encoding="utf-8")
    ready.rename(str(config["outcome"]))


def _ask(grid: Grid, kind: str, content: RecordDict) -> Message:
    """Wait for the institution, ask it, and return its answer."""
    end = time.monotonic() + TTL_S
    while not (nodes := list(grid.get_node_ids())):
        _pause(end, "no SuperNode has come")
    [asked] = grid.push_messages([Message(content, nodes[0], kind, ttl=TTL_S)])
    while not (replies := list(grid.pull_messages([asked]))):
        _pause(end, f"no reply to {kind}")
    if replies[0].has_error():
        raise RuntimeError(f"{kind} failed: {replies[0].error.reason}")
    return replies[0]


def _pause(end: float, what: str) -> None:
    if time.monotonic() > end:
        raise RuntimeError(f"{what} within {TTL_S:g} s")
    time.sleep(POLL_S)
