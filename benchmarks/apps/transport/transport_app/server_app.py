"""One message to each node, one reply from each, round after round."""

import json
import time
from pathlib import Path

import bench_model
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()

TTL_S = 3600.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send and receive for some rounds, and write down when each ended."""
    config = context.run_config
    poll_s = float(config["poll-s"])
    values = bench_model.whole(float(config["megabytes"]))
    while len(nodes := list(grid.get_node_ids())) < int(config["institutions"]):
        time.sleep(poll_s)
    ends: list[float] = []
    for number in range(int(config["rounds"])):
        waiting: set[str] = set()
        for index, node in enumerate(nodes):
            bench_model.stamp(values, number, index)
            arrays = ArrayRecord({name: Array(value) for name, value in values.items()})
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"round": number})})
            message = Message(content, node, MessageType.TRAIN, ttl=TTL_S)
            waiting |= set(grid.push_messages([message]))
            del arrays, content, message
        receive(grid, waiting, poll_s)
        ends.append(time.time())
    outcome = {"ends": ends, "replies": [len(nodes)] * len(ends), "fit_seconds": []}
    Path(str(config["outcome"])).write_text(json.dumps(outcome), encoding="utf-8")


def receive(grid: Grid, waiting: set[str], poll_s: float) -> None:
    """Pull the replies one at a time, pausing only when there was none."""
    while waiting:
        came = [name for name in waiting if pull(grid, name)]
        waiting -= set(came)
        if not came:
            time.sleep(poll_s)


def pull(grid: Grid, message_id: str) -> bool:
    """Look for the reply to a message, and let go of it."""
    for reply in grid.pull_messages([message_id]):
        if reply.has_error():
            raise RuntimeError(f"a node failed: {reply.error.reason}")
        return True
    return False
